"""The engine in processes of its own, without a server: it may crash there, and each process is a restart."""

import multiprocessing
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chromadb
import numpy as np
from chromad.chroma import additions, sqlite
from numpy.typing import NDArray

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

# A fork of a process that has imported this module starts in milliseconds; the engine's threads are in the forks alone.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])

Vector = NDArray[np.float32]


class EngineCrash(Exception):
    """The process with the engine was ended by a signal, or did not end."""


def run(function: Callable[..., Any], *arguments: Any, limit: float = 20.0) -> Any:
    """Calls a function in a new process and gives what it returns; errors of the engine are raised as RuntimeError."""
    here, there = _context.Pipe(duplex=False)
    process = _context.Process(target=_call, args=(there, function, arguments))
    process.start()
    there.close()
    try:
        good, result = here.recv() if here.poll(limit) else (False, None)
    except EOFError:
        good, result = False, None
    finally:
        here.close()
        process.join(5)
        process.kill()
        process.join()
    if good:
        return result
    if result is None:
        raise EngineCrash(f"exit code {process.exitcode}")
    raise RuntimeError(result)


def _call(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        connection.send((True, function(*arguments)))
    except Exception as error:
        connection.send((False, f"{type(error).__name__}: {error}"))


def client(data: Path) -> "ClientAPI":
    """The engine on a data directory, in this process, for as long as it lives. It keeps its log.

    Not in WAL mode: two SQLite libraries in one process do not see each other's locks, and the one that closes would take the
    WAL away from the other.
    """
    found = chromadb.PersistentClient(str(data))
    additions.keep_log(data)
    return found


def create(
    engine: "ClientAPI", name: str, *, threshold: int = 1000, neighbors: int = 16, space: str = "l2"
) -> "Collection":
    """A new collection that is persisted after `threshold` records, with M = neighbors."""
    settings = {
        "hnsw": {"sync_threshold": threshold, "batch_size": 2, "max_neighbors": neighbors, "space": space},
    }
    return engine.create_collection(name, embedding_function=None, configuration=settings)  # type: ignore[arg-type]


def fill(data: Path, names: Sequence[str], count: int) -> None:
    """Makes collections with so many records each, which are persisted every ten. To be called by `run`."""
    engine = client(data)
    for name in names:
        collection = create(engine, name, threshold=10)
        vectors = np.random.default_rng(len(name)).random((count, 4), np.float32)
        collection.add(ids=[f"{name}-{number}" for number in range(count)], embeddings=vectors)


def add(data: Path, name: str, keys: Sequence[str]) -> None:
    """Adds records to a collection that `fill` has made. To be called by `run`."""
    collection = client(data).get_collection(name, embedding_function=None)
    collection.add(ids=list(keys), embeddings=np.random.default_rng(1).random((len(keys), 4), np.float32))


def segment(data: Path, name: str) -> Path:
    """The directory of a collection's vector segment."""
    return data / next(found.segment for found in sqlite.collections(data) if found.name == name)


def read(data: Path, name: str, queries: int = 10) -> dict[str, Vector]:
    """All vectors of a collection, after so many of them were searched for. To be called by `run`."""
    collection = client(data).get_collection(name, embedding_function=None)
    found = collection.get(include=["embeddings"])
    vectors = np.asarray(found["embeddings"], dtype=np.float32)
    if len(vectors):
        answers = collection.query(query_embeddings=vectors[:queries], n_results=min(3, len(vectors)))["ids"]
        strangers = {key for answer in answers for key in answer} - set(found["ids"])
        if strangers:
            raise ValueError(f"found ids that are not in the collection: {strangers}")
    return dict(zip(found["ids"], vectors, strict=True))


def same(one: Mapping[str, Vector], other: Mapping[str, Vector]) -> bool:
    """Whether both hold the same vectors; those of a cosine space were normalised and scaled back."""
    return one.keys() == other.keys() and all(
        np.allclose(vector, other[key], rtol=1e-4, atol=1e-5) for key, vector in one.items()
    )


def seq_id(data: Path, name: str) -> int | None:
    """Up to where the vector segment of a collection has applied the log, as SQLite says."""
    with closing(sqlite3.connect(data / sqlite.FILE)) as connection:
        row = connection.execute(
            "SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (segment(data, name).name,)
        ).fetchone()
    return None if row is None else int(row[0])


def variant(source: Path, target: Path, name: str, files: Mapping[str, bytes], seq: int | None) -> Path:
    """A data directory with the database of `source`, these files as segment, and this seq id. Gives the segment."""
    if target.exists():
        shutil.rmtree(target)
    target.mkdir()
    for path in sqlite.files(source):
        shutil.copy(path, target)
    directory = target / segment(source, name).name
    directory.mkdir()
    for file, content in files.items():
        (directory / file).write_bytes(content)
    with sqlite.connect(target) as connection:
        sqlite.set_seq_ids(connection, {directory.name: seq})
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a segment."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}
