"""Which records a search cannot come to, against what the engine's own searches find."""

from pathlib import Path

import numpy as np
from chromad.chroma import reach, soundness

from tests.segments import engine, refilled


def test_records_that_no_search_finds(tmp_path: Path) -> None:
    counts = []
    for data, ids, missed in refilled.tries(tmp_path):
        directory = engine.segment(data, refilled.NAME)
        # A search may leave out more: where it comes to level 0, not all ways from above go on.
        cut_off = reach.cut_off(directory)
        assert missed.issuperset(cut_off)
        counts.append(len(cut_off))
        plain, told = (soundness.examine([directory], lambda: None, reach=asked)[directory] for asked in (False, True))
        assert plain.sound and plain.live == len(ids) and plain.cut_off == 0
        assert told.sound and told.cut_off == len(cut_off)
    assert counts[-1] > 0


def _close_together(data: Path) -> set[str]:
    """Nothing is deleted: clusters of vectors, and few links. Gives the ids that searches for all records find."""
    numbers = np.random.default_rng(3)
    collection = engine.create(engine.client(data), "clusters", neighbors=2, threshold=50)
    found: set[str] = set()
    for cluster in range(8):
        vectors = (numbers.standard_normal((250, 8)) / 1000 + 100 * cluster).astype(np.float32)
        collection.add(ids=[f"{cluster}-{number}" for number in range(250)], embeddings=vectors)
    for cluster in range(8):
        middle = np.full((1, 8), 100 * cluster, np.float32)
        found.update(*collection.query(query_embeddings=middle, n_results=2000, include=[])["ids"])
    return found


def test_records_without_any_delete(tmp_path: Path) -> None:
    found = engine.run(_close_together, tmp_path)
    directory = engine.segment(tmp_path, "clusters")
    told = soundness.examine([directory], lambda: None, reach=True)[directory]
    assert told.sound
    assert told.live == told.elements == 2000
    assert told.cut_off > 0
    assert not found.intersection(reach.cut_off(directory))


def test_segment_without_records(tmp_path: Path) -> None:
    """What its other files hold does not matter, as for the engine."""
    engine.run(_emptied, tmp_path)
    directory = engine.segment(tmp_path, "emptied")
    (directory / "header.bin").write_bytes(b"torn")
    assert soundness.examine([directory], lambda: None, reach=True)[directory].empty


def _emptied(data: Path) -> None:
    collection = engine.create(engine.client(data), "emptied", threshold=2)
    collection.add(ids=["a", "b"], embeddings=np.eye(2, dtype=np.float32))
    collection.delete(ids=["a", "b"])


def test_no_record(tmp_path: Path) -> None:
    assert reach.cut_off(tmp_path) == []
