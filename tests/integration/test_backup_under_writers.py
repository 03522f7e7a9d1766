"""Backups while clients write: each holds all that was acknowledged before it began, and nothing torn."""

from dataclasses import dataclass

from tests.integration.account import until
from tests.integration.site import Site
from tests.integration.writers import Seen, Writers

ROUNDS = 3


@dataclass(frozen=True)
class Taken:
    id: str
    since: Seen


def take(site: Site, writers: Writers) -> Taken:
    """Takes a backup after the clients have written some more."""
    goal = writers.written() + 100
    until(lambda: writers.written() > goal, "writes")
    since = writers.acknowledged()
    return Taken(site.backup()["id"], since)


def test_every_backup_can_be_restored(site: Site) -> None:
    daemon = site.serve()
    writers = Writers(daemon, {"never": 100_000, "often": 15, "sometimes": 150, "default": 1000}, each=1)
    writers.start()
    taken = [take(site, writers) for _ in range(ROUNDS)]
    writers.stop()
    daemon.stop()
    for backup in taken:
        assert site.chromactl("restore", backup.id).code == 0
        daemon = site.serve()
        assert "left cold" not in daemon.log
        writers.assert_kept(daemon, backup.since)
        daemon.stop()
