"""Chroma's system tables: tenants, databases, collections complete and fitting each other.

A collection whose database has no row is invisible, to Chroma and to whatever joins these tables.
"""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from chromad import documents
from chromad.chroma import additions, segment_files, sqlite
from chromad.chroma.finding import NO_WAY, Finding, run
from chromad.names import is_uuid

# The engine reads rows up to a time, the last one that it knows where none is given.
_HIDDEN = "coalesce(CAST(strftime('%s', created_at) AS INTEGER), 9223372037) > 9223372036"
_DEFAULT_DATABASE = "00000000-0000-0000-0000-000000000000"
_DEFAULT_TENANT = "default_tenant"


def logged(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """Rows of the log that the engine cannot read, or does not see."""
    (hidden,) = connection.execute(f"SELECT count(*) FROM embeddings_queue WHERE {_HIDDEN}").fetchone()  # noqa: S608 (constant)
    if hidden:
        yield Finding(
            "log",
            f"{hidden} rows of the log have a time that is none, so that the engine would never apply them",
            count=hidden,
            mend=run(f"UPDATE embeddings_queue SET created_at = CURRENT_TIMESTAMP WHERE {_HIDDEN}"),  # noqa: S608 (constant)
        )
    for found in sqlite.read_collections(connection, counted=False):
        if not isinstance(found.dimension, int):
            continue
        unreadable = (
            f"topic = '{found.topic}' AND (operation NOT IN (0, 1, 2, 3) OR (vector IS NOT NULL"
            f" AND (encoding IS NOT 'FLOAT32' OR length(vector) <> {4 * found.dimension})))"
        )
        # In rows that were applied it is nobody's loss, see `log.drop_unreadable_metadata`.
        odd = f"topic = '{found.topic}' AND seq_id > {found.written} AND metadata IS NOT NULL AND NOT json_valid(metadata)"
        drop = f"DELETE FROM embeddings_queue WHERE {unreadable}"  # noqa: S608 (constants)
        clear = f"UPDATE embeddings_queue SET metadata = NULL WHERE {odd}"  # noqa: S608 (constants)
        for condition, what, statement in (
            (unreadable, "rows of the log that the engine cannot read", drop),
            (odd, "rows of the log have metadata that the engine cannot read", clear),
        ):
            (count,) = connection.execute(f"SELECT count(*) FROM embeddings_queue WHERE {condition}").fetchone()  # noqa: S608
            if count:
                fact = f"{found.name}: {count} {what}"
                yield Finding("log", fact, count=count, mend=run(statement), deletes=True, loses=True)


def names(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """Ids that are none, names that are given twice, settings of the log that cannot be read: the engine would choke on them."""
    for table in ("collections", "segments"):
        for (found,) in connection.execute(f"SELECT id FROM {table}").fetchall():  # noqa: S608 (constants)
            if not is_uuid(found):
                yield Finding("system", f"the id {found!r} in {table} is no UUID", NO_WAY)
    twice = connection.execute(
        "SELECT name, count(*) FROM collections NOT INDEXED GROUP BY name, database_id HAVING count(*) > 1"
    ).fetchall()
    for name, count in twice:
        yield Finding(
            "system", f"{count} collections of one database are called {name!r}", "rename all but one of them"
        )
    if sqlite.has_table(connection, "embeddings_queue_config"):
        row = connection.execute("SELECT config_json_str FROM embeddings_queue_config WHERE id = 1").fetchone()
        if row is None or not _is_object(row[0]):
            state = "missing" if row is None else "not readable"
            yield Finding(
                "system",
                f"the log's settings are {state}",
                mend=run(f"INSERT OR REPLACE INTO embeddings_queue_config VALUES (1, '{additions.KEEP_LOG}')"),  # noqa: S608
            )


def settings(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """Collections whose settings cannot be read: their space would not be known, nor the collection served."""
    for found in sqlite.read_collections(connection, counted=False):
        try:
            sqlite.is_cosine(connection, found)
        except (ValueError, KeyError, TypeError, AttributeError):
            fact = f"the settings of the collection {found.name!r} cannot be read, so that its space is not known"
            yield Finding("system", fact, NO_WAY)


def owners(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """Collections without a database, databases without a tenant."""
    for (tenant,) in connection.execute(
        "SELECT DISTINCT tenant_id FROM databases WHERE tenant_id NOT IN (SELECT id FROM tenants)"
    ).fetchall():
        yield Finding("system", f"the tenant {tenant!r} of a database is missing", mend=_insert("tenants", tenant))
    for database, names in connection.execute(
        "SELECT database_id, group_concat(name, ', ') FROM collections"
        " WHERE database_id IS NULL OR database_id NOT IN (SELECT id FROM databases) GROUP BY database_id"
    ).fetchall():
        if database is None:
            yield Finding("system", f"the collections {names} are in no database", NO_WAY)
            continue
        taken = connection.execute("SELECT 1 FROM databases WHERE name = 'default_database'").fetchone()
        name = "default_database" if database == _DEFAULT_DATABASE and not taken else f"recovered-{database}"
        tenants: tuple[tuple[str, ...], ...] = ((_DEFAULT_TENANT,),)

        def mend(
            connection: sqlite3.Connection, database: str = database, name: str = name, tenants: object = tenants
        ) -> None:
            connection.execute("INSERT OR IGNORE INTO tenants (id) VALUES (?)", (_DEFAULT_TENANT,))
            connection.execute(
                "INSERT INTO databases (id, name, tenant_id) VALUES (?, ?, ?)", (database, name, _DEFAULT_TENANT)
            )

        yield Finding(
            "system",
            f"the database {database} of the collections {names} is missing; they are served in {_DEFAULT_TENANT}/{name}",
            mend=mend,
        )


def _insert(table: str, value: str) -> Callable[[sqlite3.Connection], None]:
    def mend(connection: sqlite3.Connection) -> None:
        connection.execute(f"INSERT INTO {table} (id) VALUES (?)", (value,))  # noqa: S608 (constant)

    return mend


def leftovers(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """Rows of collections, segments and records that are no more. Row ids are given again: what stays would show up elsewhere."""
    # The records' first: they tell which other rows belong to none.
    kinds = (
        (
            "segments",
            "collection IS NULL OR collection NOT IN (SELECT id FROM collections)",
            "segments of collections that are no more",
        ),
        ("embeddings", "segment_id NOT IN (SELECT id FROM segments)", "records of collections that are no more"),
        (
            "embedding_metadata",
            "id NOT IN (SELECT id FROM embeddings WHERE segment_id IN (SELECT id FROM segments))",
            "values of records that are no more",
        ),
        (
            "collection_metadata",
            "collection_id NOT IN (SELECT id FROM collections)",
            "values of collections that are no more",
        ),
        ("segment_metadata", "segment_id NOT IN (SELECT id FROM segments)", "values of segments that are no more"),
        ("max_seq_id", "segment_id NOT IN (SELECT id FROM segments)", "watermarks of segments that are no more"),
        (
            "embeddings_queue",
            f"topic GLOB '{sqlite.TOPIC}*' AND topic NOT IN (SELECT '{sqlite.TOPIC}' || id FROM collections)",  # noqa: S608
            "rows of the log of collections that are no more",
        ),
    )
    for table, condition, what in kinds:
        (count,) = connection.execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchone()  # noqa: S608 (constants)
        if count:
            yield Finding(
                "leftovers",
                f"{count} {what}",
                count=count,
                mend=run(f"DELETE FROM {table} WHERE {condition}"),  # noqa: S608 (constants)
                deletes=True,
            )


def ghosts(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """List values of records that are no more: the next record with the row id would have them."""
    if not sqlite.has_table(connection, "embedding_metadata_array"):
        return
    condition = "id NOT IN (SELECT id FROM embeddings)"
    (count,) = connection.execute(f"SELECT count(*) FROM embedding_metadata_array WHERE {condition}").fetchone()  # noqa: S608
    if count:
        yield Finding(
            "ghosts",
            f"{count} list values of records that are no more",
            count=count,
            mend=run(f"DELETE FROM embedding_metadata_array WHERE {condition}"),  # noqa: S608 (constants)
        )


def dimensions(connection: sqlite3.Connection, directory: Path) -> Iterator[Finding]:
    """Collections whose dimension is not that of their vectors, or is not there: the engine replays nothing for these."""
    for found in sqlite.read_collections(connection, counted=False):
        true = _dimension(connection, directory, found)
        odd = found.dimension is not None and not (isinstance(found.dimension, int) and found.dimension > 0)
        if true == found.dimension and not odd:
            continue
        if true is None or true == found.dimension:
            fact = f"{found.name}: its dimension is {found.dimension!r}, and it has no vectors"
            none = f"UPDATE collections SET dimension = NULL WHERE id = '{found.id}'"  # noqa: S608 (an id that is a UUID)
            yield Finding("dimension", fact, mend=run(none))
            continue
        if found.dimension is None:
            fact = f"{found.name}: its dimension is missing; its vectors have {true} numbers"
        else:
            fact = f"{found.name}: its dimension is {found.dimension}, but its vectors have {true} numbers"
        yield Finding(
            "dimension",
            fact,
            mend=run(f"UPDATE collections SET dimension = {true} WHERE id = '{found.id}'"),  # noqa: S608
        )


def _dimension(connection: sqlite3.Connection, directory: Path, found: sqlite.Collection) -> int | None:
    """By the segment's files and by the log; where these differ, what the collection says is not doubted."""
    in_files = segment_files.dimension(directory / found.segment)
    row = connection.execute(
        "SELECT length(vector) / 4 FROM embeddings_queue WHERE topic = ? AND vector IS NOT NULL AND encoding = 'FLOAT32'"
        " ORDER BY seq_id LIMIT 1",
        (found.topic,),
    ).fetchone()
    in_log = (int(row[0]) or None) if row else None
    if in_files and in_log and in_files != in_log:
        return found.dimension or in_log
    true = in_files or in_log
    return found.dimension if true is None else true


def _is_object(text: object) -> bool:
    try:
        return isinstance(documents.parse(str(text)), dict)
    except ValueError:
        return False
