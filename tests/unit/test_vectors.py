"""Segments against the log: what the engine does not persist is seen, put right, and nothing else is touched."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from chromad.chroma import format, sqlite, vectors
from chromad.chroma.damage import Damage
from chromad.chroma.soundness import Claim

from tests.segments import claims, engine, workload


def _lose_an_update(data: Path, space: str) -> None:
    """The engine does not mark a record that is alone as changed."""
    collection = engine.create(engine.client(data), "alone", threshold=2, space=space)
    for number in range(1, 5):
        collection.upsert(ids=["a"], embeddings=np.full((1, 3), number, np.float32))


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_lost_update_is_mended(space: str, tmp_path: Path) -> None:
    engine.run(_lose_an_update, tmp_path, space)
    written = {"a": np.full(3, 4, np.float32)}
    assert not engine.same(engine.run(engine.read, tmp_path, "alone"), written), "the engine has learned to persist it"
    claim = claims.whole(tmp_path, "alone", mend=False)
    assert claim
    segment = engine.segment(tmp_path, "alone")
    assert vectors.compare(segment, claim) == 1
    assert claims.mend(tmp_path, "alone") == 1
    assert vectors.compare(segment, claim) == 0
    assert engine.same(engine.run(engine.read, tmp_path, "alone"), written)


# At the edges of 32 bits: their squared length is none there, or nothing.
_EXTREME = [
    (1e25, 1e25, 1e25),
    (1e-30, 1e30, 0.0),
    (-3.4e38, 3.4e38, 0.0),
    (1e-38, 1e-38, 1e-38),
    (1e-45, 0.0, 0.0),
    (0.0,) * 3,
]


def _write_extremes(data: Path, space: str) -> None:
    collection = engine.create(engine.client(data), "extreme", threshold=2, space=space)
    ids = [f"{number}" for number in range(len(_EXTREME))]
    for vectors_of in (np.ones((len(ids), 3), np.float32), np.array(_EXTREME, np.float32)):
        collection.upsert(ids=ids, embeddings=vectors_of)


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_extreme_vectors_are_as_the_engine_keeps_them(space: str, tmp_path: Path) -> None:
    """Where the space is cosine it keeps nothing of most of these, which is no damage; what was there before would be."""
    engine.run(_write_extremes, tmp_path, space)
    claim = claims.whole(tmp_path, "extreme", mend=False)
    assert claim
    segment = engine.segment(tmp_path, "extreme")
    assert vectors.compare(segment, claim) == 0
    level0, lengths = segment / "data_level0.bin", segment / "length.bin"
    header = format.read_header(segment)
    content = bytearray(level0.read_bytes())
    for number in range(len(_EXTREME)):
        place = number * header.element_size + header.data_offset
        content[place : place + 12] = np.ones(3, np.float32).tobytes()
    level0.write_bytes(content)
    lengths.write_bytes(np.ones(len(_EXTREME), np.float32).tobytes())
    assert vectors.compare(segment, claim) == len(_EXTREME)
    assert claims.mend(tmp_path, "extreme") == len(_EXTREME)
    assert vectors.compare(segment, claim) == 0


def _write(data: Path, name: str, steps: list[tuple[str, str, int]]) -> None:
    """Steps: method, id, what its vector is made of. Padding is persisted with them."""
    client = engine.client(data)
    if any(each.name == name for each in client.list_collections()):
        collection = client.get_collection(name, embedding_function=None)
    else:
        collection = engine.create(client, name, threshold=2)
    for method, key, number in steps:
        arguments = {} if method == "delete" else {"embeddings": np.full((1, 3), number, np.float32)}
        getattr(collection, method)(ids=[key], **arguments)


# An add of what is there, and an update of what is not, are ignored; a deleted one may come back.
_HISTORY = [
    *(("add", key, number) for number, key in enumerate("abcdefgh")),
    ("add", "a", 50),
    ("update", "x", 51),
    ("delete", "b", 0),
    ("add", "b", 52),
    ("update", "b", 53),
    ("delete", "c", 0),
    ("update", "c", 54),
    ("upsert", "d", 55),
    ("upsert", "new", 56),
    ("delete", "e", 0),
]


@pytest.mark.parametrize("split", [0, 8, 11, 14])
def test_history_is_right(split: int, tmp_path: Path) -> None:
    engine.run(_write, tmp_path, "history", _HISTORY[:split])
    before = tmp_path / "before"
    after = 0
    if split:
        shutil.copytree(engine.segment(tmp_path, "history"), before)
        after = engine.seq_id(tmp_path, "history") or 0
    engine.run(_write, tmp_path, "history", _HISTORY[split:])
    claim = _claim(tmp_path, "history", after, before if split else None)
    assert vectors.compare(engine.segment(tmp_path, "history"), claim) == 0


def _claim(data: Path, name: str, after: int, before: Path | None) -> Claim:
    found = claims.whole(data, name, mend=False)
    assert found
    return Claim(data, found.topic, after, found.upto, before, cosine=False, mend=False)


def test_old_files_do_not_hold_what_was_logged(tmp_path: Path) -> None:
    engine.run(_write, tmp_path, "history", _HISTORY[:8])
    before = tmp_path / "before"
    shutil.copytree(engine.segment(tmp_path, "history"), before)
    after = engine.seq_id(tmp_path, "history") or 0
    steps = [("update", "a", 60), ("update", "b", 61), ("add", "c", 62), ("update", "x", 63)]
    engine.run(_write, tmp_path, "history", steps)
    assert vectors.compare(before, _claim(tmp_path, "history", after, before)) == 2
    engine.run(_write, tmp_path, "history", [("delete", "d", 0), ("upsert", "new", 64)])
    with pytest.raises(Damage, match="lacks 1 ids that the log has, and has 1 that were deleted"):
        vectors.compare(before, _claim(tmp_path, "history", after, before))


def test_deleted_ids_in_the_files_are_damage(tmp_path: Path) -> None:
    """Of a log that has nothing else: no id is missing that could tell."""
    engine.run(_write, tmp_path, "history", _HISTORY[:8])
    before = tmp_path / "before"
    shutil.copytree(engine.segment(tmp_path, "history"), before)
    after = engine.seq_id(tmp_path, "history") or 0
    engine.run(_write, tmp_path, "history", [("delete", "d", 0), ("delete", "e", 0)])
    with pytest.raises(Damage, match="lacks 0 ids that the log has, and has 2 that were deleted"):
        vectors.compare(before, _claim(tmp_path, "history", after, before))


def _lose_an_update_of_what_was_there(data: Path) -> None:
    collection = engine.create(engine.client(data), "alone", threshold=2)
    collection.add(ids=["a"], embeddings=np.full((1, 3), 1, np.float32))
    for number in range(2, 5):
        collection.update(ids=["a"], embeddings=np.full((1, 3), number, np.float32))


def test_lost_update_of_a_record_whose_add_was_purged(tmp_path: Path) -> None:
    """As stock Chroma purges: without a segment before it, nothing else tells that the record was there."""
    engine.run(_lose_an_update_of_what_was_there, tmp_path)
    with sqlite.connect(tmp_path) as connection:
        connection.execute("DELETE FROM embeddings_queue WHERE operation = 0")
    assert claims.mend(tmp_path, "alone") == 1
    assert engine.same(engine.run(engine.read, tmp_path, "alone"), {"a": np.full(3, 4, np.float32)})


def test_files_ahead_of_the_claim_are_left_alone(tmp_path: Path) -> None:
    engine.run(_write, tmp_path, "history", _HISTORY[:8])
    after = engine.seq_id(tmp_path, "history") or 0
    engine.run(_write, tmp_path, "history", [("update", "a", 60), ("update", "b", 61)])
    upto = engine.seq_id(tmp_path, "history") or 0
    engine.run(_write, tmp_path, "history", [("update", "a", 70), ("delete", "b", 0)])
    segment = engine.segment(tmp_path, "history")
    with sqlite.connect(tmp_path) as connection:
        [collection] = sqlite.read_collections(connection)
    claim = Claim(tmp_path, collection.topic, after, upto, None, cosine=False, mend=True)
    held = engine.contents(segment)
    assert vectors.compare(segment, claim) == 0
    assert engine.contents(segment) == held


def test_no_false_alarm(tmp_path: Path) -> None:
    """Random workloads with many neighbours: the engine persists all of them."""
    for seed in range(4):
        data = tmp_path / str(seed)
        found = workload.make(seed)
        found.neighbors, found.threshold = 32, 3
        found, _ = engine.run(workload.phase, data, found, 6)
        assert claims.mend(data, found.name) == 0
        assert engine.same(engine.run(engine.read, data, found.name), found.vectors)
