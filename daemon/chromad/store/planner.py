"""What SQLite's planner is given beside Chroma's tables: statistics, and indexes that hold all that a filter asks for.

Chroma never runs ANALYZE, so that SQLite walks all records of a collection and looks each of them up in a filter's matches.
With these rows it begins with the matches. They are the same whatever the tables hold: SQLite reads them when it opens the
file or sees its schema changed, and they need no upkeep. The figures were searched for; daemon/docs/filters.md has what was tried.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chromad.output import log as journal

_SEGMENTS = "chromad_embeddings_segment"
# Table, index, and how many rows there are, with one value of the first column, and with one of the first two:
# https://sqlite.org/fileformat2.html#the_sqlite_stat1_table
STATISTICS = {
    ("embeddings", "sqlite_autoindex_embeddings_1", "100000000 1000000 1"),
    ("embeddings", _SEGMENTS, "100000000 1000000"),
}


def _values(table: str, prefix: str) -> dict[str, str]:
    """Chroma's own indexes on values, by their names, with the record's row id beside the value."""
    return {
        name: f"CREATE INDEX {name} ON {table} (key, {kind}_value, id) WHERE {kind}_value IS NOT NULL"
        for kind in ("string", "int", "float")
        for name in (prefix.format(kind),)
    }


# By their names, as SQLite keeps their texts. Those that Chroma has made under these names are replaced.
INDEXES = {
    **_values("embedding_metadata", "embedding_metadata_{}_value"),
    **_values("embedding_metadata_array", "embedding_metadata_array_key_{}"),
    **{
        f"chromad_{table}_bool": f"CREATE INDEX chromad_{table}_bool ON {table} (key, bool_value, id) WHERE bool_value IS NOT NULL"
        for table in ("embedding_metadata", "embedding_metadata_array")
    },
    _SEGMENTS: f"CREATE INDEX {_SEGMENTS} ON embeddings (segment_id)",
    "chromad_segments_collection": "CREATE INDEX chromad_segments_collection ON segments (collection)",
}
_STEPS = 100_000  # of SQLite's virtual machine, between two ticks


def inform(connection: sqlite3.Connection) -> None:
    """Puts the statistics there, of which an engine that is open takes notice. A matter of a moment, whatever the tables hold.

    connection: in autocommit. Does nothing where no Chroma has made its tables yet. What SQLite refuses, for want of space or
    for damage, is told of in the journal: without it all is served, but slowly.
    """
    if not is_informed(connection) and _has_records(connection):
        with _forgiven(connection):
            # The only way to have this table made. Those of a whole ANALYZE would be of one moment.
            connection.execute("DROP TABLE IF EXISTS sqlite_stat1")
            connection.execute("DROP TABLE IF EXISTS sqlite_stat4")
            connection.execute("ANALYZE sqlite_schema")
            connection.executemany("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", sorted(STATISTICS))


def is_informed(connection: sqlite3.Connection) -> bool:
    """Whether the statistics are there, and no others."""
    present = _present(connection, "table")
    if "sqlite_stat1" not in present:
        return False
    if "sqlite_stat4" in present and connection.execute("SELECT 1 FROM sqlite_stat4 LIMIT 1").fetchone():
        return False
    return set(connection.execute("SELECT tbl, idx, stat FROM sqlite_stat1")) == STATISTICS


def index(connection: sqlite3.Connection, tick: Callable[[], None] = lambda: None) -> None:
    """Makes the indexes that are missing. A matter of a moment where that was done before; else it reads all metadata.

    connection: in autocommit, to a database that has had all migrations. tick: called a few times a second. What SQLite
    refuses is told of, as in `inform`, and so is a disk that has less free than the database takes: it is not to be filled.
    """
    missing = missing_indexes(connection)
    if not missing:
        return
    (path,) = (file for _, name, file in connection.execute("PRAGMA database_list") if name == "main")
    status = os.statvfs(path)
    if status.f_bavail * status.f_frsize < os.path.getsize(path):
        journal.warning("filters stay slow: too little space beside %s for the indexes %s", path, ", ".join(missing))
        return
    started = time.monotonic()
    connection.set_progress_handler(tick, _STEPS)
    with _forgiven(connection):
        for name in missing:
            connection.execute(f"DROP INDEX IF EXISTS {name}")
            connection.execute(INDEXES[name])
        journal.info("made %d indexes for filters in %.2f s", len(missing), time.monotonic() - started)
    connection.set_progress_handler(None, 0)


def missing_indexes(connection: sqlite3.Connection) -> list[str]:
    """The names of indexes that are not there, or not as they should be."""
    present = _present(connection, "index")
    return [name for name, text in INDEXES.items() if present.get(name) != text]


def _present(connection: sqlite3.Connection, kind: str) -> dict[str, str]:
    return dict(connection.execute("SELECT name, sql FROM main.sqlite_master WHERE type = ?", (kind,)))


def _has_records(connection: sqlite3.Connection) -> bool:
    return "embeddings" in _present(connection, "table")


@contextmanager
def _forgiven(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and no reason not to go on."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        journal.warning("SQLite's planner is not told what makes filters fast: %s", error)
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
