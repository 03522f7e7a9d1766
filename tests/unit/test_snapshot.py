"""A new base: what it takes from the database, and what it does not."""

from pathlib import Path

import pytest
from chromad import versions
from chromad.backup import snapshot
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.daemon.checkpointer import Checkpointer
from chromad.store import fence, hold, state
from chromad.store.checkpoint import Store

from tests.segments import engine


class Host:
    """A data directory of chromad's with a checkpoint of each segment."""

    def __init__(self, data: Path) -> None:
        self.config = Config.model_validate({"data_dir": str(data)})
        self.store = Store(data, self.config.checkpoint_dir, "history")
        self.store.prepare()
        self.config.backup_dir.mkdir()
        state.write(data, state.unclean("history", versions.engine()))
        self._checkpointer = Checkpointer(self.config, self.store, "history")
        self.checkpoint()

    def checkpoint(self) -> None:
        """Takes those that are due, and purges the log."""
        self._checkpointer.cycle(lambda *_: None)


@pytest.fixture
def host(two: Path) -> Host:
    return Host(two)


def base(host: Host, progress: snapshot.Progress = lambda *_: None) -> snapshot.PreparedBackup:
    """Takes one."""
    return snapshot.take(host.config, full=True, checkpoint=lambda _: None, progress=progress)


def test_neither_hold_nor_fences_are_in_it(host: Host) -> None:
    """Whoever restores it writes to it."""
    with sqlite.connect(host.config.data_dir) as connection:
        hold.put(connection, "an upgrade")
    fence.put(host.config.data_dir, fence.OPERATOR, "a move")
    copy = base(host).directory
    triggers = (
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN ('embeddings_queue', 'collections')"
    )
    with sqlite.connect(copy) as connection:
        names = [name for (name,) in connection.execute(triggers)]
    assert not [name for name in names if "hold" in name or "fence" in name]
    with sqlite.connect(host.config.data_dir) as connection:
        held = [name for (name,) in connection.execute(triggers)]
    assert len([name for name in held if "hold" in name or "fence" in name]) == 5, "they stay where they are"


def test_begins_again_when_a_checkpoint_is_renewed_meanwhile(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """What the links before stand for may be purged from the log that is copied after."""
    data = host.config.data_dir
    renewed: list[int] = []

    def progress(phase: str, done: int, _total: int) -> None:
        if phase == "segments" and done == 1 and not renewed:
            for name in ("stays", "goes"):
                engine.run(engine.add, data, name, [f"more-{number}" for number in range(30)])
            host.checkpoint()
            renewed.append(done)

    caplog.set_level("INFO")
    taken = base(host, progress)
    assert renewed
    assert "was renewed meanwhile; once more" in caplog.text
    newest = {uuid: found.seq_id for uuid in sqlite.segments(data) if (found := host.store.latest(uuid))}
    assert len(newest) == 2
    assert {entry.segment: entry.seq_id for entry in taken.manifest.collections} == newest
    assert [entry.records for entry in taken.manifest.collections] == [60, 60]
