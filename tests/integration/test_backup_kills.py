"""Backups, drills and restores that are killed at random moments do no harm; `tests.crash.backups` does it at length."""

from tests.crash import backups


def test_killed_at_random_moments() -> None:
    # More than one of each: where the load changes, some of them are over before they are struck.
    summary = backups.run(rounds=2, seed=4, compare_each=False)
    assert not summary.losses
    assert summary.killed
