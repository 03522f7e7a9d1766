"""What a directory of stock Chroma holds, record by record, in a database of its own: to compare with what becomes of it.

Read from a private copy of its database and from its own segments, before either is changed. Tables are those that Chroma has
had since 0.4.15. Documents and metadata are kept as digests, vectors as they are; memory does not grow with the records,
but for some 200 bytes for each id of the segment that is being read.
"""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from chromad import documents
from chromad.chroma import legacy, log, sqlite

Progress = Callable[[str, int, int], None]
Value = str | int | float | bool | list[Any]

DOCUMENT, URI = "chroma:document", "chroma:uri"
_COLUMNS = ("string_value", "int_value", "float_value", "bool_value")
_EACH = 500
# Bytes that a record takes here beside its vector and its id
_OVERHEAD = 150

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE records (collection TEXT, id TEXT, document BLOB, metadata BLOB, UNIQUE (collection, id));
CREATE TABLE vectors (collection TEXT, id TEXT, vector BLOB, logged BLOB, UNIQUE (collection, id));
"""


@dataclass(frozen=True)
class HeldCollection:
    """A collection as the directory has it."""

    held: sqlite.Collection
    metadata: dict[str, Value]
    cosine: bool
    metadata_segment: str


@dataclass(frozen=True)
class Record:
    """document and metadata: digests. vectors: those that are right (little-endian 32-bit floats): the one that Chroma would
    serve, and the one that the log says where that differs; none when neither files nor log have it."""

    id: str
    document: bytes
    metadata: bytes
    vectors: list[bytes]


def document_digest(document: object) -> bytes:
    """What stands for a document."""
    return _digest(document)


def metadata_digest(uri: object, metadata: dict[str, Any] | None) -> bytes:
    """What stands for the rest of a record but its vector. No metadata and empty ones are the same."""
    return _digest([uri, metadata or None])


def _digest(value: object) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")).digest()[
        :16
    ]


def room(data_dir: Path) -> int:
    """The most bytes that `Contents` of a directory take."""
    with sqlite.connect(data_dir) as connection:
        (size,) = connection.execute(
            "SELECT coalesce(sum(n * (? + 8 * coalesce(dimension, 0))), 0) FROM (SELECT c.dimension, (SELECT count(*) FROM"
            " embeddings e WHERE e.segment_id = s.id) n FROM collections c JOIN segments s ON s.collection = c.id"
            " AND s.scope = 'METADATA')",
            (2 * _OVERHEAD,),
        ).fetchone()
    return int(size)


class Contents:
    """The records of a directory, in a database in a directory that is made, and removed at the end."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self._directory = directory
        self._store = sqlite3.connect(directory / "contents.sqlite3", isolation_level=None)
        self._store.executescript(_SCHEMA)
        self.collections: list[HeldCollection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def read(self, database: Path, segments: Path, progress: Progress) -> None:
        """Takes in a directory. database: the one with (a copy of) its database, whose log is applied in the mind only;
        segments: the one with its vector segments. Raises ChromadError when SQLite cannot read it, OSError."""
        with sqlite.connect(database) as connection:
            self.collections = list(_collections(connection, segments))
            total = connection.execute("SELECT count(*) FROM embeddings").fetchone()[0]
            done = 0

            def tick() -> None:
                nonlocal done
                done += 1
                if done % _EACH == 0:
                    progress("reading what it holds", done, 2 * total)

            for collection in self.collections:
                self._store.execute("BEGIN")
                reader = _Reader(self._store, connection, collection, tick)
                reader.take_metadata()
                reader.take_segment(segments / collection.held.segment)
                reader.take_log()
                self._store.execute("COMMIT")

    def count(self, collection: HeldCollection) -> int:
        """How many records a collection has."""
        (count,) = self._store.execute(
            "SELECT count(*) FROM records WHERE collection = ?", (collection.held.id,)
        ).fetchone()
        return int(count)

    def pages(self, collection: HeldCollection, size: int) -> Iterator[list[Record]]:
        """The records of a collection, so many at a time."""
        with closing(self._store.cursor()) as cursor:
            cursor.execute(
                "SELECT r.id, r.document, r.metadata, v.vector, v.logged FROM records r LEFT JOIN vectors v"
                " ON v.collection = r.collection AND v.id = r.id WHERE r.collection = ? ORDER BY r.rowid",
                (collection.held.id,),
            )
            while rows := cursor.fetchmany(size):
                yield [
                    Record(key, document, metadata, [each for each in vectors if each is not None])
                    for key, document, metadata, *vectors in rows
                ]


class _Reader:
    """Takes in one collection."""

    def __init__(
        self,
        store: sqlite3.Connection,
        connection: sqlite3.Connection,
        collection: HeldCollection,
        tick: Callable[[], None],
    ) -> None:
        self._store = store
        self._connection = connection
        self._collection = collection
        self._tick = tick
        self._pickle_is_whole = True
        self._has_arrays = sqlite.has_table(connection, "embedding_metadata_array")

    def take_metadata(self) -> None:
        """The records that the metadata segment has."""
        rows = self._connection.execute(
            "SELECT id, embedding_id FROM embeddings WHERE segment_id = ? ORDER BY id",
            (self._collection.metadata_segment,),
        )
        for number, record in rows:
            self._put(record, self._fields(number))
            self._tick()

    def take_segment(self, directory: Path) -> None:
        """The vectors that the segment's files have; NULL stands for one that it should have."""
        from chromad.chroma.salvage import Salvage  # here: numpy is not for the daemon

        if not self._collection.held.dimension or not directory.is_dir():
            return
        found = Salvage(directory, self._collection.held.dimension, self._collection.cosine)
        for record, vector in found.vectors():
            self._set_vector(record, vector)
            self._tick()
        for record in found.lost:
            self._set_vector(record, None)
        self._pickle_is_whole = not found.problem

    def take_log(self) -> None:
        """What the log changes: vectors since the segment was persisted, the rest where a write was yet to be applied."""
        collection = self._collection.held
        again = log.ids_added_again(self._connection, collection)
        # Of these it is known that they were in a segment that no longer says so.
        before = set() if self._pickle_is_whole else again | log.ids_without_vector(self._connection, collection)
        rows = self._connection.execute(
            "SELECT id, seq_id, operation, vector IS NOT NULL FROM embeddings_queue WHERE topic = ? ORDER BY id, seq_id",
            (collection.topic,),
        )
        for record, group in groupby(rows, lambda row: str(row[0])):
            changes = [(seq, operation, bool(vector)) for _, seq, operation, vector in group]
            self._apply(record, changes, was_there=record in before, added_again=record in again)
            if any(seq > collection.written for seq, *_ in changes):
                self._apply_metadata(record)

    def _apply(
        self, record: str, changes: Sequence[tuple[int, int, bool]], *, was_there: bool, added_again: bool
    ) -> None:
        since = [change for change in changes if change[0] > (self._collection.held.persisted or 0)]
        there = self._one("SELECT 1 FROM vectors WHERE collection = ? AND id = ?", record) is not None
        present, served = log.outcome(since, existed=there or was_there)
        known, logged = log.outcome(changes, existed=was_there or added_again)
        if not present:
            self._store.execute(
                "DELETE FROM vectors WHERE collection = ? AND id = ?", (self._collection.held.id, record)
            )
        elif served:
            self._set_vector(record, self._logged(served))
        if known and logged and logged != served:
            self._set_vector(record, self._logged(logged), column="logged")

    def _apply_metadata(self, record: str) -> None:
        """Rows of the log that the metadata segment has yet to apply."""
        found = self._connection.execute(
            "SELECT id FROM embeddings WHERE segment_id = ? AND embedding_id = ?",
            (self._collection.metadata_segment, record),
        ).fetchone()
        fields = self._fields(found[0]) if found else None
        rows = self._connection.execute(
            "SELECT operation, metadata FROM embeddings_queue WHERE topic = ? AND id = ? AND seq_id > ? ORDER BY seq_id",
            (self._collection.held.topic, record, self._collection.held.written),
        )
        for operation, text in rows:
            if operation == log.DELETE:
                fields = None
            elif (operation == log.UPDATE and fields is None) or (operation == log.ADD and fields is not None):
                continue
            else:
                merged = {**(fields or {}), **documents.parse(text or "{}")}
                fields = {key: value for key, value in merged.items() if value is not None}
        if fields is None:
            self._store.execute(
                "DELETE FROM records WHERE collection = ? AND id = ?", (self._collection.held.id, record)
            )
        else:
            self._put(record, fields)

    def _fields(self, number: int) -> dict[str, Value]:
        """All that the metadata segment has of a record, the document among it."""
        found: dict[str, Value] = {}
        columns = ", ".join(_COLUMNS)
        for key, *values in self._connection.execute(
            f"SELECT key, {columns} FROM embedding_metadata WHERE id = ?",  # noqa: S608 (constants)
            (number,),
        ):
            value = _value(values)
            if value is not None:
                found[key] = value
        if self._has_arrays:
            for key, *values in self._connection.execute(
                f"SELECT key, {columns} FROM embedding_metadata_array WHERE id = ? ORDER BY rowid",  # noqa: S608 (constants)
                (number,),
            ):
                into = found.setdefault(key, [])
                if isinstance(into, list):
                    into.append(_value(values))
        return found

    def _put(self, record: str, fields: dict[str, Value]) -> None:
        document, uri = fields.pop(DOCUMENT, None), fields.pop(URI, None)
        self._store.execute(
            "INSERT INTO records VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " document = excluded.document, metadata = excluded.metadata",
            (self._collection.held.id, record, document_digest(document), metadata_digest(uri, fields)),
        )

    def _set_vector(self, record: str, vector: bytes | None, *, column: str = "vector") -> None:
        self._store.execute(
            f"INSERT INTO vectors (collection, id, {column}) VALUES (?, ?, ?)"  # noqa: S608 (constants)
            f" ON CONFLICT DO UPDATE SET {column} = excluded.{column}",
            (self._collection.held.id, record, vector),
        )

    def _logged(self, seq: int) -> bytes | None:
        vector, encoding = self._connection.execute(
            "SELECT vector, encoding FROM embeddings_queue WHERE seq_id = ?", (seq,)
        ).fetchone()
        return bytes(vector) if encoding == "FLOAT32" else None

    def _one(self, statement: str, record: str) -> Any:
        return self._store.execute(statement, (self._collection.held.id, record)).fetchone()


def _value(values: Sequence[Any]) -> Value | None:
    text, integer, number, truth = values
    if truth is not None:
        return bool(truth)
    return next((each for each in (text, integer, number) if each is not None), None)


def _collections(connection: sqlite3.Connection, segments: Path) -> Iterator[HeldCollection]:
    for found in sqlite.read_collections(connection, counted=False):
        (metadata_segment,) = connection.execute(
            "SELECT id FROM segments WHERE collection = ? AND scope = 'METADATA'", (found.id,)
        ).fetchone()
        persisted = found.persisted
        if persisted is None and legacy.is_old(segments / found.segment):
            # Until 0.5 it was in the pickle alone.
            persisted = legacy.read(segments / found.segment).seq_id
        yield HeldCollection(
            replace(found, persisted=persisted),
            _collection_metadata(connection, found.id),
            sqlite.is_cosine(connection, found),
            metadata_segment,
        )


def _collection_metadata(connection: sqlite3.Connection, collection: str) -> dict[str, Value]:
    cursor = connection.execute("SELECT * FROM collection_metadata WHERE collection_id = ?", (collection,))
    names = [column[0] for column in cursor.description]
    found = {}
    for row in cursor:
        fields = dict(zip(names, row, strict=True))
        # bool_value is newer than the others.
        value = _value([fields.get(name) for name in ("str_value", "int_value", "float_value", "bool_value")])
        if value is not None:
            found[fields["key"]] = value
    return found
