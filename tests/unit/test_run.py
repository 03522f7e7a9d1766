"""What a backup notes in the ledger, and when: whoever is killed at any moment must not have let something go."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chromad.backup import ledger, readback, run, workspace
from chromad.backup.ledger import Ledger, Taken
from chromad.backup.repository import Added, Places, Repository
from chromad.backup.snapshot import PreparedBackup
from chromad.config import Config
from chromad.errors import BackupError
from chromad.store import state

from tests.unit.test_manifest import GOOD

BEFORE = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    found = Config.model_validate({"data_dir": str(tmp_path / "data")})
    found.data_dir.mkdir()
    found.backup_dir.mkdir(parents=True)
    return found


def test_log_of_another_history_is_covered_by_nothing(config: Config) -> None:
    """Seq ids of the former one say nothing of the rows that it has."""
    former = Ledger(data_id="former", last_seq_id=1000, last_good=BEFORE)
    ledger.write(config.backup_dir, former)
    state.write(config.data_dir, state.unclean("former", "1.5.9"))
    run._begin_history(config)
    assert ledger.read(config.backup_dir) == former
    state.write(config.data_dir, state.unclean("restored", "1.5.9"))
    run._begin_history(config)
    assert ledger.covers(config.backup_dir, "restored") == 0
    assert ledger.read(config.backup_dir).last_good == ""


@pytest.mark.parametrize("problem", [None, BackupError("a record is missing", "")])
def test_next_backup_builds_on_a_good_one_whatever_was_before(config: Config, problem: BackupError | None) -> None:
    """What was not proven has the next one begin anew, and that one alone: a base takes hours where there is much."""
    ledger.write(
        config.backup_dir, Ledger(data_id=GOOD.data_id, last_good=BEFORE, problem="a file is damaged", suspect=True)
    )
    stored = run.StoredBackup("aa", GOOD.created, "", 1, GOOD.records, 9, 5, 1.5, 0, copied=False, shrunk=None)
    run._enter(config, GOOD, stored, [], problem)
    known = ledger.read(config.backup_dir)
    assert known.suspect is (problem is not None)
    assert known.problem == (problem.message if problem else "")
    assert known.last_good == (BEFORE if problem else GOOD.created)
    assert [each.proven for each in known.taken] == [not problem]


class _Killed(BaseException):
    pass


class _Deadly(Repository):
    """A repository in which whoever stores something does not live on."""

    def __init__(self) -> None:
        pass

    def backup(self, directory: Path, host: str, tags: Iterable[str], progress: Callable[[int, int], None]) -> Added:
        raise _Killed


def test_former_backup_is_kept_before_one_with_far_less_is_stored(config: Config) -> None:
    """It is stored at some moment of that call: the next retention must know."""
    records = 10 * GOOD.records
    taken = [Taken("aa", BEFORE, proven=True, added=5, seconds=1.5, collections=1, records=records)]
    ledger.write(config.backup_dir, Ledger(data_id=GOOD.data_id, last_good=BEFORE, taken=taken))
    snapshot = PreparedBackup(config.backup_dir, GOOD, "")
    job = run._Job(config, _Deadly(), lambda *_: None, time.monotonic())
    with pytest.raises(_Killed):
        run._store(job, snapshot, {}, None)
    assert [(each.created, each.records) for each in ledger.read(config.backup_dir).kept] == [(BEFORE, records)]


@pytest.mark.parametrize(("free", "fits"), [(0, False), (100, False), (149, False), (150, True)])
def test_a_private_copy_stays_below_the_fence(
    config: Config, free: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1000 bytes 50 are above it: else each backup would have writes refused."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=1000, f_bavail=free, f_frsize=1))
    if fits:
        workspace.scratch_space(config, 100)
        return
    with pytest.raises(BackupError, match=r"stay below disk\.fence_percent"):
        workspace.scratch_space(config, 100)


def test_files_are_looked_at_before_they_are_proven(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes while they are proven is not what was proven."""
    taken = PreparedBackup(config.backup_dir / "current", GOOD, "")
    for entry in GOOD.files:
        path = taken.directory / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"before")
    before = readback.look(taken.directory, GOOD)
    assert before.keys() == {entry.path for entry in GOOD.files}
    stored: list[readback.Looks] = []

    def prove(*_: object) -> tuple[PreparedBackup, None]:
        for entry in GOOD.files:
            (taken.directory / entry.path).write_bytes(b"another")
        return taken, None

    def store(*words: Any) -> None:
        stored.append(words[2])
        raise BackupError("that is enough", "")

    monkeypatch.setattr("chromad.backup.snapshot.take", lambda *_, **__: taken)
    monkeypatch.setattr(run, "_prove", prove)
    monkeypatch.setattr(run, "_store", store)
    with pytest.raises(BackupError, match="that is enough"):
        run.run(config, Places(_Deadly()), full=False, accept_empty=False, progress=lambda *_: None)
    assert stored == [before]
