"""What a directory held against what an engine serves: every difference is found, and nothing else."""

import json
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from chromad.backup import proof
from chromad.chroma import format, log, sqlite
from chromad.chroma.contents import Contents
from chromad.config import Config
from chromad.maintenance import comparison
from chromad.maintenance.comparison import Differences

from tests.integration import old_chroma

_WRITER = """
import sys
import chromadb
client = chromadb.PersistentClient(sys.argv[1])
for name, space in (("plain", "l2"), ("cosine", "cosine")):
    settings = {"hnsw": {"space": space, "sync_threshold": 50, "batch_size": 10}}
    collection = client.create_collection(name, configuration=settings, metadata={"kind": name, "number": 1.5})
    collection.add(ids=["zero"], embeddings=[[0.0, 0.0, 0.0]])
    for start in range(0, 100, 20):
        numbers = range(start, start + 20)
        collection.add(
            ids=[f"r{each}" for each in numbers],
            embeddings=[[each + 1.0, each / 3, 2.0] for each in numbers],
            documents=[f"document {each}" for each in numbers],
            uris=[f"file:///{each}" for each in numbers],
            metadatas=[{"words": ["x", "y"], "numbers": [each, 2], "truth": True, "half": each / 2} for each in numbers],
        )
    collection.update(ids=["r3"], embeddings=[[7.0, 8.0, 9.0]], metadatas=[{"words": ["z"], "truth": None, "more": "ü"}])
    collection.delete(ids=["r4", "r90"])
    collection.add(ids=["r90", "r5"], embeddings=[[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("contents") / "data"
    subprocess.run([old_chroma.python("1.5.9"), "-c", _WRITER, path], check=True, capture_output=True)
    # Chroma purges behind its answers, so the end of the process may come first.
    with sqlite3.connect(path / sqlite.FILE) as connection:
        connection.execute("DELETE FROM embeddings_queue WHERE id = 'zero'")
    connection.close()
    return path


def compare(made: Path, tmp_path: Path, change: Callable[[sqlite3.Connection], object]) -> Differences:
    """What is found when an engine serves a copy that was changed."""
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    with sqlite3.connect(copy / sqlite.FILE) as connection:
        change(connection)
    connection.close()
    config = Config(
        data_dir=copy, checkpoint_dir=tmp_path / "checkpoints", control_socket=tmp_path / "socket", allow_root=True
    )
    with Contents(tmp_path / "held") as held:
        held.read(made, made, lambda *_: None)
        with proof.scratch(config, copy, lambda: None) as api:
            return comparison.compare(api, held, lambda *_: None, lambda *_: None)


def _run(statement: str) -> Callable[[sqlite3.Connection], object]:
    return lambda connection: connection.execute(statement)


def _vector(connection: sqlite3.Connection) -> None:
    """One number of one vector that is in the log alone."""
    row = connection.execute(
        "SELECT seq_id, vector FROM embeddings_queue WHERE id = 'r90' AND operation = 0"
    ).fetchall()[-1]
    connection.execute("UPDATE embeddings_queue SET vector = ? WHERE seq_id = ?", (row[1][:-1] + b"\x41", row[0]))


def test_the_same(made: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    found = compare(made, tmp_path, lambda _: None)
    assert found.found == []
    # Vectors that are all zero look like holes.
    assert (found.compared, found.unknown) == (200, 2)
    assert sorted(found.named) == ["cosine: zero", "plain: zero"]
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    assert not (tmp_path / "held").exists()


def test_writes_that_wait_in_the_log_are_expected_as_the_engine_applies_them(made: Path, tmp_path: Path) -> None:
    """An add of what is there, and an update of what is not, do nothing."""
    waiting = shutil.copytree(made, tmp_path / "waiting")
    vector = struct.pack("<3f", 5.0, 6.0, 7.0)
    rows = [
        (log.ADD, "r7", vector, {"chroma:document": "ignored", "half": 99.0}),
        (log.UPDATE, "nobody", None, {"half": 99.0}),
        (log.UPDATE, "r8", None, {"half": 99.0}),
        (log.DELETE, "r9", None, {}),
        (log.UPSERT, "new", vector, {"chroma:document": "new", "half": 99.0}),
        (log.ADD, "new", vector, {"chroma:document": "ignored"}),
    ]
    with sqlite3.connect(waiting / sqlite.FILE) as connection:
        (plain,) = connection.execute("SELECT id FROM collections WHERE name = 'plain'").fetchone()
        for operation, record, numbers, metadata in rows:
            connection.execute(
                "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata) VALUES (?, ?, ?, ?, ?, ?)",
                (operation, sqlite.topic(plain), record, numbers, numbers and "FLOAT32", json.dumps(metadata)),
            )
    connection.close()
    found = compare(waiting, tmp_path, lambda _: None)
    assert found.found == []
    assert found.compared == 200, "one more, one less"


_ONE = "(SELECT id FROM embeddings WHERE embedding_id = 'r7' LIMIT 1)"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_run(f"UPDATE embedding_metadata SET string_value = 'x' WHERE key = 'chroma:document' AND id = {_ONE}"), "r7 has another document"),
        (_run(f"UPDATE embedding_metadata SET string_value = 'x' WHERE key = 'chroma:uri' AND id = {_ONE}"), "r7 has another metadata"),
        (_run(f"DELETE FROM embedding_metadata WHERE key = 'truth' AND id = {_ONE}"), "r7 has another metadata"),
        (_run(f"DELETE FROM embedding_metadata_array WHERE int_value = 2 AND id = {_ONE}"), "r7 has another metadata"),
        (_run(f"DELETE FROM embeddings WHERE id = {_ONE}"), "r7 is missing"),
        (_run("UPDATE collections SET name = 'other' WHERE name = 'plain'"), "plain: is missing"),
        (_run("UPDATE collection_metadata SET str_value = 'x' WHERE str_value = 'plain'"), "plain: has other metadata"),
        (_vector, "r90 has another vector"),
    ],
)  # fmt: skip
def test_one_difference(made: Path, tmp_path: Path, change: Callable[[sqlite3.Connection], object], text: str) -> None:
    found = compare(made, tmp_path, change)
    assert text in found.found[0] + "".join(found.found[1:])
    assert found.count <= 2


def test_vector_in_the_files(made: Path, tmp_path: Path) -> None:
    def change(_: sqlite3.Connection) -> None:
        for path in (tmp_path / "copy").glob("*/data_level0.bin"):
            header = format.read_header(path.parent)
            content = bytearray(path.read_bytes())
            content[21 * header.element_size + header.data_offset + 2] ^= 0x20
            path.write_bytes(content)

    found = compare(made, tmp_path, change)
    assert found.count == 2
    assert all("has another vector" in each for each in found.found)


def test_many(made: Path, tmp_path: Path) -> None:
    found = compare(
        made, tmp_path, _run("UPDATE embedding_metadata SET float_value = float_value + 1 WHERE key = 'half'")
    )
    assert found.count > 190
    assert len(found.found) == 20
