"""Phrases, control characters and forged lines in all that clients may write, at two log levels; `make fuzz` has more."""

from tests.integration.site import Site
from tests.soak.fuzz import UNDER_SYSTEMD, Fuzz


def test_nothing_that_clients_write_does_any_harm(site: Site) -> None:
    fuzz = Fuzz(site, seed=1)
    fuzz.run("debug", 200, verbs=("status", "backup", "backups show latest"))
    fuzz.run("error", 100, UNDER_SYSTEMD, verbs=())
    fuzz.run("info", 0, verbs=())
    assert not fuzz.findings, "\n".join(fuzz.findings[:20])
    # It was not all refused.
    assert fuzz.statuses[200] > 50
    assert fuzz.statuses[201] > 5
