"""One audit of a data directory: what is wrong with Chroma's tables, in themselves, and against the log and the segments' files.

`chromactl adopt` mends on its copy what it finds, `chromactl repair` in place, a start what is quick and safe to mend. `chromactl
doctor`, backups and the trial of an upgrade only look.
"""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from chromad.chroma import fulltext, record_ids, schema, segment_rows, sqlite, systables, watermarks
from chromad.chroma.finding import Finding, run

# What `PRAGMA integrity_check` says of an index that can be made anew
_INDEX = ("wrong # of entries in index", "missing from index", "non-unique entry in index")
_SHOWN = 20


def quick(connection: sqlite3.Connection) -> list[Finding]:
    """For each start, before the engine: finds what would lose or hide writes and records, and mends what can be. No full scans,
    unless there is something to mend.

    connection: to a live directory's database that `sqlite.has_tables`, in autocommit, while no engine runs. A finding without
    `mend` is as it was, and for the operator; all others are mended.
    """
    directory = _directory(connection)
    found = []
    for finding in _until_damage(_quick(connection, directory)):
        _mend(connection, finding)
        found.append(finding)
    return found


def glance(connection: sqlite3.Connection) -> list[Finding]:
    """As `quick`, but changes nothing; the engine may run."""
    return list(_until_damage(_quick(connection, _directory(connection))))


def mend(data_dir: Path, tick: Callable[[], None] = lambda: None, *, private: bool) -> list[Finding]:
    """Puts right what can be, in a directory that no engine has open, of any Chroma; gives all that was found. What has no
    `mend` is as it was. Raises ChromadError when SQLite cannot read or mend it.

    private: it is a copy, whose original stays as it is. Else nothing that could be somebody's is deleted.
    """
    found = []
    with sqlite.connect(data_dir) as connection:
        for each in _until_damage(_thorough(connection, data_dir, files=True)):
            finding = each if private or not each.deletes else replace(each, mend=None)
            _mend(connection, finding)
            found.append(finding)
            tick()
    return found


def mend_ids(data_dir: Path) -> list[Finding]:
    """Has the log bring the ids of segments, which no engine has open, to those of the records there are; gives what was found."""
    found = []
    with sqlite.connect(data_dir) as connection:
        # One after the other: what is found of one collection is gone with the next.
        for finding in record_ids.check(connection, data_dir):
            _mend(connection, finding)
            found.append(finding)
    return found


def look(data_dir: Path, *, files: bool) -> list[Finding]:
    """All that is wrong; changes nothing. files: whether the segments' are looked at as well, which nobody may be writing.
    Takes SQLite's write lock while it checks the full-text index."""
    with sqlite.connect(data_dir) as connection:
        return list(_until_damage(_thorough(connection, data_dir, files=files)))


def problems(connection: sqlite3.Connection, *, full_text: bool = True) -> list[Finding]:
    """What a database must not have for a copy of it to be worth keeping: damage by SQLite's own checks, collections that are
    not seen, writes that would be lost. full_text: whether that index is checked as well, which takes the write lock."""

    def found() -> Iterator[Finding]:
        yield from _integrity(connection)
        if full_text:
            yield from fulltext.damage(connection)
        yield from _quick(connection, _directory(connection))

    return list(_until_damage(found()))


def _until_damage(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Findings up to where SQLite itself cannot go on, which is one as well."""
    try:
        yield from findings
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
        yield _damaged([str(error)])


def _quick(connection: sqlite3.Connection, directory: Path) -> Iterator[Finding]:
    yield from _at_once(connection, lambda: _system(connection, directory))
    yield from _at_once(connection, lambda: watermarks.check(connection, thorough=False))
    if not fulltext.is_there(connection):
        yield from fulltext.damage(connection)


def _system(connection: sqlite3.Connection, directory: Path) -> Iterator[Finding]:
    if _is_incomplete(connection):
        yield from systables.owners(connection, directory)
        yield from segment_rows.check(connection, directory)
    yield from _dimensions(connection, directory)


def _at_once(connection: sqlite3.Connection, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds in one state of a database that an engine may be writing."""
    if connection.in_transaction:
        return list(check())
    connection.execute("BEGIN")
    try:
        return list(check())
    finally:
        # SQLite ends it by itself at some errors.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _thorough(connection: sqlite3.Connection, directory: Path, *, files: bool) -> Iterator[Finding]:
    """In this order: each looks at what those before have mended, where they could."""
    integrity = list(_integrity(connection))
    yield from integrity
    if any(finding.mend is None for finding in integrity):
        return
    yield from schema.missing(connection, directory)
    if list(schema.missing(connection, directory)):
        return
    yield from schema.keys(connection, directory)
    if any(finding.mend is None for finding in schema.keys(connection, directory)):
        return
    yield from schema.indexes(connection, directory)
    hopeless = False
    for check in (systables.names, systables.owners, segment_rows.check, systables.settings):
        for finding in _at_once(connection, partial(check, connection, directory)):
            hopeless |= finding.mend is None
            yield finding
    if hopeless:
        # What belongs to what cannot be told.
        return
    # Each kind of row tells which of the next kind belong to none.
    yield from systables.leftovers(connection, directory)
    yield from fulltext.check(connection)
    yield from systables.ghosts(connection, directory)
    yield from _at_once(connection, partial(systables.dimensions, connection, directory))
    yield from systables.logged(connection, directory)
    yield from _at_once(connection, partial(watermarks.check, connection, thorough=True))
    if files:
        yield from watermarks.unmarked(connection, directory)
        yield from record_ids.check(connection, directory)


def _integrity(connection: sqlite3.Connection) -> Iterator[Finding]:
    said = [row[0] for row in connection.execute(f"PRAGMA integrity_check({_SHOWN})") if row[0] != "ok"]
    # SQLite from 3.44 on looks at the full-text index as well, which has a check of its own.
    said = [each for each in said if fulltext.TABLE not in each]
    indexes = [each for each in said if any(part in each for part in _INDEX)]
    if other := [each for each in said if each not in indexes]:
        yield _damaged(other)
    elif indexes:
        fact = f"an index of {sqlite.FILE} is damaged: {indexes[0]}"
        yield Finding("integrity", fact, count=len(indexes), mend=run("REINDEX"))


def _damaged(said: list[str]) -> Finding:
    fact = f"{sqlite.FILE} is damaged: {said[0]}"
    return Finding("integrity", fact, "restore a backup; sqlite3's .recover gets out what can be read", len(said))


def _is_incomplete(connection: sqlite3.Connection) -> bool:
    """Whether a collection lacks its database or a segment, or has too many of them."""
    (lacking,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM databases WHERE tenant_id NOT IN (SELECT id FROM tenants))"
        " OR EXISTS (SELECT 1 FROM collections WHERE database_id NOT IN (SELECT id FROM databases)"
        "  OR id NOT IN (SELECT collection FROM segments WHERE scope = 'METADATA' AND collection IS NOT NULL)"
        "  OR id NOT IN (SELECT collection FROM segments WHERE scope = 'VECTOR' AND collection IS NOT NULL))"
        " OR EXISTS (SELECT 1 FROM segments GROUP BY collection, scope HAVING count(*) > 1)"
    ).fetchone()
    return bool(lacking)


def _dimensions(connection: sqlite3.Connection, directory: Path) -> Iterator[Finding]:
    unknown = connection.execute(
        "SELECT 1 FROM collections c JOIN segments m ON m.collection = c.id AND m.scope = 'METADATA'"
        " WHERE c.dimension IS NULL AND EXISTS (SELECT 1 FROM embeddings e WHERE e.segment_id = m.id) LIMIT 1"
    ).fetchone()
    if unknown:
        yield from systables.dimensions(connection, directory)


def _mend(connection: sqlite3.Connection, finding: Finding) -> None:
    if finding.mend is None:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # A fence is for clients.
        fences = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'embeddings_queue'"
        ).fetchall()
        for name, _ in fences:
            connection.execute(f'DROP TRIGGER "{name}"')
        finding.mend(connection)
        for _, text in fences:
            connection.execute(text)
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _directory(connection: sqlite3.Connection) -> Path:
    (path,) = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
    return Path(path).parent
