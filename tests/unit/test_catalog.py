"""Which backups count, and which host's; names of times."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from chromad.backup import catalog, workspace
from chromad.backup.repository import Repository, Snapshot
from chromad.errors import BackupError

HERE = workspace.host()


def snapshot(number: int, host: str = HERE, tag: str = workspace.PROVEN) -> Snapshot:
    return Snapshot(f"{number:08x}", f"2026-01-{number:02}T00:00:00+00:00", host, "/b", frozenset({"chromad", tag}), {})


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository("/srv/restic", b"key", cache_dir=tmp_path)


def chosen(repository: Repository, *found: Snapshot) -> list[str]:
    return [each.id for each in catalog.of_one_host(repository, list(found))]


def test_only_proven_ones_count(repository: Repository) -> None:
    assert chosen(repository, snapshot(1), snapshot(2, tag=workspace.UNPROVEN), snapshot(3)) == ["00000001", "00000003"]


def test_those_of_this_host_come_first(repository: Repository) -> None:
    assert chosen(repository, snapshot(1, "other"), snapshot(2), snapshot(3, "third")) == ["00000002"]


def test_those_of_the_only_other_host(repository: Repository) -> None:
    assert chosen(repository, snapshot(1, "other"), snapshot(2, "other")) == ["00000001", "00000002"]


def test_unproven_ones_of_this_host_do_not_hide_another_host(repository: Repository) -> None:
    assert chosen(repository, snapshot(1, "other"), snapshot(2, tag=workspace.UNPROVEN)) == ["00000001"]


def test_several_other_hosts_are_named(repository: Repository) -> None:
    with pytest.raises(BackupError, match=f"has backups of one, two, none of {HERE}") as caught:
        chosen(repository, snapshot(1, "two"), snapshot(2, "one"))
    assert "by its id" in caught.value.hint


@pytest.mark.parametrize("found", [[], [snapshot(1, tag=workspace.UNPROVEN)]])
def test_no_proven_one(repository: Repository, found: list[Snapshot]) -> None:
    with pytest.raises(BackupError, match="no proven backup in /srv/restic") as caught:
        chosen(repository, *found)
    assert caught.value.hint == "take one: chromactl backup"


@pytest.mark.parametrize(
    "text", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05", "2026-01-02T04:04:05+01:00", "2026-01-02 03:04:05"]
)
def test_time(text: str) -> None:
    assert catalog.time_of(text) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_facts_that_are_no_numbers() -> None:
    def number(text: str) -> int | None:
        return Snapshot("a", "2026-01-01T00:00:00+00:00", HERE, "/b", frozenset(), {"records": text}).number("records")

    assert (number("12"), number("-1"), number("x"), number("9" * 5000)) == (12, None, None, None)
