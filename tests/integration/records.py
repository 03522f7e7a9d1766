"""Records that can be told apart, and what they must be when they are read back."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection


@dataclass(frozen=True)
class Record:
    """vector: of numbers that 32-bit floats hold exactly. version: the metadata."""

    vector: tuple[float, ...]
    document: str
    version: int


def make(key: str, version: int = 0, dimension: int = 8) -> Record:
    """The record of a key in one of its versions."""
    numbers = random.Random(f"{key} {version}")
    vector = tuple(numbers.randrange(-1024, 1024) / 1024 for _ in range(dimension))
    return Record(vector, f"document {version} of {key}", version)


def create(client: "ClientAPI", name: str, sync_threshold: int = 1000) -> "Collection":
    """A new collection whose vector segment is persisted after so many records."""
    settings = {"hnsw": {"sync_threshold": sync_threshold, "batch_size": min(100, sync_threshold)}}
    return client.create_collection(name, embedding_function=None, configuration=settings)  # type: ignore[arg-type]


def as_array(records: Iterable[Record]) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """The vectors of records as the client takes them."""
    return np.array([record.vector for record in records], dtype=np.float32)


def upsert(collection: "Collection", records: Mapping[str, Record]) -> None:
    """Writes all of them in one request."""
    collection.upsert(
        ids=list(records),
        embeddings=as_array(records.values()),
        documents=[record.document for record in records.values()],
        metadatas=[{"version": record.version} for record in records.values()],
    )


def fill(
    client: "ClientAPI", name: str, count: int, *, dimension: int = 8, sync_threshold: int = 1000
) -> dict[str, Record]:
    """Makes a collection with records and gives them."""
    collection = create(client, name, sync_threshold)
    records = {key: make(key, dimension=dimension) for key in (f"{name}-{number}" for number in range(count))}
    keys = list(records)
    for start in range(0, count, 500):
        upsert(collection, {key: records[key] for key in keys[start : start + 500]})
    return records


def read(collection: "Collection") -> dict[str, Record]:
    """All records of a collection, with their vectors from the vector segment."""
    found = collection.get(include=["embeddings", "documents", "metadatas"])
    vectors, documents, metadatas = found["embeddings"], found["documents"], found["metadatas"]
    assert vectors is not None
    assert documents is not None
    assert metadatas is not None
    return {
        key: Record(tuple(np.asarray(vector, dtype=np.float32).tolist()), document, int(str(metadata["version"])))
        for key, vector, document, metadata in zip(found["ids"], vectors, documents, metadatas, strict=True)
    }


def assert_equal(client: "ClientAPI", name: str, expected: Mapping[str, Record]) -> None:
    """The collection holds exactly these records, and finds them."""
    collection = client.get_collection(name, embedding_function=None)
    found = read(collection)
    wrong = {key: (expected.get(key), found.get(key)) for key in expected.keys() | found.keys()}
    wrong = {key: (wanted, held) for key, (wanted, held) in wrong.items() if wanted != held}
    assert not wrong, f"{len(wrong)} differ in {name}, such as {next(iter(wrong.items()))}"
    assert collection.count() == len(expected)
    assert_found(collection, expected)


def assert_found(collection: "Collection", records: Mapping[str, Record]) -> None:
    """A sample of the records is found by its vectors. Some may hide: the index is approximate, and where stock Chroma replays an
    update, about one start in some hundreds leaves 3 to 5 of 20 without a way to them, though `get` gives all."""
    keys = random.Random(1).sample(sorted(records), min(20, len(records)))
    if not keys:
        return
    vectors = np.array([records[key].vector for key in keys], dtype=np.float32)
    answers = collection.query(query_embeddings=vectors, n_results=min(5, len(records)))["ids"]
    hidden = [key for key, answer in zip(keys, answers, strict=True) if key not in answer]
    assert len(hidden) <= len(keys) * 3 // 10, hidden
