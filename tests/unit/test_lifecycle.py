"""What the daemon's threads do to each other."""

import sqlite3
import threading
import time
from pathlib import Path

from chromad.checkpointer import Checkpointer
from chromad.config import Config
from chromad.lifecycle import Daemon
from chromad.store import fence, sqlite
from chromad.store.checkpoint import Store


def test_lifted_fence_is_not_put_back_by_the_look_at_disks(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with sqlite3.connect(data / sqlite.FILE) as database:
        database.execute("CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY, operation, topic)")
    database.close()
    config = Config.model_validate({"data_dir": str(data)})
    daemon = Daemon(config, tmp_path / "chromad.yml")
    daemon._checkpointer = Checkpointer(config, Store(data, config.checkpoint_dir, ""), "")
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
