"""The disk guard and the room that the next checkpoints need."""

import sqlite3
from contextlib import closing
from pathlib import Path

from chromad.chroma import sqlite
from chromad.config import Config
from chromad.daemon.guard import Guard
from chromad.store import fence


def test_writes_are_fenced_where_the_next_checkpoint_has_no_room(tmp_path: Path) -> None:
    """However little of the disk is used by percent."""
    data, checkpoints = tmp_path / "data", tmp_path / "checkpoints"
    for path in (data, checkpoints):
        path.mkdir()
    with closing(sqlite3.connect(data / sqlite.FILE)) as database, database:
        database.execute("CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY, operation, topic)")
    percent = {"warn_percent": 98, "release_percent": 99, "fence_percent": 100}
    guard = Guard(Config.model_validate({"data_dir": str(data), "checkpoint_dir": str(checkpoints), "disk": percent}))
    assert guard.look(0) == "ok"
    assert guard.look(1 << 60) == "fence"
    assert "the next checkpoint needs" in fence.read(data)[fence.DISK]
    assert guard.look(0) == "ok"
    assert fence.read(data) == {}
