"""Which backup leads back to a second, which log is missing then, and whose it is."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from chromad.backup import manifest, timetravel
from chromad.backup.repository import Repository, Snapshot
from chromad.backup.timetravel import Target
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.errors import BackupError, UsageProblem
from chromad.store import archive, state
from hypothesis import given
from hypothesis import strategies as st

from tests.segments import engine
from tests.unit.test_manifest import GOOD


def at(hour: int) -> datetime:
    return datetime(2026, 1, 1, hour, tzinfo=UTC)


def snapshot(hour: int, base: int) -> Snapshot:
    facts = {"created": at(hour).isoformat(), "base": at(base).isoformat()}
    return Snapshot(f"at-{hour}", facts["created"], "host", "/b", frozenset(), facts)


# Two bases with a second backup each
TWO, FOUR, SIX, EIGHT = ALL = [snapshot(2, 2), snapshot(4, 2), snapshot(6, 6), snapshot(8, 6)]


@pytest.mark.parametrize(
    ("hour", "target"),
    [
        (3, Target(at(3), FOUR)),
        (5, Target(at(5), FOUR, joined=SIX)),
        (7, Target(at(7), EIGHT)),
        (9, Target(at(9), EIGHT, live=True)),
    ],
)
def test_between_two(hour: int, target: Target) -> None:
    assert timetravel.choose(ALL, at(hour)) == target


def test_second_of_a_backup() -> None:
    """More may have been written later in that second, so the log goes on in the next one."""
    assert timetravel.choose(ALL, at(2)) == Target(at(2), FOUR)
    assert timetravel.choose(ALL, at(4)) == Target(at(4), FOUR, joined=SIX)
    assert timetravel.choose(ALL, at(8)) == Target(at(8), EIGHT, live=True)


def test_only_the_first_of_a_base_is_left() -> None:
    assert timetravel.choose([TWO, SIX], at(5)) == Target(at(5), TWO, joined=SIX)


def test_first_of_a_base_is_forgotten() -> None:
    assert timetravel.choose([FOUR], at(3)) == Target(at(3), FOUR)


def test_before_the_oldest() -> None:
    with pytest.raises(BackupError, match=r"reaches back to 2026-01-01T01:00:00Z; the oldest .* 2026-01-01T02:00:00"):
        timetravel.choose(ALL, at(1))


def test_no_backup() -> None:
    with pytest.raises(BackupError, match="no backup reaches back"):
        timetravel.choose([], at(1))


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=8), st.integers(0, 23))
def test_any_history(steps: list[tuple[int, bool]], hour: int) -> None:
    """The chosen base is not younger than the time, and the log reaches to it."""
    history: list[Snapshot] = []
    base = 0
    for created, new in sorted(steps):
        base = created if new or not history else base
        history.append(snapshot(created, base))
    try:
        found = timetravel.choose(history, at(hour))
    except BackupError:
        assert all(datetime.fromisoformat(each.facts["base"]) > at(hour) for each in history)
        return
    assert datetime.fromisoformat(found.snapshot.facts["base"]) <= at(hour)
    end = found.joined or found.snapshot
    assert found.live or datetime.fromisoformat(end.time) > at(hour)
    assert not (found.live and found.joined)


@pytest.mark.parametrize(
    "text", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05", "2026-01-02T04:04:05+01:00", "2026-01-01T22:04:05-05:00"]
)
def test_time(text: str) -> None:
    assert timetravel.parse(text) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "1", "2026-13-01", "2026-01-01T25:00:00Z", "latest", "0001-01-01T00:00:00+14:00"]
)
def test_not_a_time(text: str) -> None:
    with pytest.raises(UsageProblem, match="is not a time") as caught:
        timetravel.parse(text)
    assert "2026-01-02T03:04:05Z" in caught.value.hint


def test_time_to_come() -> None:
    later = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    with pytest.raises(UsageProblem, match="has yet to come"):
        timetravel.parse(later)


@given(st.text(max_size=30))
def test_any_text(text: str) -> None:
    try:
        assert timetravel.parse(text).tzinfo
    except UsageProblem as error:
        assert error.hint


@pytest.mark.parametrize("here", ["", GOOD.data_id, "another"])
def test_live_log_is_joined_where_it_is_that_of_the_backup(two: Path, tmp_path: Path, here: str) -> None:
    """After a restore the data have another history, whose seq ids say something else."""
    path = tmp_path / archive.FILE
    with sqlite.connect(two) as connection:
        archive.create(path, connection, at(2).isoformat())
    if here:
        state.write(two, state.unclean(here, "1.5.9"))
    engine.run(engine.add, two, "stays", ["later"])
    notes = timetravel._join_live(Config.model_validate({"data_dir": str(two)}), path, replace(GOOD, created="x"))
    if here == GOOD.data_id:
        assert notes == []
        assert archive.rows(path) == 1
    else:
        assert [note.endswith(f"{two} does not hold the data that were backed up") for note in notes] == [True]
        assert archive.rows(path) == 0


class _Stored(Repository):
    """One in which files are plain."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def fetch_file(self, snapshot: Snapshot, name: str, target: Path, tick: Callable[[], None]) -> None:
        shutil.copy(self._directory / name, target)


@pytest.mark.parametrize(("continues", "joined"), [(None, False), (0, True), (60, True), (61, False)])
def test_next_base_is_joined_where_its_log_goes_on(
    two: Path, tmp_path: Path, continues: int | None, joined: bool
) -> None:
    """A base before which there was no good backup, or a later one, may lack what was purged."""
    directory, stored = tmp_path / "restored", tmp_path / "stored"
    for path, hour in ((directory, 2), (stored, 6)):
        path.mkdir()
        with sqlite.connect(two) as connection:
            archive.create(path / archive.FILE, connection, at(hour).isoformat())
        engine.run(engine.add, two, "stays", [f"after-{hour}"])
    assert archive.last_seq_id(directory / archive.FILE) == 60
    shutil.copy(two / sqlite.FILE, stored)
    files = [manifest.hash_file(stored / name, lambda _: None) for name in (sqlite.FILE, archive.FILE)]
    after = replace(GOOD, base_created=at(6).isoformat(), continues=continues, collections=[], files=files)
    (stored / manifest.FILE).write_text(after.to_json(), encoding="utf-8")
    if joined:
        timetravel._join(_Stored(stored), directory, GOOD, SIX, lambda: None)
    else:
        with pytest.raises(archive.Broken, match="part of the log was purged"):
            timetravel._join(_Stored(stored), directory, GOOD, SIX, lambda: None)
    assert archive.rows(directory / archive.FILE) == (2 if joined else 0)
