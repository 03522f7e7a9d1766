"""The two segments of each collection in Chroma's system tables. A collection without one of them is invisible, to Chroma and
to whatever joins these tables."""

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from chromad.chroma import segment, segment_files, sqlite
from chromad.chroma.finding import NO_WAY, Finding
from chromad.names import is_uuid

_TYPES = {
    "METADATA": "urn:chroma:segment/metadata/sqlite",
    "VECTOR": "urn:chroma:segment/vector/hnsw-local-persisted",
}


def check(connection: sqlite3.Connection, directory: Path) -> Iterator[Finding]:
    """Collections that have not exactly one segment of each scope."""
    for collection, name in connection.execute("SELECT id, name FROM collections ORDER BY name").fetchall():
        for scope in _TYPES:
            found = [
                each
                for (each,) in connection.execute(
                    "SELECT id FROM segments WHERE collection = ? AND scope = ?", (collection, scope)
                ).fetchall()
            ]
            if len(found) > 1:
                yield _several(connection, directory, name, scope, found)
            elif not found and scope == "METADATA":
                yield _lacks_metadata(connection, directory, collection, name)
            elif not found:
                yield _lacks_vectors(connection, directory, collection, name)


def _several(connection: sqlite3.Connection, directory: Path, name: str, scope: str, found: list[str]) -> Finding:
    used = [each for each in found if _is_used(connection, directory, each)]
    if len(used) > 1:
        fact = f"the collection {name!r} has {len(used)} {scope} segments with something in them"
        return Finding("system", fact, NO_WAY, len(used))
    spare = [each for each in found if each != (used or found)[0]]

    def mend(connection: sqlite3.Connection) -> None:
        for each in spare:
            connection.execute("DELETE FROM segments WHERE id = ?", (each,))
            connection.execute("DELETE FROM max_seq_id WHERE segment_id = ?", (each,))

    return Finding(
        "system", f"the collection {name!r} has {len(found)} {scope} segments; the empty ones are left out", mend=mend
    )


def _is_used(connection: sqlite3.Connection, directory: Path, segment_id: str) -> bool:
    row = connection.execute("SELECT 1 FROM embeddings WHERE segment_id = ? LIMIT 1", (segment_id,)).fetchone()
    return row is not None or (directory / segment_id).is_dir()


def _lacks_metadata(connection: sqlite3.Connection, directory: Path, collection: str, name: str) -> Finding:
    """Its records are there, under a segment that nobody knows; or it never had any."""
    orphans = [
        each
        for (each,) in connection.execute(
            "SELECT DISTINCT segment_id FROM embeddings WHERE segment_id NOT IN (SELECT id FROM segments)"
        ).fetchall()
    ]
    lacking = _lacking(connection, "METADATA")
    fact = f"the collection {name!r} has no metadata segment"
    (dimension,) = connection.execute("SELECT dimension FROM collections WHERE id = ?", (collection,)).fetchone()
    if orphans and dimension is not None:
        chosen = orphans[0] if len(orphans) == lacking == 1 else _by_ids(connection, directory, collection, orphans)
        if chosen is None or not is_uuid(chosen):
            return Finding("system", f"{fact}, and it cannot be told which of {len(orphans)} is its", NO_WAY)
        (count,) = connection.execute("SELECT count(*) FROM embeddings WHERE segment_id = ?", (chosen,)).fetchone()
        return Finding(
            "system", f"{fact}; {count} records of none are its", count=count, mend=_add(chosen, "METADATA", collection)
        )
    logged = connection.execute(
        "SELECT 1 FROM embeddings_queue WHERE topic = ? LIMIT 1", (sqlite.topic(collection),)
    ).fetchone()
    if dimension is not None and not logged:
        return Finding("system", f"{fact}, and its records are gone", NO_WAY)
    return Finding("system", f"{fact}; it gets one", mend=_add(str(uuid.uuid4()), "METADATA", collection))


def _by_ids(connection: sqlite3.Connection, directory: Path, collection: str, candidates: list[str]) -> str | None:
    """The one metadata segment whose records the collection's log or vector segment knows."""
    row = connection.execute(
        "SELECT id FROM segments WHERE collection = ? AND scope = 'VECTOR'", (collection,)
    ).fetchone()
    ids = {
        each
        for (each,) in connection.execute(
            "SELECT id FROM embeddings_queue WHERE topic = ?", (sqlite.topic(collection),)
        )
    }
    if row is not None:
        ids |= set(segment_files.ids(directory / row[0]))
    fitting = []
    for each in candidates:
        held = {
            record
            for (record,) in connection.execute("SELECT embedding_id FROM embeddings WHERE segment_id = ?", (each,))
        }
        if held and len(held & ids) * 2 > len(held):
            fitting.append(each)
    return fitting[0] if len(fitting) == 1 else None


def _lacks_vectors(connection: sqlite3.Connection, directory: Path, collection: str, name: str) -> Finding:
    """Its files are there, under a name that nobody knows; or the log has all; or the vectors are lost."""
    known = {each for (each,) in connection.execute("SELECT id FROM segments")}
    held = {
        record
        for (record,) in connection.execute(
            "SELECT embedding_id FROM embeddings WHERE segment_id IN"
            " (SELECT id FROM segments WHERE collection = ? AND scope = 'METADATA')",
            (collection,),
        )
    }
    fitting = []
    for path in segment.directories(directory):
        ids = set() if path.name in known else set(segment_files.ids(path))
        if ids and len(ids & held) * 2 > len(ids):
            fitting.append(path.name)
    fact = f"the collection {name!r} has no vector segment"
    if len(fitting) > 1:
        return Finding("system", f"{fact}, and {len(fitting)} directories may be its", NO_WAY)
    if fitting:
        return Finding("system", f"{fact}; {fitting[0]} is its", mend=_add(fitting[0], "VECTOR", collection))
    (dimension,) = connection.execute("SELECT dimension FROM collections WHERE id = ?", (collection,)).fetchone()
    if dimension is not None and not held:
        return Finding("system", f"{fact}, and it cannot be told which directory is its", NO_WAY)
    return Finding("system", f"{fact}; it gets one", mend=_add(str(uuid.uuid4()), "VECTOR", collection))


def _add(segment_id: str, scope: str, collection: str) -> Callable[[sqlite3.Connection], None]:
    def mend(connection: sqlite3.Connection) -> None:
        # Chroma before 0.5 has a topic as well.
        row = {"id": segment_id, "type": _TYPES[scope], "scope": scope, "collection": collection}
        if "topic" in {each[1] for each in connection.execute("PRAGMA table_info(segments)")}:
            row["topic"] = sqlite.topic(collection)
        connection.execute(
            f"INSERT INTO segments ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",  # noqa: S608 (constants)
            tuple(row.values()),
        )

    return mend


def _lacking(connection: sqlite3.Connection, scope: str) -> int:
    (count,) = connection.execute(
        "SELECT count(*) FROM collections WHERE id NOT IN (SELECT collection FROM segments WHERE scope = ? AND collection IS NOT NULL)",
        (scope,),
    ).fetchone()
    return int(count)
