"""Chroma's tables themselves: those that are missing, those that have lost their keys, and their indexes."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from chromad.chroma import sqlite, watermarks
from chromad.chroma.finding import NO_WAY, Finding, run

_BASE = (
    "collections",
    "collection_metadata",
    "databases",
    "embedding_metadata",
    "embeddings",
    "embeddings_queue",
    "max_seq_id",
    "segment_metadata",
    "segments",
    "tenants",
)
# Since which migration there are others
_LATER = {
    "maintenance_log": ("sysdb", 8),
    "embeddings_queue_config": ("embeddings_queue", 2),
    "embedding_metadata_array": ("metadb", 6),
}
_ARRAY_COLUMNS = "key TEXT NOT NULL, string_value TEXT, int_value INTEGER, float_value REAL, bool_value INTEGER"
# What can be made anew. Without the others nothing can be told.
_ANEW = {
    "tenants": ("CREATE TABLE tenants (id TEXT PRIMARY KEY, UNIQUE (id))",),
    "segment_metadata": (
        "CREATE TABLE segment_metadata (segment_id TEXT REFERENCES segments(id) ON DELETE CASCADE, key TEXT NOT NULL,"
        " str_value TEXT, int_value INTEGER, float_value REAL, bool_value INTEGER, PRIMARY KEY (segment_id, key))",
    ),
    "maintenance_log": (
        "CREATE TABLE maintenance_log (id INT PRIMARY KEY, timestamp INT NOT NULL, operation TEXT NOT NULL)",
    ),
    "embeddings_queue_config": ("CREATE TABLE embeddings_queue_config (id INTEGER PRIMARY KEY, config_json_str TEXT)",),
    "embeddings_queue": (
        "CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY, created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,"
        " operation INTEGER NOT NULL, topic TEXT NOT NULL, id TEXT NOT NULL, vector BLOB, encoding TEXT, metadata TEXT)",
    ),
    "embedding_metadata_array": (
        f"CREATE TABLE embedding_metadata_array (id INTEGER NOT NULL REFERENCES embeddings(id), {_ARRAY_COLUMNS})",
        "CREATE INDEX embedding_metadata_array_id_key ON embedding_metadata_array (id, key)",
        *(
            f"CREATE INDEX embedding_metadata_array_key_{kind} ON embedding_metadata_array (key, {kind}_value)"
            f" WHERE {kind}_value IS NOT NULL"
            for kind in ("string", "int", "float")
        ),
    ),
}
# Tables that hold what clients wrote
_HELD = {"embeddings_queue": "writes that were yet to be applied", "embedding_metadata_array": "lists in metadata"}
# What the engine's statements rely on
_ROWIDS = {"embeddings": "id", "embeddings_queue": "seq_id"}
_UNIQUE = {
    "collections": ("id",),
    "databases": ("id",),
    "embedding_metadata": ("id", "key"),
    "embeddings": ("segment_id", "embedding_id"),
    "max_seq_id": ("segment_id",),
    "segments": ("id",),
    "tenants": ("id",),
}


def missing(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """Tables that are missing, for the migrations that the file says it has had; and gaps among these."""
    levels = dict(connection.execute("SELECT dir, max(version) FROM migrations GROUP BY dir").fetchall())
    for kind, count in connection.execute("SELECT dir, count(*) FROM migrations GROUP BY dir").fetchall():
        if count != levels[kind]:
            fact = f"the table of migrations lacks {levels[kind] - count} of {kind}'s {levels[kind]}"
            yield Finding("tables", fact, f"{NO_WAY}: Chroma itself refuses it")
    wanted = [*_BASE, *(name for name, (kind, level) in _LATER.items() if levels.get(kind, 0) >= level)]
    for name in wanted:
        if sqlite.has_table(connection, name):
            continue
        if name == "max_seq_id":
            yield Finding("tables", "the table max_seq_id is missing", mend=_make_watermarks)
        elif name in _ANEW:
            held = _HELD.get(name)
            yield Finding(
                "tables",
                f"the table {name} is missing{f', and with it {held}' if held else ''}",
                mend=run(*_ANEW[name]),
                loses=held is not None,
            )
        else:
            yield Finding("tables", f"the table {name} is missing", NO_WAY)


def _make_watermarks(connection: sqlite3.Connection) -> None:
    (level,) = connection.execute("SELECT max(version) FROM migrations WHERE dir = 'metadb'").fetchone()
    kind = "INTEGER" if level >= 5 else "BLOB NOT NULL"
    connection.execute(f"CREATE TABLE max_seq_id (segment_id TEXT PRIMARY KEY, seq_id {kind})")
    for (segment_id,) in connection.execute("SELECT id FROM segments WHERE scope = 'METADATA'").fetchall():
        watermarks.set_watermark(connection, segment_id, watermarks.applied_by(connection, segment_id))


def keys(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """Keys that tables have lost, as those do that a program has made anew from their rows: the engine's upserts need them."""
    for table, column in _ROWIDS.items():
        info = connection.execute(f"PRAGMA table_info({table})").fetchall()
        if not any(name == column and key and kind.upper() == "INTEGER" for _, name, kind, _, _, key in info):
            yield Finding("tables", f"the table {table} was made anew without its primary key", NO_WAY)
    for table, columns in _UNIQUE.items():
        if columns in _unique(connection, table):
            continue
        listed = ", ".join(columns)
        (twice,) = connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM {table} GROUP BY {listed} HAVING count(*) > 1)"  # noqa: S608 (constants)
        ).fetchone()
        index = f"CREATE UNIQUE INDEX chromad_{table}_key ON {table} ({listed})"
        fact = f"the table {table} was made anew without its key ({listed})"
        if not twice:
            yield Finding("tables", fact, mend=run(index))
        elif table == "max_seq_id":
            # The lowest is always right: what is applied twice stays what it was.
            lowest = "DELETE FROM max_seq_id WHERE rowid NOT IN (SELECT rowid FROM (SELECT rowid, min(seq_id) FROM max_seq_id GROUP BY segment_id))"
            yield Finding("tables", f"{fact}, and has {twice} segments twice", count=twice, mend=run(lowest, index))
        else:
            yield Finding("tables", f"{fact}, and has {twice} rows twice", NO_WAY, twice)


def _unique(connection: sqlite3.Connection, table: str) -> list[tuple[str, ...]]:
    indexes = connection.execute(
        'SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial', (table,)
    ).fetchall()
    return [
        tuple(column for (column,) in connection.execute("SELECT name FROM pragma_index_info(?) ORDER BY seqno", index))
        for index in indexes
    ]


def indexes(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """Indexes that Chroma makes by its migrations."""
    (level,) = connection.execute("SELECT coalesce(max(version), 0) FROM migrations WHERE dir = 'metadb'").fetchone()
    wanted = {}
    if level >= 4:
        wanted = {
            f"embedding_metadata_{kind}_value": f"embedding_metadata (key, {kind}_value) WHERE {kind}_value IS NOT NULL"
            for kind in ("int", "float", "string")
        }
    if level >= 6:
        wanted["embedding_metadata_array_id_key"] = "embedding_metadata_array (id, key)"
        wanted |= {
            f"embedding_metadata_array_key_{kind}": f"embedding_metadata_array (key, {kind}_value)"
            f" WHERE {kind}_value IS NOT NULL"
            for kind in ("string", "int", "float")
        }
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    missing = sorted(wanted.keys() - found)
    if missing:
        yield Finding(
            "indexes",
            f"indexes are missing, so that filters are slow: {', '.join(missing)}",
            count=len(missing),
            mend=run(*(f"CREATE INDEX {name} ON {wanted[name]}" for name in missing)),
        )
