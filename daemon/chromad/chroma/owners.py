"""Whose a collection is, and whether the tables are those that they were: read beside the engine, again and again."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from chromad.chroma import sqlite

_PATIENCE = 1.0  # seconds for a lock that somebody else has


@contextmanager
def reading(data_dir: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing and waits for nobody for long. Raises what SQLite does, ChromadError for a file that is none.

    Not kept open: it would keep a stop from emptying SQLite's WAL.
    """
    sqlite.need_plain(data_dir)
    address = f"file:{sqlite.quote(data_dir / sqlite.FILE)}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=_PATIENCE, isolation_level=None)) as connection:
        yield connection


def owner(connection: sqlite3.Connection, collection: str) -> tuple[str, str] | None:
    """Tenant and database of a collection, by its id; None where there is none."""
    found: tuple[str, str] | None = connection.execute(
        "SELECT d.tenant_id, d.name FROM collections c JOIN databases d ON d.id = c.database_id WHERE c.id = ?",
        (collection,),
    ).fetchone()
    return found


def generation(connection: sqlite3.Connection) -> int:
    """A number that is another one after a client's reset, which drops all tables and makes them anew: SQLite counts such changes.
    A fence that comes or goes counts as well."""
    found: tuple[int] = connection.execute("PRAGMA schema_version").fetchone()
    return found[0]
