"""What SQLite's planner is given beside Chroma's tables: statistics, and indexes that hold all that a filter asks for.

Chroma never runs ANALYZE, so that SQLite walks all records of a collection and looks each of them up in a filter's matches.
With these rows it begins with the matches. They are the same whatever the tables hold: SQLite reads them when it opens the
file or sees its schema changed, and they need no upkeep. Without the indexes they would make small collections slower. The
figures were searched for; daemon/docs/filters.md has what was tried.
"""

import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from chromad.chroma import space
from chromad.chroma.ticks import ticking
from chromad.errors import TryAgain
from chromad.logs.lines import log as journal

_SEGMENTS = "chromad_embeddings_segment"
# Table, index, and how many rows there are, with one value of the first column, and with one of the first two:
# https://sqlite.org/fileformat2.html#the_sqlite_stat1_table
STATISTICS = {
    ("embeddings", "sqlite_autoindex_embeddings_1", "100000000 1000000 1"),
    # In its place where a table has lost its key: see systables.keys. SQLite does not mind a row for an index that is not there.
    ("embeddings", "chromad_embeddings_key", "100000000 1000000 1"),
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
_FEW = 10_000  # rows: an index of them is a matter of a moment
# What has kept filters slow, and was told once: starts try twice, and a service that allows resets every few seconds.
_told: set[str] = set()


def inform(connection: sqlite3.Connection) -> None:
    """Puts the statistics there, of which an engine that is open takes notice. A matter of a moment, whatever the tables hold.

    connection: in autocommit. Does nothing where indexes are missing, as where no Chroma has made its tables yet. What SQLite
    refuses, for want of space or for damage, is told of in the journal, once: without it all is served, but slowly.
    """
    if not missing_indexes(connection) and not is_informed(connection):
        _forgiven(connection, partial(_put_statistics, connection))


def is_informed(connection: sqlite3.Connection) -> bool:
    """Whether the statistics are there, and no others."""
    present = _present(connection, "table")
    if "sqlite_stat1" not in present:
        return False
    if "sqlite_stat4" in present and connection.execute("SELECT 1 FROM sqlite_stat4 LIMIT 1").fetchone():
        return False
    return set(connection.execute("SELECT tbl, idx, stat FROM sqlite_stat1")) == STATISTICS


def index(connection: sqlite3.Connection, tick: Callable[[], None] = lambda: None, *, serving: bool = False) -> None:
    """Makes the indexes that are missing. A matter of a moment where that was done before; else it reads all metadata.

    connection: in autocommit, to a database that has had all migrations. tick: called a few times a second; what it raises
    ends the work, and what was made stays. serving: clients wait meanwhile, so that nothing is done for more than a few rows.
    What SQLite refuses is told of, as in `inform`, and so is too little space: no disk is to be filled.
    """
    missing = missing_indexes(connection)
    if not missing or (serving and not _has_few(connection)):
        return
    started = time.monotonic()
    for name in missing:
        try:
            _check_space(connection, len(missing))
        except TryAgain as error:
            _tell("space", error.message)
            break
        # SQLite moves the WAL into the file after each.
        _forgiven(connection, partial(_make, connection, name, tick))
        tick()
    if made := len(missing) - len(missing_indexes(connection)):
        journal.info("made %d indexes for filters in %.2f s", made, time.monotonic() - started)


def missing_indexes(connection: sqlite3.Connection) -> list[str]:
    """The names of indexes that are not there, or not as they should be."""
    present = _present(connection, "index")
    return [name for name, text in INDEXES.items() if present.get(name) != text]


def _present(connection: sqlite3.Connection, kind: str) -> dict[str, str]:
    return dict(connection.execute("SELECT name, sql FROM main.sqlite_master WHERE type = ?", (kind,)))


def _put_statistics(connection: sqlite3.Connection) -> None:
    # The only way to have this table made. Those of a whole ANALYZE would be of one moment.
    connection.execute("DROP TABLE IF EXISTS sqlite_stat1")
    connection.execute("DROP TABLE IF EXISTS sqlite_stat4")
    connection.execute("ANALYZE sqlite_schema")
    connection.executemany("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", sorted(STATISTICS))


def _make(connection: sqlite3.Connection, name: str, tick: Callable[[], None]) -> None:
    with ticking(connection, tick, _STEPS):
        connection.execute(f"DROP INDEX IF EXISTS {name}")
        connection.execute(INDEXES[name])


def _has_few(connection: sqlite3.Connection) -> bool:
    """Whether the tables hold few rows, or none, as soon after a client's reset. By row ids, without counting them."""
    last = (
        connection.execute(f"SELECT coalesce(max(rowid), 0) FROM {table}").fetchone()[0]  # noqa: S608 (constants)
        for table in ("embeddings", "embedding_metadata", "embedding_metadata_array")
    )
    return all(rows <= _FEW for rows in last)


def _check_space(connection: sqlite3.Connection, count: int) -> None:
    # An index holds values of one table, and the database holds each of them twice: SQLite writes one sorted to temporary
    # files, then to the WAL, and that to the file.
    (path,) = (Path(file) for _, name, file in connection.execute("PRAGMA database_list") if name == "main")
    size = path.stat().st_size
    space.check(path.parent, size, size, f"each of {count} indexes")


def _tell(reason: str, fact: str) -> None:
    if reason not in _told:
        _told.add(reason)
        journal.warning("filters stay slow: %s", fact)


def _forgiven(connection: sqlite3.Connection, work: Callable[[], None]) -> None:
    """All of the work or nothing, and no reason not to go on, unless somebody asked SQLite to stop."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        work()
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if not isinstance(error, sqlite3.DatabaseError) or error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            raise
        _tell(str(error), f"SQLite refuses what makes them fast: {error}")
