"""Vectors that the engine keeps in memory and does not persist: whatever ends it, they are there afterwards."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.integration.daemon import Daemon
from tests.integration.site import Site

_LAST = 5.0


def _update(daemon: Daemon) -> None:
    """The engine does not mark the record of a collection that has only this one as changed."""
    collection = daemon.client().create_collection(
        "alone", embedding_function=None, configuration={"hnsw": {"sync_threshold": 2, "batch_size": 2}}
    )
    for number in np.arange(1.0, _LAST + 1):
        collection.upsert(ids=["a"], embeddings=np.array([[number, 0.0]], np.float32))
    collection.upsert(ids=["a"], metadatas=[{"last": True}], embeddings=np.array([[_LAST, 0.0]], np.float32))


def _vector(daemon: Daemon) -> list[float]:
    collection = daemon.client().get_collection("alone", embedding_function=None)
    embeddings = collection.get(include=["embeddings"])["embeddings"]
    assert embeddings is not None
    return [float(value) for value in embeddings[0]]


def _stop(_site: Site, daemon: Daemon) -> None:
    daemon.stop()


def _kill(_site: Site, daemon: Daemon) -> None:
    daemon.clear()


def _checkpoint_and_kill(site: Site, daemon: Daemon) -> None:
    assert site.chromactl("checkpoint").code == 0
    daemon.clear()


@pytest.mark.parametrize("end", [_stop, _kill, _checkpoint_and_kill])
def test_update_is_there(end: Callable[[Site, Daemon], None], site: Site) -> None:
    daemon = site.serve()
    _update(daemon)
    for _ in range(2):
        end(site, daemon)
        daemon = site.serve()
        assert _vector(daemon) == [_LAST, 0.0], daemon.log
    assert not list(site.quarantine.glob("*")) or end is _kill, "what a checkpoint has put right is not broken"
