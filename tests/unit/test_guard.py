"""The disk guard and the room that the next checkpoints need."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.daemon.guard import Guard
from chromad.store import fence


def made(data: Path) -> Path:
    """A data directory with a log, which is all that a fence is about."""
    data.mkdir()
    with closing(sqlite3.connect(data / sqlite.FILE)) as database, database:
        database.execute("CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY, operation, topic)")
    return data


def test_writes_are_fenced_where_the_next_checkpoint_has_no_room(tmp_path: Path) -> None:
    """However little of the disk is used by percent."""
    data, checkpoints = made(tmp_path / "data"), tmp_path / "checkpoints"
    checkpoints.mkdir()
    percent = {"warn_percent": 98, "release_percent": 99, "fence_percent": 100}
    guard = Guard(Config.model_validate({"data_dir": str(data), "checkpoint_dir": str(checkpoints), "disk": percent}))
    assert guard.look(0) == "ok"
    assert guard.look(1 << 60) == "fence"
    assert "the next checkpoint needs" in fence.read(data)[fence.DISK]
    assert guard.look(0) == "ok"
    assert fence.read(data) == {}


@pytest.mark.parametrize(
    ("used", "stands", "level"),
    [(94, True, "fence"), (90, True, "fence"), (89, True, "warn"), (94, False, "warn"), (95, False, "fence")],
)
def test_fence_that_an_earlier_run_has_put_stands_until_the_disk_is_as_empty_as_it_asks(
    used: int, stands: bool, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made(tmp_path / "data")
    percent = {"warn_percent": 80, "release_percent": 90, "fence_percent": 95}
    guard = Guard(Config.model_validate({"data_dir": str(data), "disk": percent}))
    if stands:
        fence.put(data, fence.DISK, "an earlier run has found it full")
    status = SimpleNamespace(f_blocks=100, f_bfree=100 - used, f_bavail=100 - used, f_frsize=1 << 30, f_files=0)
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    assert guard.look(0) == level
    assert (fence.DISK in fence.read(data)) == (level == "fence")


def test_file_system_of_backups_is_that_of_the_repository_that_a_reload_names(tmp_path: Path) -> None:
    data = made(tmp_path / "data")
    (tmp_path / "there").mkdir()
    first, second = (
        Config.model_validate({"data_dir": str(data), "backup": {"repository": str(tmp_path / name)}})
        for name in ("nowhere", "there")
    )
    guard = Guard(first)
    guard.look(0)
    assert "backups" not in guard.places()
    guard.config = second
    guard.look(0)
    assert "backups" in guard.places()
