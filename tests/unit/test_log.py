"""What the log alone gives back, what waits in it, and what is put before it."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromad.chroma import log, sqlite, wal
from chromad.errors import ChromadError

from tests.segments import engine


def _fill(data: Path, operation: str) -> None:
    """A record that is written again, and then updated."""
    collection = engine.create(engine.client(data), "made")
    collection.add(ids=["r"], embeddings=np.ones((1, 2), np.float32))
    time.sleep(1.1)  # the database tells times in seconds
    getattr(collection, operation)(ids=["r"], embeddings=np.zeros((1, 2), np.float32))
    collection.update(ids=["r"], metadatas=[{"a": 1}])


def _update(data: Path) -> None:
    collection = engine.create(engine.client(data), "made")
    collection.add(ids=["a", "b", "c", "d"], embeddings=np.zeros((4, 2), np.float32))
    collection.update(ids=["a", "b", "d"], embeddings=np.ones((3, 2), np.float32))
    collection.update(ids=["a", "c"], metadatas=[{"a": 1}] * 2)
    collection.update(ids=["b"], embeddings=np.full((1, 2), 2, np.float32))
    collection.delete(ids=["d"])


def test_an_update_gives_a_record_its_vector_that_was_there(tmp_path: Path) -> None:
    engine.run(_update, tmp_path)
    with sqlite.connect(tmp_path) as connection:
        (collection,) = sqlite.read_collections(connection)
        log.purge(tmp_path, {collection.topic: 4}, lambda _: True)
        missing = log.ids_without_vector(connection, collection)
        assert missing == {"a", "b", "c"}
        found = log.vectors_of_known(connection, collection, missing)
        assert {key: list(np.frombuffer(vector, "<f4")) for key, vector in found.items()} == {"a": [1, 1], "b": [2, 2]}


@pytest.mark.parametrize(("operation", "rebuilds"), [("add", False), ("upsert", True)])
def test_an_add_that_was_ignored_rebuilds_nothing(operation: str, rebuilds: bool, tmp_path: Path) -> None:
    engine.run(_fill, tmp_path, operation)
    with sqlite.connect(tmp_path) as connection:
        (collection,) = sqlite.read_collections(connection)
        # As long as the first add is there as well, all is well.
        assert log.rebuilds(connection, collection)
        log.purge(tmp_path, {collection.topic: 1}, lambda _: True)
        assert not log.ids_without_vector(connection, collection)
        assert log.rebuilds(connection, collection) == rebuilds


def test_what_waits_counts_as_the_engine_will_apply_it(two: Path) -> None:
    """An update or a delete of what is not there does nothing."""
    with sqlite.connect(two) as connection:
        [stays] = (each for each in sqlite.read_collections(connection) if each.name == "stays")
        rows = [
            (log.UPDATE, "nobody", 0),
            (log.UPDATE, "stays-1", 0),
            (log.ADD, "stays-1", 0),
            (log.DELETE, "nobody", 0),
            (log.DELETE, "stays-2", -1),
            (log.UPDATE, "stays-2", 0),
            (log.ADD, "new", 1),
            (log.UPSERT, "newer", 1),
            (log.DELETE, "newer", -1),
            (log.UPSERT, "stays-2", 1),
            (log.UPSERT, "stays-3", 0),
        ]
        expected = 0
        assert log.pending_records(connection, stays) == expected
        for operation, record, change in rows:
            connection.execute(
                "INSERT INTO embeddings_queue (operation, topic, id) VALUES (?, ?, ?)", (operation, stays.topic, record)
            )
            expected += change
            assert log.pending_records(connection, stays) == expected, (operation, record)


def test_what_is_put_before_the_log_takes_seq_ids_that_nobody_has(two: Path) -> None:
    """Rows of other collections keep theirs."""
    everything = "SELECT seq_id, topic, id, vector FROM embeddings_queue"
    vectors = [(f"goes-{number}", bytes(16)) for number in range(3)]
    with sqlite.connect(two) as connection:
        [goes] = (each for each in sqlite.read_collections(connection) if each.name == "goes")
        with pytest.raises(ChromadError, match="too few free seq ids"):
            log.prepend(connection, goes, vectors)
        connection.execute("DELETE FROM embeddings_queue WHERE seq_id IN (5, 6, 7)")
        before = set(connection.execute(everything))
        log.prepend(connection, goes, vectors)
        added = set(connection.execute(everything)) - before
        assert before <= set(connection.execute(everything))
        assert {(seq_id, record) for seq_id, _, record, _ in added} == {(7, "goes-0"), (6, "goes-1"), (5, "goes-2")}
        assert {topic for _, topic, _, _ in added} == {goes.topic}


def test_metadata_that_nobody_reads_goes_from_what_was_applied_alone(two: Path) -> None:
    """From the other rows the metadata segments have yet to take it; that the engine cannot is for the operator to hear."""
    [goes] = (each for each in sqlite.collections(two) if each.name == "goes")
    rows = {goes.written - 1: '{"a": NaN}', goes.written - 2: '{"a": 1}', goes.written + 9: '{"b": NaN}'}
    with sqlite.connect(two) as connection:
        connection.execute("DELETE FROM embeddings_queue WHERE topic = ?", (goes.topic,))
        for seq_id, metadata in rows.items():
            connection.execute(
                "INSERT INTO embeddings_queue (seq_id, operation, topic, id, metadata) VALUES (?, ?, ?, 'r', ?)",
                (seq_id, log.ADD, goes.topic, metadata),
            )
        log.drop_unreadable_metadata(connection)
        found = dict(connection.execute("SELECT seq_id, metadata FROM embeddings_queue WHERE topic = ?", (goes.topic,)))
    assert found == rows | {goes.written - 1: None}


def test_purged_text_leaves_the_file(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where SQLite was built so that it does not overwrite what is deleted, which distributions have it do."""
    connect = sqlite3.connect

    def careless(*words: Any, **more: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*words, **more)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(sqlite3, "connect", careless)
    text = b"a secret that must not remain 8f3a"
    [goes] = (each for each in sqlite.collections(two) if each.name == "goes")
    with sqlite.connect(two) as connection:
        connection.execute(
            "UPDATE embeddings_queue SET metadata = ? WHERE seq_id = ?", (text.decode(), goes.written - 5)
        )
    wal.truncate(two)
    assert text in (two / sqlite.FILE).read_bytes()
    assert log.purge(two, {goes.topic: goes.written}, lambda _: True) == 29
    wal.truncate(two)
    assert text not in (two / sqlite.FILE).read_bytes()
