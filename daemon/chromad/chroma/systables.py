"""Chroma's system tables: tenants, databases, collections and the two segments of each, complete and fitting each other.

A collection whose database or one of whose segments has no row is invisible, to Chroma and to whatever joins these tables.
"""

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from chromad import documents
from chromad.chroma import segment, segment_files, sqlite, watermarks
from chromad.chroma.finding import Finding, run
from chromad.names import is_uuid

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
# The engine reads rows up to a time, the last one that it knows where none is given.
_HIDDEN = "coalesce(CAST(strftime('%s', created_at) AS INTEGER), 9223372037) > 9223372036"
_DEFAULT_DATABASE = "00000000-0000-0000-0000-000000000000"
_DEFAULT_TENANT = "default_tenant"
_NO_WAY = "restore a copy of the directory from before, or mend it with the Chroma that wrote it"
_TYPES = {
    "METADATA": "urn:chroma:segment/metadata/sqlite",
    "VECTOR": "urn:chroma:segment/vector/hnsw-local-persisted",
}

Check = Callable[[sqlite3.Connection, Path], Iterator[Finding]]


def tables(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """Tables that are missing, for the migrations that the file says it has had; and gaps among these."""
    levels = dict(connection.execute("SELECT dir, max(version) FROM migrations GROUP BY dir").fetchall())
    for kind, count in connection.execute("SELECT dir, count(*) FROM migrations GROUP BY dir").fetchall():
        if count != levels[kind]:
            fact = f"the table of migrations lacks {levels[kind] - count} of {kind}'s {levels[kind]}"
            yield Finding("tables", fact, f"{_NO_WAY}: Chroma itself refuses it")
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
            yield Finding("tables", f"the table {name} is missing", _NO_WAY)


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
            yield Finding("tables", f"the table {table} was made anew without its primary key", _NO_WAY)
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
            yield Finding("tables", f"{fact}, and has {twice} rows twice", _NO_WAY, twice)


def _unique(connection: sqlite3.Connection, table: str) -> list[tuple[str, ...]]:
    indexes = connection.execute(
        'SELECT name FROM pragma_index_list(?) WHERE "unique" AND NOT partial', (table,)
    ).fetchall()
    return [
        tuple(column for (column,) in connection.execute("SELECT name FROM pragma_index_info(?) ORDER BY seqno", index))
        for index in indexes
    ]


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


def names(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """Ids that are none, names that are given twice, settings of the log that cannot be read: the engine would choke on them."""
    for table in ("collections", "segments"):
        for (found,) in connection.execute(f"SELECT id FROM {table}").fetchall():  # noqa: S608 (constants)
            if not is_uuid(found):
                yield Finding("system", f"the id {found!r} in {table} is no UUID", _NO_WAY)
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
                mend=run(f"INSERT OR REPLACE INTO embeddings_queue_config VALUES (1, '{sqlite.KEEP_LOG}')"),  # noqa: S608
            )


def settings(connection: sqlite3.Connection, _directory: Path) -> Iterator[Finding]:
    """Collections whose settings cannot be read: their space would not be known, nor the collection served."""
    for found in sqlite.read_collections(connection, counted=False):
        try:
            sqlite.is_cosine(connection, found)
        except (ValueError, KeyError, TypeError, AttributeError):
            fact = f"the settings of the collection {found.name!r} cannot be read, so that its space is not known"
            yield Finding("system", fact, _NO_WAY)


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
            yield Finding("system", f"the collections {names} are in no database", _NO_WAY)
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


def segments(connection: sqlite3.Connection, directory: Path) -> Iterator[Finding]:
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
        return Finding("system", fact, _NO_WAY, len(used))
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
            return Finding("system", f"{fact}, and it cannot be told which of {len(orphans)} is its", _NO_WAY)
        (count,) = connection.execute("SELECT count(*) FROM embeddings WHERE segment_id = ?", (chosen,)).fetchone()
        return Finding(
            "system", f"{fact}; {count} records of none are its", count=count, mend=_add(chosen, "METADATA", collection)
        )
    logged = connection.execute(
        "SELECT 1 FROM embeddings_queue WHERE topic = ? LIMIT 1", (sqlite.topic(collection),)
    ).fetchone()
    if dimension is not None and not logged:
        return Finding("system", f"{fact}, and its records are gone", _NO_WAY)
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
        return Finding("system", f"{fact}, and {len(fitting)} directories may be its", _NO_WAY)
    if fitting:
        return Finding("system", f"{fact}; {fitting[0]} is its", mend=_add(fitting[0], "VECTOR", collection))
    (dimension,) = connection.execute("SELECT dimension FROM collections WHERE id = ?", (collection,)).fetchone()
    if dimension is not None and not held:
        return Finding("system", f"{fact}, and it cannot be told which directory is its", _NO_WAY)
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
