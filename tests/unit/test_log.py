"""What the log alone gives back."""

import time
from pathlib import Path

import numpy as np
import pytest
from chromad.store import log, sqlite

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
