"""What became of collections and databases, and when, which Chroma's log does not say: triggers write it into a table of ours.

Both live in the SQLite file beside Chroma's tables. A client's reset drops them without a word, like all others, so they are
made again, and from when on they tell is a row as well.
"""

import sqlite3
from dataclasses import dataclass

TABLE = "chromad_changes"
BEGUN, MADE, DELETED, RENAMED = "begun", "made", "deleted", "renamed"
COLLECTION, DATABASE = "collection", "database"
COLUMNS = "happened, event, kind, id, name, parent"

# No AUTOINCREMENT: a client's reset cannot drop the table that SQLite keeps for it.
_TABLE = (
    f"CREATE TABLE {TABLE} (number INTEGER PRIMARY KEY, happened TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,"
    " event TEXT NOT NULL, kind TEXT, id TEXT, name TEXT, parent TEXT)"
)
_SOURCES = {COLLECTION: ("collections", "database_id"), DATABASE: ("databases", "tenant_id")}
_EVENTS = {
    MADE: ("INSERT", "NEW"),
    DELETED: ("DELETE", "OLD"),
    RENAMED: ("UPDATE OF name", "OLD"),
}
_KEPT = 10_000


@dataclass(frozen=True)
class Change:
    """happened: UTC, `YYYY-MM-DD HH:MM:SS`. event: BEGUN (nothing is known of what came before), MADE, DELETED or RENAMED, where
    name is the former one. parent: a collection's database, by its id, or a database's tenant. kind, id, name and parent are
    empty for BEGUN."""

    happened: str
    event: str
    kind: str
    id: str
    name: str
    parent: str


def keep(connection: sqlite3.Connection) -> None:
    """Has changes recorded from now on. A matter of a moment where that was done before.

    connection: in autocommit, to a database that has had all migrations.
    """
    wanted = _statements()
    if _present(connection) == wanted and not _is_long(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = _present(connection)
        if found != wanted:
            drop(connection)
            for statement in wanted.values():
                connection.execute(statement)
            connection.execute(f"INSERT INTO {TABLE} (event) VALUES (?)", (BEGUN,))  # noqa: S608 (constants)
        elif _is_long(connection):
            _shorten(connection)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def drop(connection: sqlite3.Connection) -> None:
    """Removes the table and its triggers, from a copy whose history ends; within a transaction of the caller's."""
    for name in _present(connection):
        if name != TABLE:
            connection.execute(f'DROP TRIGGER "{name}"')
    connection.execute(f"DROP TABLE IF EXISTS {TABLE}")


def _statements() -> dict[str, str]:
    """What is to be in the schema, by its name there."""
    found = {TABLE: _TABLE}
    for kind, (table, parent) in _SOURCES.items():
        for event, (operation, row) in _EVENTS.items():
            name = f"{TABLE}_{kind}_{event}"
            condition = " WHEN OLD.name IS NOT NEW.name" if event == RENAMED else ""
            found[name] = (
                f"CREATE TRIGGER {name} AFTER {operation} ON {table}{condition} BEGIN INSERT INTO {TABLE}"  # noqa: S608 (constants)
                f" (event, kind, id, name, parent) VALUES ('{event}', '{kind}', {row}.id, {row}.name, {row}.{parent}); END"
            )
    return found


def _present(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute("SELECT name, sql FROM main.sqlite_master WHERE name GLOB ?", (f"{TABLE}*",))
    return dict(rows.fetchall())


def _is_long(connection: sqlite3.Connection) -> bool:
    (length,) = connection.execute(
        f"SELECT (SELECT max(number) FROM {TABLE}) - (SELECT min(number) FROM {TABLE})"  # noqa: S608 (constants)
    ).fetchone()
    return (length or 0) > 2 * _KEPT


def _shorten(connection: sqlite3.Connection) -> None:
    """What is left tells from the newest one on that goes."""
    going = f"FROM {TABLE} WHERE number <= (SELECT max(number) FROM {TABLE}) - ?"  # noqa: S608 (constants)
    number, happened = connection.execute(f"SELECT max(number), max(happened) {going}", (_KEPT,)).fetchone()
    connection.execute(f"DELETE {going}", (_KEPT,))
    connection.execute(
        f"INSERT INTO {TABLE} (number, happened, event) VALUES (?, ?, ?)",  # noqa: S608 (constants)
        (number, happened, BEGUN),
    )
