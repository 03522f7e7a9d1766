"""What the daemon's threads do to each other, and what a stop makes of what they leave."""

import errno
import os
import sqlite3
import threading
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from chromad.chroma import segment, sqlite
from chromad.config import Config
from chromad.daemon.checkpointer import Checkpointer
from chromad.daemon.lifecycle import Daemon
from chromad.daemon.shutdown import Shutdown
from chromad.engine.process import Engine
from chromad.errors import EngineError
from chromad.store import fence, lock
from chromad.store.checkpoint import Store

from tests.integration.site import free_port


def test_lifted_fence_is_not_put_back_by_the_look_at_disks(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with sqlite3.connect(data / sqlite.FILE) as database:
        database.execute("CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY, operation, topic)")
    database.close()
    config = Config.model_validate({"data_dir": str(data)})
    daemon = Daemon(config, tmp_path / "chromad.yml")
    daemon._checkpoints = Store(data, config.checkpoint_dir, "")
    daemon._checkpointer = Checkpointer(config, daemon._checkpoints, "")
    daemon._status.state = "serving"
    verbs = daemon._verbs()
    ended = threading.Event()
    looks = 0

    def look() -> None:
        nonlocal looks
        while not ended.is_set():
            daemon._look_at_disks()
            looks += 1

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(100):
            verbs["fence"]({"reason": "a test"}, lambda *_: None)
            verbs["unfence"]({}, lambda *_: None)
            seen = looks
            while looks < seen + 2 and looker.is_alive():
                time.sleep(0.001)
            assert fence.OPERATOR not in fence.read(data)
            assert looker.is_alive()
    finally:
        ended.set()
        looker.join()


def test_all_that_go_by_the_configuration_get_the_one_of_a_reload(tmp_path: Path) -> None:
    """The guard, the page with its forecast, and the checkpointer."""
    path = tmp_path / "chromad.yml"
    config = Config.model_validate({"data_dir": str(tmp_path / "data"), "metrics": {"port": 0}})
    daemon = Daemon(config, path)
    daemon._checkpoints = Store(config.data_dir, config.checkpoint_dir, "")
    daemon._checkpointer = Checkpointer(config, daemon._checkpoints, "")
    path.write_text(
        f"data_dir: {config.data_dir}\nmetrics: {{port: 0}}\ndisk: {{fence_percent: 99, release_percent: 98}}\n"
        "checkpoint: {interval: 1m}\nbackup: {repository: /srv/others}\nwarm: {collections: none}\n"
    )
    daemon._apply_configuration()
    for each in (daemon._config, daemon._guard.config, daemon._telemetry.config, daemon._checkpointer.config):
        assert (each.disk.fence_percent, each.checkpoint.interval) == (99, 60)
        assert each.backup.repository == "/srv/others"
        assert each.warm == config.warm, "for which it has to start again"


def test_directory_stays_locked_after_a_failure_until_the_process_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of it may be in the middle of a checkpoint."""
    for name in ("data", "checkpoints", "run"):
        (tmp_path / name).mkdir(mode=0o750)
    config = Config.model_validate(
        {
            "data_dir": str(tmp_path / "data"),
            "control_socket": str(tmp_path / "run/chromad.sock"),
            "allow_root": True,
            "metrics": {"port": 0},
            "listen": {"port": free_port()},
        }
    )

    def fail(*_: object) -> None:
        raise EngineError("the engine has ended", "")

    monkeypatch.setattr(Daemon, "_start", fail)
    daemon = Daemon(config, tmp_path / "chromad.yml")
    with pytest.raises(EngineError, match="has ended"):
        daemon.run()
    assert lock.is_held(tmp_path / "data" / lock.DIRECTORY_LOCK)
    assert daemon._engine
    os.close(daemon._engine.lock_fd)


def test_wal_that_is_watched_is_the_one_that_is_written(tmp_path: Path) -> None:
    """The engine closes all its connections after half an hour without clients, and SQLite then removes the WAL."""
    data = tmp_path / "data"
    data.mkdir()
    config = Config.model_validate({"data_dir": str(data)})
    daemon = Daemon(config, tmp_path / "chromad.yml")
    daemon._checkpoints = Store(data, config.checkpoint_dir, "")
    daemon._checkpointer = Checkpointer(config, daemon._checkpoints, "")
    daemon._engine = Engine(config, -1)
    seen = []
    for _ in range(2):
        with closing(sqlite3.connect(data / sqlite.FILE)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS embeddings_queue (seq_id INTEGER PRIMARY KEY, operation, topic)"
            )
            database.execute("INSERT INTO embeddings_queue (topic) VALUES ('x')")
            database.commit()
            for _ in range(2):
                daemon._look_at_disks()
                watched = daemon._engine._witness._files
                seen.append(watched[f"{sqlite.FILE}-wal"])
                assert os.path.samestat(os.fstat(seen[-1]), os.stat(data / f"{sqlite.FILE}-wal"))
    # What was not seen of the one that is open yet is not lost.
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_torn_segment_is_noticed_where_the_last_checkpoints_cannot_be_taken(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"data_dir": str(two)})
    checkpoints = Store(two, config.checkpoint_dir, "history")
    checkpointer = Checkpointer(config, checkpoints, "history")

    def fail(*_: Any, **_words: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpointer, "cycle", fail)
    [torn] = (each for each in sqlite.collections(two) if each.name == "goes")
    path = two / torn.segment
    pickle = (path / segment.PICKLE).stat()
    os.utime(path / "data_level0.bin", ns=(pickle.st_atime_ns, pickle.st_mtime_ns + 1))
    assert [each.name for each in _shutdown(config, checkpoints, checkpointer).last_checkpoints()] == ["goes"]


def test_mark_leaves_out_what_could_have_no_checkpoint(two: Path) -> None:
    """Whatever its files look like: the next start looks at them."""
    config = Config.model_validate({"data_dir": str(two)})
    checkpoints = Store(two, config.checkpoint_dir, "history")
    checkpoints.prepare()
    stop = _shutdown(config, checkpoints, Checkpointer(config, checkpoints, "history"))
    collections = {each.name: each for each in sqlite.collections(two)}
    checkpoints.take(list(collections.values()), live=False, progress=lambda _: None)
    everything = {each.segment for each in collections.values()}
    assert stop.mark(set()).segments.keys() == everything
    checkpoints.left[collections["goes"].id] = "it could not be read"
    assert stop.mark(set()).segments.keys() == everything - {collections["goes"].segment}
    checkpoints.left.clear()
    assert stop.mark({collections["goes"].id}).segments.keys() == everything - {collections["goes"].segment}
    os.utime(two / collections["stays"].segment / "length.bin")
    assert stop.mark(set()).segments.keys() == everything - {collections["stays"].segment}


@pytest.mark.parametrize("still", [True, False])
def test_engine_that_is_ended_in_the_middle_of_a_write_has_not_ended_well(
    two: Path, still: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its clients never let it come to rest: the next start looks at what it has written."""
    config = Config.model_validate({"data_dir": str(two)})
    checkpoints = Store(two, config.checkpoint_dir, "history")
    stop = _shutdown(config, checkpoints, Checkpointer(config, checkpoints, "history"))
    monkeypatch.setattr(segment, "hold_still", lambda *_: nullcontext(still))
    assert stop._end_between_writes(Engine(config, -1)) is still


def _shutdown(config: Config, checkpoints: Store, checkpointer: Checkpointer) -> Shutdown:
    return Shutdown(config, checkpoints, checkpointer, "history", lambda *_: None)
