"""The ids that the two segments of a collection and the log have: they should serve the same records.

An id that the vector segment has and the metadata segment has not is found by queries and exists nowhere else. It gets a delete
in the log, which the engine applies to the vector segment. An id that the vector segment lacks gets its vector from the log,
where the log still has it; else it is lost, which is told where all records are compared.

The metadata segment is what counts: it is what `get` and `count` serve. Rows of the log that it has applied, and whose records it
no longer has, were undone by hand.
"""

import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from chromad.chroma import idmap, log, segment_files, sqlite, watermarks
from chromad.chroma.finding import Finding

LOST = "vectors"

_PUT = f"({log.ADD}, {log.UPSERT})"
_TEMPORARY = """
CREATE TEMP TABLE IF NOT EXISTS audit_files (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE IF NOT EXISTS audit_index (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE IF NOT EXISTS audit_records (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
# What the rows after a seq id make of a set of ids: the last delete or put decides, an update changes nothing.
_AFTER = (
    f"SELECT id, max(CASE WHEN operation = {log.DELETE} THEN seq_id END) AS gone,"  # noqa: S608 (constants)
    f" max(CASE WHEN operation IN {_PUT} THEN seq_id END) AS put"
    " FROM embeddings_queue WHERE topic = ?1 AND seq_id > ?2 GROUP BY id"
)
# The newest vector that the log has of a record which the vector segment lacks, unless the record was deleted since
_NEWEST = (
    "SELECT q.id, max(q.seq_id) AS seq_id FROM embeddings_queue q JOIN audit_records r ON r.id = q.id"  # noqa: S608 (constant)
    " WHERE q.topic = ?1 AND q.vector IS NOT NULL AND q.id NOT IN (SELECT id FROM audit_index)"
    " AND q.seq_id > coalesce((SELECT max(d.seq_id) FROM embeddings_queue d"
    f" WHERE d.topic = ?1 AND d.id = q.id AND d.operation = {log.DELETE}), 0) GROUP BY q.id"
)


def check(connection: sqlite3.Connection, directory: Path) -> Iterator[Finding]:
    """For segments that nobody writes. Memory does not grow with the records; SQLite keeps the ids in files of its own."""
    for line in _TEMPORARY.strip().splitlines():
        connection.execute(line)
    for collection in sqlite.read_collections(connection, counted=False):
        if collection.dimension is None:
            continue
        files = directory / collection.segment
        whole = segment_files.is_whole(files) or not (files / idmap.FILE).exists()
        _take(connection, collection, files)
        surplus = _count(connection, "audit_index", "audit_records")
        if surplus:
            yield Finding(
                "ids",
                f"{collection.name}: {surplus} ids of its vectors are of no record, so that queries give what does not exist",
                count=surplus,
                mend=partial(_drop, topic=collection.topic),
            )
        # Counted now: a mend changes the log.
        lacking = _lacking(connection, collection.topic) if whole else 0
        if lacking:
            yield Finding(
                "ids",
                f"{collection.name}: {lacking} records are not among its vectors, though the log has theirs",
                count=lacking,
                mend=partial(_put, topic=collection.topic),
            )
        lost = _count(connection, "audit_records", "audit_index") - lacking if whole else 0
        if lost:
            fact = f"{collection.name}: {lost} records have no vector; neither the segment nor the log has one"
            yield Finding(LOST, fact, "restore a backup, or write these records again", lost, loses=True)


def _take(connection: sqlite3.Connection, collection: sqlite.Collection, files: Path) -> None:
    """Fills the temporary tables: ids that a start makes of the files and the log, and of the records and the log."""
    for table in ("audit_files", "audit_index", "audit_records"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 (constants)
    connection.executemany(
        "INSERT OR IGNORE INTO audit_files VALUES (?)", ((each,) for each in segment_files.ids(files))
    )
    there = connection.execute("SELECT 1 FROM audit_files LIMIT 1").fetchone() is not None
    persisted = (collection.persisted or 0) if there else 0
    connection.execute("INSERT INTO audit_index SELECT id FROM audit_files")
    connection.execute(
        "INSERT OR IGNORE INTO audit_records SELECT embedding_id FROM embeddings WHERE segment_id IN"
        " (SELECT id FROM segments WHERE collection = ? AND scope = 'METADATA')",
        (collection.id,),
    )
    for table, seq_id in (("audit_index", persisted), ("audit_records", collection.written)):
        connection.execute(
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM ({_AFTER}) WHERE gone > coalesce(put, 0))",  # noqa: S608 (constants)
            (collection.topic, seq_id),
        )
        connection.execute(
            f"INSERT OR IGNORE INTO {table} SELECT id FROM ({_AFTER}) WHERE put > coalesce(gone, 0)",  # noqa: S608 (constants)
            (collection.topic, seq_id),
        )


def _count(connection: sqlite3.Connection, table: str, other: str) -> int:
    (count,) = connection.execute(
        f"SELECT count(*) FROM {table} WHERE id NOT IN (SELECT id FROM {other})"  # noqa: S608 (constants)
    ).fetchone()
    return int(count)


def _drop(connection: sqlite3.Connection, *, topic: str) -> None:
    rows = connection.execute("SELECT id FROM audit_index WHERE id NOT IN (SELECT id FROM audit_records)").fetchall()
    for (record,) in rows:
        watermarks.log_delete(connection, topic, record)


def _lacking(connection: sqlite3.Connection, topic: str) -> int:
    (count,) = connection.execute(f"SELECT count(*) FROM ({_NEWEST})", (topic,)).fetchone()  # noqa: S608 (constant)
    return int(count)


def _put(connection: sqlite3.Connection, *, topic: str) -> None:
    """An upsert without metadata leaves the record's as it is."""
    connection.execute(
        "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata)"  # noqa: S608 (constants)
        f" SELECT {log.UPSERT}, q.topic, q.id, q.vector, q.encoding, '{{}}' FROM embeddings_queue q"
        f" JOIN ({_NEWEST}) n ON n.seq_id = q.seq_id ORDER BY q.seq_id",
        (topic,),
    )
