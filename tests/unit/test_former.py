"""Which backup the next one is compared with."""

from pathlib import Path

import pytest
from chromad.backup import former, workspace
from chromad.backup.former import Former
from chromad.backup.repository import Repository, Snapshot
from chromad.config import Config


def snapshot(day: int, records: int, tag: str = workspace.PROVEN, host: str = "here") -> Snapshot:
    facts = {"collections": "1", "records": str(records)}
    time = f"2026-01-{day:02}T00:00:00+00:00"
    return Snapshot(f"{day:08x}", time, host, "/b", frozenset({"chromad", tag}), facts)


class _Held(Repository):
    """A repository that holds these."""

    def __init__(self, *found: Snapshot) -> None:
        self._found = list(found)

    def snapshots(self) -> list[Snapshot]:
        return self._found


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of a host that knows of no backup."""
    found = Config.model_validate({"data_dir": str(tmp_path / "data")})
    found.backup_dir.mkdir(parents=True)
    return found


def find(config: Config, *found: Snapshot) -> Former:
    return former.find(config, _Held(*found), "here", workspace.PROVEN)


def test_newest_good_one_of_this_host(config: Config) -> None:
    assert find(config, snapshot(1, 100), snapshot(2, 90)).records == 90


def test_unproven_ones_do_not_count(config: Config) -> None:
    """One that failed with few records must not let the good one before it go."""
    assert find(config, snapshot(1, 100), snapshot(2, 3, workspace.UNPROVEN)).records == 100


def test_those_of_other_hosts_do_not_count(config: Config) -> None:
    assert find(config, snapshot(1, 100), snapshot(2, 3, host="elsewhere")).records == 100


def test_none(config: Config) -> None:
    assert find(config, snapshot(1, 3, workspace.UNPROVEN)).created == ""
