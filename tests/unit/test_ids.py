"""The ids of a segment against those of the metadata segment, on files that the engine has written."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chromad.chroma import ids, sqlite
from chromad.chroma.damage import Damage
from chromad.chroma.soundness import Claim
from chromad.store.checkpoint import Store

from tests.segments import claims, engine

_KEYS = [f"k{number}" for number in range(20)]


def _add(data: Path, keys: list[str]) -> None:
    client = engine.client(data)
    if not client.list_collections():
        engine.create(client, "some", threshold=5)
    collection = client.get_collection("some", embedding_function=None)
    collection.upsert(ids=keys, embeddings=np.array([[float(key[1:]), 1.0] for key in keys], np.float32))


def _delete(data: Path, keys: list[str]) -> None:
    engine.client(data).get_collection("some", embedding_function=None).delete(ids=keys)


def _claim(data: Path, before: Path | None = None) -> Claim:
    found = claims.whole(data, "some", mend=False)
    assert found
    return replace(found, before=before)


def _purge(data: Path) -> None:
    """Up to what the segment has persisted."""
    with sqlite.connect(data) as connection:
        connection.execute("DELETE FROM embeddings_queue WHERE seq_id <= ?", (len(_KEYS),))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty records that were persisted, and three changes that were not."""
    place = tmp_path / "data"
    engine.run(_add, place, _KEYS)
    engine.run(_delete, place, ["k3"])
    engine.run(_add, place, ["k20"])
    engine.run(_delete, place, ["k20"])
    return place


def test_the_log_counts(data: Path) -> None:
    ids.compare(engine.segment(data, "some"), _claim(data))


def test_what_was_deleted_is_no_record(data: Path) -> None:
    with sqlite.connect(data) as connection:
        connection.execute("DELETE FROM embeddings WHERE embedding_id = 'k7'")
    with pytest.raises(Damage, match="lacks 0 records that there are, and has 1 that were deleted"):
        ids.compare(engine.segment(data, "some"), _claim(data))


@pytest.mark.parametrize("purged", [False, True])
def test_what_is_missing_is_damage_where_something_has_it(data: Path, purged: bool) -> None:
    segment = engine.segment(data, "some")
    with sqlite.connect(data) as connection:
        connection.execute(
            "INSERT INTO embeddings (segment_id, embedding_id, seq_id) SELECT segment_id, 'k99', seq_id FROM embeddings LIMIT 1"
        )
        # A row that the segment claims to have applied.
        connection.execute(
            "INSERT INTO embeddings_queue (seq_id, operation, topic, id, vector, encoding)"
            " SELECT -1, 2, topic, 'k99', vector, encoding FROM embeddings_queue WHERE vector IS NOT NULL LIMIT 1"
        )
    if purged:
        _purge(data)
        # Nothing has its vector.
        ids.compare(segment, _claim(data))
    else:
        with pytest.raises(Damage, match="lacks 1 records"):
            ids.compare(segment, _claim(data))


def test_the_segment_before_had_it(data: Path, tmp_path: Path) -> None:
    """A new index in the place of one that is gone, as the engine makes it, has only what came since."""
    segment = engine.segment(data, "some")
    before = tmp_path / "before"
    shutil.copytree(segment, before)
    _purge(data)
    shutil.rmtree(segment)
    engine.run(_add, data, [f"k{number}" for number in range(30, 40)])
    assert (segment / "index_metadata.pickle").exists()
    with pytest.raises(Damage, match="lacks 19 records"):
        ids.compare(segment, _claim(data, before))


def test_checkpoint_is_not_replaced_by_one_that_lacks_records(data: Path, tmp_path: Path) -> None:
    store = Store(data, tmp_path / "checkpoints", "history")
    store.prepare()
    [collection] = sqlite.collections(data)
    assert store.take([collection], live=False, progress=lambda _done: None)
    first = store.latest(collection.segment)
    _purge(data)
    shutil.rmtree(data / collection.segment)
    engine.run(_add, data, [f"k{number}" for number in range(30, 40)])
    [collection] = sqlite.collections(data)
    assert store.stale([collection])
    assert store.take([collection], live=False, progress=lambda _done: None) == {}
    assert "lacks 19 records" in store.unsound[collection.id]
    assert store.latest(collection.segment) == first


def test_checkpoint_stays_until_the_next_one_has_its_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(data, tmp_path / "checkpoints", "history")
    store.prepare()
    [collection] = sqlite.collections(data)
    store.take([collection], live=False, progress=lambda _done: None)
    first = store.latest(collection.segment)
    engine.run(_add, data, [f"k{number}" for number in range(30, 40)])
    [collection] = sqlite.collections(data)
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name.startswith(".unfinished-"):
            raise OSError("the disk is gone")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        store.take([collection], live=False, progress=lambda _done: None)
    assert Store(data, tmp_path / "checkpoints", "history").latest(collection.segment) == first
