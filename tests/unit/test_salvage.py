"""What is saved of damaged segments: all vectors that are whole, under their own ids, and no other."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chromad.chroma import format, idmap
from chromad.chroma.salvage import Salvage

from tests.segments import engine, workload, writer
from tests.segments.engine import Vector
from tests.segments.workload import Workload

DIMENSION = 5
_OLD = 60  # elements


@pytest.fixture
def persisted(recorded: tuple[Path, Workload], segment: Path) -> dict[str, Vector]:
    """The vectors that the undamaged segment holds, without those that are zero: they look like a hole."""
    found = Salvage(segment, DIMENSION, cosine=True)
    vectors = {key: np.frombuffer(vector, "<f4") for key, vector in found.vectors()}
    written = recorded[1].vectors
    # The last steps may be in the log alone.
    right = [key for key, vector in vectors.items() if key in written and np.allclose(vector, written[key], rtol=1e-4)]
    assert len(right) > len(vectors) * 0.8
    assert found.problem == ""
    assert len(vectors) > 20
    return vectors


def salvaged(segment: Path, dimension: int = DIMENSION, *, cosine: bool = True) -> tuple[Salvage, dict[str, Vector]]:
    found = Salvage(segment, dimension, cosine)
    return found, {key: np.frombuffer(vector, "<f4") for key, vector in found.vectors()}


def change(path: Path, first: int, content: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[first : first + len(content)] = content
    path.write_bytes(whole)


@pytest.mark.parametrize("space", ["l2", "cosine"])
def test_all_of_a_sound_segment(space: str, tmp_path: Path) -> None:
    found = workload.make(1)
    found.space, found.threshold, found.dimension, found.style, found.neighbors = space, 2, 9, "unicode", 32
    found, _ = engine.run(workload.phase, tmp_path, found, 15)
    collected, vectors = salvaged(engine.segment(tmp_path, found.name), 9, cosine=space == "cosine")
    nonzero = {key: vector for key, vector in found.vectors.items() if vector.any()}
    # One record may be in the log alone.
    common = vectors.keys() & nonzero.keys()
    assert len(common) >= len(nonzero) - 1
    assert engine.same({key: vectors[key] for key in common}, {key: nonzero[key] for key in common})
    assert not set(collected.lost) & nonzero.keys()


def _unlink(name: str) -> Callable[[Path], None]:
    return lambda segment: (segment / name).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        _unlink(format.HEADER_FILE),
        lambda segment: change(segment / format.HEADER_FILE, 20, bytes(8)),
        lambda segment: change(segment / format.HEADER_FILE, 84, bytes(8)),
        lambda segment: (segment / format.HEADER_FILE).write_bytes(b""),
        _unlink(format.LINKS_FILE),
        lambda segment: os.truncate(segment / format.LINKS_FILE, 1 << 40),
        lambda segment: os.truncate(segment / format.LEVEL0_FILE, 1 << 40),
        lambda segment: os.truncate(segment / idmap.FILE, (segment / idmap.FILE).stat().st_size - 100),
    ],
)
def test_nothing_is_lost_with_other_files(
    damage: Callable[[Path], None], persisted: dict[str, Vector], segment: Path
) -> None:
    damage(segment)
    found, vectors = salvaged(segment)
    assert engine.same(vectors, persisted)
    assert found.unscaled == []


def test_an_old_header(persisted: dict[str, Vector], segment: Path) -> None:
    _age(segment)
    assert engine.same(salvaged(segment)[1], persisted)


def _age(segment: Path) -> None:
    """As if the last elements had been added in a persist whose header is lost."""
    change(segment / format.HEADER_FILE, 20, struct.pack("<Q", _OLD))
    change(segment / format.HEADER_FILE, 56, struct.pack("<I", 0))  # the entry point
    assert format.read_header(segment).elements == _OLD


@pytest.mark.parametrize(
    "content",
    [bytes(20), struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))],
    ids=["zero", "nan", "infinite"],
)
def test_a_broken_vector_is_lost(content: bytes, persisted: dict[str, Vector], segment: Path) -> None:
    header = format.read_header(segment)
    assert header.data_offset == 36
    key = next(iter(persisted))
    change(segment / format.LEVEL0_FILE, _row(segment, persisted, key) * header.element_size + 36, content)
    before, _ = salvaged(segment)
    found, vectors = salvaged(segment)
    assert key in found.lost
    assert engine.same(vectors, {other: vector for other, vector in persisted.items() if other != key})
    assert before.lost == found.lost


def _row(segment: Path, persisted: dict[str, Vector], key: str) -> int:
    """The element of an id, found by its vector, which is normalised there."""
    header = format.read_header(segment)
    content = (segment / format.LEVEL0_FILE).read_bytes()
    unit = persisted[key] / np.linalg.norm(persisted[key])
    for row in range(header.elements):
        begin = row * header.element_size
        if (
            np.allclose(np.frombuffer(content[begin + 36 : begin + 56], "<f4"), unit, atol=1e-6)
            and content[begin + 2] == 0
        ):
            return row
    raise AssertionError(key)


@pytest.mark.parametrize("space", ["l2", "cosine"])
def test_what_was_never_written_is_nobodys(space: str, tmp_path: Path) -> None:
    # A new index writes 100 elements of whatever was in memory: here those of another collection.
    found = workload.make(1)
    found.space, found.threshold, found.dimension, found.largest = space, 2, DIMENSION, 3
    engine.run(workload.phase, tmp_path, found, 8)
    segment = engine.segment(tmp_path, found.name)
    before, vectors = salvaged(segment, cosine=space == "cosine")
    header = format.read_header(segment)
    content = bytearray((segment / format.LEVEL0_FILE).read_bytes())
    size = header.element_size
    assert 10 < header.elements <= 50
    for row in range(header.elements):
        begin, beyond = row * size, (header.elements + row) * size
        content[beyond : beyond + size] = content[begin : begin + size]
        # And its own vector is lost.
        content[begin + header.data_offset : begin + header.label_offset] = bytes(4 * DIMENSION)
    (segment / format.LEVEL0_FILE).write_bytes(content)
    after, none = salvaged(segment, cosine=space == "cosine")
    assert none == {}
    assert set(after.lost) == vectors.keys() | set(before.lost)


@pytest.mark.parametrize("old", [False, True], ids=["header", "old header"])
def test_a_broken_label_is_lost(old: bool, persisted: dict[str, Vector], segment: Path) -> None:
    header = format.read_header(segment)
    one, two = list(persisted)[-2:]
    content = (segment / format.LEVEL0_FILE).read_bytes()
    begin, other = (_row(segment, persisted, key) * header.element_size + header.label_offset for key in (one, two))
    change(segment / format.LEVEL0_FILE, begin, content[other : other + 8])
    if old:
        assert min(begin, other) >= _OLD * header.element_size
        _age(segment)
    found, vectors = salvaged(segment)
    # Which of both elements has the label by right cannot be told.
    assert {one, two} <= set(found.lost)
    assert vectors.keys() == persisted.keys() - {one, two}


def test_without_lengths(persisted: dict[str, Vector], segment: Path) -> None:
    (segment / format.LENGTH_FILE).unlink()
    found, vectors = salvaged(segment)
    assert set(found.unscaled) == vectors.keys() == persisted.keys()
    assert engine.same(vectors, {key: vector / np.linalg.norm(vector) for key, vector in persisted.items()})


def test_a_pickle_cut_short(persisted: dict[str, Vector], segment: Path) -> None:
    content = (segment / idmap.FILE).read_bytes()
    begin, end = content.index(b"id_to_label}("), content.index(b"label_to_id}(")
    (segment / idmap.FILE).write_bytes(content[: (begin + end) // 2])
    found, vectors = salvaged(segment)
    assert "cut off" in found.problem
    assert len(persisted) / 3 < len(vectors) < len(persisted)
    assert engine.same(vectors, {key: persisted[key] for key in vectors})


def test_without_level_0(persisted: dict[str, Vector], segment: Path) -> None:
    (segment / format.LEVEL0_FILE).unlink()
    found, vectors = salvaged(segment)
    assert vectors == {}
    assert persisted.keys() <= set(found.lost)


def test_without_pickle(segment: Path) -> None:
    (segment / idmap.FILE).unlink()
    found, vectors = salvaged(segment)
    assert (vectors, found.lost, found.problem) == ({}, [], "index_metadata.pickle is missing")


def _fill(data: Path, ids: list[str], dimension: int) -> None:
    collection = engine.create(engine.client(data), "made", threshold=2)
    collection.add(ids=ids, embeddings=np.ones((len(ids), dimension), dtype=np.float32))


def test_the_engine_opens_what_the_writer_of_the_tests_makes(tmp_path: Path) -> None:
    made = tmp_path / "made"
    writer.write(made, 300, 6)
    _, vectors = salvaged(made, 6, cosine=False)
    assert len(vectors) == 300
    engine.run(_fill, tmp_path / "data", list(vectors), 6)
    seq = engine.seq_id(tmp_path / "data", "made")
    engine.variant(tmp_path / "data", tmp_path / "variant", "made", engine.contents(made), seq)
    assert engine.same(engine.run(engine.read, tmp_path / "variant", "made"), vectors)


def test_an_element_that_the_header_knows_is_believed(persisted: dict[str, Vector], segment: Path) -> None:
    size = format.read_header(segment).element_size
    known, lost = next(iter(persisted)), list(persisted)[-1]
    content = (segment / format.LEVEL0_FILE).read_bytes()
    begin, beyond = (_row(segment, persisted, key) * size for key in (known, lost))
    assert begin < _OLD * size <= beyond
    change(segment / format.LEVEL0_FILE, beyond, content[begin : begin + size])
    _age(segment)
    found, vectors = salvaged(segment)
    assert lost in found.lost
    assert engine.same(vectors, {key: vector for key, vector in persisted.items() if key != lost})
