"""Chroma's full-text index: whether it is whole, by its own check and by what it should hold, and making it anew.

`embedding_fulltext_search` holds the documents of all records by their row ids in `embeddings`. SQLite before 3.44 does not look at
it in `PRAGMA integrity_check`. Everything in it is in `embedding_metadata` as well.
"""

import sqlite3
from collections.abc import Iterator

from chromad.chroma.finding import Finding

TABLE = "embedding_fulltext_search"
_SHADOWS = tuple(f"{TABLE}_{end}" for end in ("data", "idx", "content", "docsize", "config"))
_DOCUMENTS = (
    "SELECT id, string_value FROM embedding_metadata WHERE key = 'chroma:document' AND string_value IS NOT NULL"
)
# These tell of the disk or of others that hold the file, not of the index.
_ELSEWHERE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}


def check(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Reads all of the index, and compares it with the records' texts. Takes SQLite's write lock meanwhile."""
    damaged = damage(connection)
    yield from damaged
    differing = 0 if damaged else _differing(connection)
    if differing:
        yield Finding(
            "full_text", f"the full-text index has other texts than {differing} records", count=differing, mend=rebuild
        )


def damage(connection: sqlite3.Connection) -> list[Finding]:
    """As `check`, but does not look at the records."""
    reason = _damage(connection)
    if not reason:
        return []
    fact = f"the full-text index is damaged ({reason}); the texts of all records are there to make it anew"
    return [Finding("full_text", fact, mend=rebuild)]


def rebuild(connection: sqlite3.Connection) -> None:
    """Makes the index anew from the records' texts. In a transaction of the caller's."""
    _drop(connection)
    connection.execute(f"CREATE VIRTUAL TABLE {TABLE} USING fts5(string_value, tokenize='trigram')")
    connection.execute(f"INSERT INTO {TABLE} (rowid, string_value) {_DOCUMENTS}")


def optimize(connection: sqlite3.Connection) -> None:
    """Merges the index, so that what was deleted takes no space in it."""
    connection.execute("INSERT INTO embedding_fulltext_search (embedding_fulltext_search) VALUES ('optimize')")


def is_there(connection: sqlite3.Connection) -> bool:
    """Whether all its tables are."""
    names = (TABLE, *_SHADOWS)
    (found,) = connection.execute(
        f"SELECT count(*) FROM sqlite_master WHERE name IN ({', '.join('?' * len(names))})",  # noqa: S608 (marks)
        names,
    ).fetchone()
    return bool(found == len(names))


def _damage(connection: sqlite3.Connection) -> str:
    if not is_there(connection):
        return "it, or a table of it, is missing"
    (text,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (TABLE,)).fetchone()
    if "trigram" not in text:
        return "it finds words, not parts of them"
    try:
        connection.execute(f"SELECT 1 FROM {TABLE} LIMIT 1").fetchone()  # noqa: S608 (constant)
        connection.execute(f"INSERT INTO {TABLE} ({TABLE}) VALUES ('integrity-check')")  # noqa: S608 (constant)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in _ELSEWHERE:
            raise
        return str(error)
    return ""


def _differing(connection: sqlite3.Connection) -> int:
    """Documents that the index lacks, has besides, or has otherwise."""
    held = f"SELECT id, c0 FROM {TABLE}_content"  # noqa: S608 (constant)
    (count,) = connection.execute(
        f"SELECT count(DISTINCT id) FROM (SELECT * FROM ({_DOCUMENTS} EXCEPT {held})"  # noqa: S608 (constants)
        f" UNION ALL SELECT * FROM ({held} EXCEPT {_DOCUMENTS}))"
    ).fetchone()
    return int(count)


def _drop(connection: sqlite3.Connection) -> None:
    try:
        connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
    except sqlite3.DatabaseError:
        # One that cannot be opened cannot be dropped either: its entry is taken out, its tables are ordinary ones then.
        connection.execute("PRAGMA writable_schema = ON")
        try:
            connection.execute("DELETE FROM sqlite_master WHERE type = 'table' AND name = ?", (TABLE,))
        finally:
            connection.execute("PRAGMA writable_schema = RESET")
    for name in _SHADOWS:
        connection.execute(f"DROP TABLE IF EXISTS {name}")


def put_first(connection: sqlite3.Connection) -> None:
    """Enters the index before its tables, as the engine makes it. VACUUM enters it last, and then a client's reset, which drops
    tables in the order of their entries, drops those first and fails: what it leaves keeps every engine from starting."""
    (behind,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master i JOIN sqlite_master t ON t.rowid < i.rowid"  # noqa: S608 (marks)
        f" WHERE i.name = ? AND t.name IN ({', '.join('?' * len(_SHADOWS))}))",
        (TABLE, *_SHADOWS),
    ).fetchone()
    if not behind:
        return
    connection.execute("PRAGMA writable_schema = ON")
    try:
        connection.execute(
            "UPDATE sqlite_master SET rowid = (SELECT min(rowid) - 1 FROM sqlite_master) WHERE name = ?", (TABLE,)
        )
    finally:
        connection.execute("PRAGMA writable_schema = RESET")


def drop_remains(connection: sqlite3.Connection) -> None:
    """Takes out what a reset that failed has left (see `put_first`): the entry alone, without any other table."""
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if TABLE in names and names.isdisjoint({"migrations", "collections", *_SHADOWS}):
        _drop(connection)
