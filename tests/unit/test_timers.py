"""What doctor says of the timers of backups and drills."""

import pytest
from chromad.checks import backups


@pytest.mark.parametrize(
    ("active", "enabled", "status"),
    [
        ("active", "enabled", "ok"),
        # It goes on until the next boot, or begins with that.
        ("active", "disabled", "warn"),
        ("inactive", "enabled", "warn"),
        ("failed", "disabled", "warn"),
    ],
)
def test_timer_goes_on_now_and_after_the_next_boot(
    active: str, enabled: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"ActiveState": active, "UnitFileState": enabled}
    monkeypatch.setattr(backups, "unit_properties", lambda *_: told)
    found = list(backups._timers())
    assert [each.status for each in found] == [status] * 2
    assert all(each.hint.startswith("systemctl enable --now chromadb-") for each in found if status == "warn")


def test_host_without_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "unit_properties", lambda *_: {})
    assert list(backups._timers()) == []
