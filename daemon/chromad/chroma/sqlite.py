"""Chroma's SQLite file: its settings, its log, and what it says about collections.

Tables and columns are those of Chroma 1.5 (`SCHEMA`); `check_schema` refuses to work on others.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from chromad import documents, names
from chromad.errors import ChromadError, ConfigurationError, PermissionProblem, one_line

FILE = "chroma.sqlite3"

SCHEMA: dict[str, set[str]] = {
    "collections": {"id", "name", "dimension", "database_id"},
    "databases": {"id", "name", "tenant_id"},
    "embeddings": {"id", "segment_id", "embedding_id"},
    "embeddings_queue": {"seq_id", "operation", "topic", "id", "vector"},
    "embeddings_queue_config": {"id", "config_json_str"},
    "max_seq_id": {"segment_id", "seq_id"},
    "segments": {"id", "type", "scope", "collection"},
}

# The newest migration of each kind in Chroma 1.5.9. The engine carries them compiled in; the SQL files of its
# Python package are fewer.
MIGRATIONS = {"sysdb": 10, "metadb": 6, "embeddings_queue": 2}

TOPIC = "persistent://default/default/"
_BUSY_TIMEOUT = 60.0
_COPY_STEP = 512  # pages between two flushes


@dataclass(frozen=True)
class Collection:
    """One collection as SQLite knows it.

    dimension: None before the first record. records: rows in the metadata segment. segment: the uuid of the
    vector segment, which names its directory. written: seq id of the last write that the metadata segment has
    applied. persisted: the same for the vector segment's files, None before their first persist.
    """

    id: str
    name: str
    tenant: str
    database: str
    dimension: int | None
    records: int
    segment: str
    written: int
    persisted: int | None

    @property
    def topic(self) -> str:
        """Its part of the log."""
        return topic(self.id)


def topic(collection: str) -> str:
    """A collection's part of the log, by its id (chroma_sqlite::helpers::get_embeddings_queue_topic_name)."""
    return f"{TOPIC}{collection}"


class Gone(ChromadError):
    """A collection was deleted meanwhile."""


@contextmanager
def connect(data_dir: Path, *, busy_timeout: float = _BUSY_TIMEOUT) -> Iterator[sqlite3.Connection]:
    """A connection to an existing database, in autocommit. Raises ChromadError when SQLite refuses."""
    path = data_dir / FILE
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise PermissionProblem(
            f"{path} is not readable and writable for this user",
            "run as root or as its owner; look at its owner and mode",
        )
    need_plain(data_dir)
    try:
        connection = sqlite3.connect(
            f"file:{quote(path)}?mode=rw", uri=True, timeout=busy_timeout, isolation_level=None
        )
        try:
            yield connection
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise ChromadError(f"{path}: {error}", "is it a Chroma database, sound, and readable for this user?") from error


def need_plain(data_dir: Path) -> None:
    """Raises ChromadError when a file of the database is something else: SQLite would wait for good at a pipe, and hear no signal."""
    for name in (FILE, *(f"{FILE}-{part}" for part in ("wal", "shm", "journal"))):
        path = data_dir / name
        # What belongs to the database is none for SQLite where it is a link.
        if path.exists() and not (path.is_file() and (name == FILE or not path.is_symlink())):
            raise ChromadError(f"{path} is no plain file", "stop the service, and move it aside")


def exists(data_dir: Path) -> bool:
    """Whether the directory holds a database with tables, not just an empty file."""
    path = data_dir / FILE
    if not path.exists() or path.stat().st_size == 0:
        return False
    with connect(data_dir) as connection:
        return bool(connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone())


def has_tables(data_dir: Path) -> bool:
    """Whether the tables that chromad relies on are there: not before the engine has made or migrated them."""
    with connect(data_dir) as connection:
        return not _lacking(connection)


def check_schema(data_dir: Path) -> None:
    """Raises ConfigurationError when tables or columns that chromad relies on are missing."""
    with connect(data_dir) as connection:
        for table, columns in _lacking(connection).items():
            raise ConfigurationError(
                f"{data_dir / FILE}: the table {table} has no {', '.join(sorted(columns))}",
                "this chromad knows the tables of Chroma 1.5; install the versions that it pins",
            )


def _lacking(connection: sqlite3.Connection) -> dict[str, set[str]]:
    lacking = {}
    for table, columns in SCHEMA.items():
        found = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if columns - found:
            lacking[table] = columns - found
    return lacking


def outdated(data_dir: Path) -> bool:
    """Whether the engine has to bring the schema of a database up to date before anything else can be done with it."""
    with connect(data_dir) as connection:
        return is_outdated(connection)


def is_outdated(connection: sqlite3.Connection) -> bool:
    found = dict(connection.execute("SELECT dir, max(version) FROM migrations GROUP BY dir").fetchall())
    return any(found.get(kind, 0) < newest for kind, newest in MIGRATIONS.items())


def is_migrated(data_dir: Path) -> bool:
    """Whether the database has had all migrations of the installed engine, so that it should have all tables."""
    with connect(data_dir) as connection:
        there = has_table(connection, "migrations")
    return there and not outdated(data_dir)


def unknown_migrations(data_dir: Path) -> list[str]:
    """The migrations in the file that the pinned engine does not have: a newer one wrote it."""
    with connect(data_dir) as connection:
        if not has_table(connection, "migrations"):
            return []
        applied = connection.execute("SELECT dir, version, filename FROM migrations ORDER BY dir, version")
        return [f"{kind}/{name}" for kind, version, name in applied if version > MIGRATIONS.get(kind, 0)]


def collections(data_dir: Path, *, counted: bool = True) -> list[Collection]:
    """All collections of all tenants and databases, the most recently written first.

    counted: False leaves `records` at 0, since counting reads an index of the whole table.
    """
    with connect(data_dir) as connection:
        return read_collections(connection, counted=counted)


def read_collections(connection: sqlite3.Connection, *, counted: bool = True) -> list[Collection]:
    """As `collections`, on an open connection."""
    rows = connection.execute(
        """
        SELECT c.id, c.name, d.tenant_id, d.name, c.dimension,
               CASE WHEN ? THEN (SELECT count(*) FROM embeddings e WHERE e.segment_id = m.id) ELSE 0 END,
               v.id, coalesce(s.seq_id, 0), p.seq_id
        FROM collections c
        JOIN databases d ON d.id = c.database_id
        JOIN segments m ON m.collection = c.id AND m.scope = 'METADATA'
        JOIN segments v ON v.collection = c.id AND v.scope = 'VECTOR'
        LEFT JOIN max_seq_id s ON s.segment_id = m.id
        LEFT JOIN max_seq_id p ON p.segment_id = v.id
        ORDER BY coalesce(s.seq_id, 0) DESC, c.name
        """,
        (counted,),
    )
    found = [Collection(*row) for row in rows]
    if odd := [text for each in found for text in (each.id, each.segment) if not names.is_uuid(text)]:
        # It becomes a path.
        raise ConfigurationError(
            f"the database has the id {odd[0]!r}, which is no UUID", "no Chroma writes that: chromactl restore latest"
        )
    return [
        replace(
            each, written=seq_id(each.written), persisted=None if each.persisted is None else seq_id(each.persisted)
        )
        for each in found
    ]


def seq_id(value: int | bytes) -> int:
    """A seq id from a column of any Chroma: before 1.0 some held it as a big-endian number of eight bytes."""
    return int.from_bytes(value, "big") if isinstance(value, bytes) else int(value)


def collection_metadata(connection: sqlite3.Connection, collection: str) -> dict[str, str | int | float | bool]:
    """What clients have attached to a collection, given by its id."""
    rows = connection.execute(
        "SELECT key, str_value, int_value, float_value, bool_value FROM collection_metadata WHERE collection_id = ?",
        (collection,),
    )
    found: dict[str, str | int | float | bool] = {}
    for key, text, integer, number, truth in rows:
        value = (
            bool(truth)
            if truth is not None
            else next((each for each in (text, integer, number) if each is not None), None)
        )
        if value is not None:
            found[key] = value
    return found


def copy(data_dir: Path, target: Path, progress: Callable[[int, int], None]) -> str:
    """SQLite's online backup into a new file, put on disk a little at a time: a client's fsync may have to wait for what
    others have not yet put there. progress: pages done, pages in all. Gives the moment that it is of (UTC, ISO 8601)."""
    with connect(data_dir) as live:
        # A read transaction fixes the state that is copied, however much is written meanwhile.
        live.execute("BEGIN")
        live.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:

            def step(_status: int, left: int, total: int) -> None:
                os.fdatasync(fd)
                progress(total - left, total)

            with closing(sqlite3.connect(target, isolation_level=None)) as writer:
                writer.execute("PRAGMA synchronous = OFF")
                live.backup(writer, pages=_COPY_STEP, progress=step)
        finally:
            # Not before the connection is closed: that would drop its locks.
            os.close(fd)
        live.execute("ROLLBACK")
    return moment


def is_cosine(connection: sqlite3.Connection, collection: Collection) -> bool:
    """Whether a collection's distance is cosine: by its schema (Chroma 1.5), its configuration (since 1.0) or its metadata.

    The first of them that there is decides, as it does for the engine. Raises Gone when there is no such collection.
    """
    cursor = connection.execute("SELECT * FROM collections WHERE id = ?", (collection.id,))
    # Older tables lack some columns.
    found = cursor.fetchone()
    if found is None:
        raise Gone(f"the collection {collection.name} was deleted meanwhile")
    columns = dict(zip((column[0] for column in cursor.description), found, strict=True))
    try:
        if schema := columns.get("schema_str"):
            config = documents.parse(schema)["keys"]["#embedding"]["float_list"]["vector_index"]["config"]
            return bool(config.get("space") == "cosine")
        # Chroma 0.6 has another form of it, which the engine does not read.
        hnsw = documents.parse(columns.get("config_json_str") or "{}").get("vector_index", {}).get("hnsw") or {}
        if "space" in hnsw:
            return bool(hnsw["space"] == "cosine")
    except (AttributeError, LookupError, TypeError, ValueError):
        raise ChromadError(
            f"the configuration of the collection {one_line(str(collection.name))} is not one that Chroma writes",
            "chromactl doctor --deep says more",
        ) from None
    row = connection.execute(
        "SELECT str_value FROM collection_metadata WHERE collection_id = ? AND key = 'hnsw:space'", (collection.id,)
    ).fetchone()
    return row is not None and row[0] == "cosine"


def is_there(connection: sqlite3.Connection, collection: Collection) -> bool:
    """Whether a collection that was read before is still there."""
    return connection.execute("SELECT 1 FROM collections WHERE id = ?", (collection.id,)).fetchone() is not None


def segments(data_dir: Path) -> set[str]:
    """The uuids of all segments."""
    with connect(data_dir) as connection:
        return read_segments(connection)


def read_segments(connection: sqlite3.Connection) -> set[str]:
    """As `segments`, on an open connection."""
    return {uuid for (uuid,) in connection.execute("SELECT id FROM segments")}


def record_at(connection: sqlite3.Connection, collection: Collection, place: int) -> str | None:
    """The id of a record by its place among the sorted ids of its collection."""
    row = connection.execute(
        "SELECT embedding_id FROM embeddings WHERE segment_id = (SELECT id FROM segments WHERE collection = ?"
        " AND scope = 'METADATA') ORDER BY embedding_id LIMIT 1 OFFSET ?",
        (collection.id, place),
    ).fetchone()
    return row[0] if row else None


def collection_ids(connection: sqlite3.Connection) -> set[str]:
    """The ids of all collections."""
    return {uuid for (uuid,) in connection.execute("SELECT id FROM collections")}


def last_seq_id(data_dir: Path) -> int:
    """The seq id of the newest record in the log, 0 when it is empty."""
    with connect(data_dir) as connection:
        (last,) = connection.execute("SELECT coalesce(max(seq_id), 0) FROM embeddings_queue").fetchone()
    return int(last)


def pages(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Pages of the file, how many of them hold nothing, and bytes of a page."""
    total, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return total, free, size


def set_seq_ids(connection: sqlite3.Connection, seq_ids: dict[str, int | None]) -> None:
    """Sets up to where vector segments have applied the log; None: nothing yet, replay it from the beginning."""
    connection.execute("BEGIN IMMEDIATE")
    for uuid, seq_id in seq_ids.items():
        connection.execute("DELETE FROM max_seq_id WHERE segment_id = ?", (uuid,))
        if seq_id is not None:
            connection.execute("INSERT INTO max_seq_id (segment_id, seq_id) VALUES (?, ?)", (uuid, seq_id))
    connection.execute("COMMIT")


def do_not_flush(connection: sqlite3.Connection) -> None:
    """For private copies, which are thrown away or put on disk later: SQLite would put all of a large file there at once, and
    the commits of the service's clients wait meanwhile."""
    connection.execute("PRAGMA main.synchronous = OFF")


def is_write_locked(data_dir: Path) -> bool:
    """Whether somebody is in the middle of a write, or has left one open."""
    with connect(data_dir, busy_timeout=0.0) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return True
        connection.execute("ROLLBACK")
    return False


@contextmanager
def progress(data_dir: Path) -> Iterator[Callable[[], tuple[int, int]]]:
    """Two numbers of others' writes: of which the first is another one after each commit, and the second after whatever a
    transaction that goes on has put into the WAL, since it is larger than SQLite keeps in memory."""
    with connect(data_dir, busy_timeout=0.0) as connection:

        def look() -> tuple[int, int]:
            (committed,) = connection.execute("PRAGMA data_version").fetchone()
            try:
                return int(committed), (data_dir / f"{FILE}-wal").stat().st_mtime_ns
            except FileNotFoundError:
                return int(committed), 0

        yield look


def files(data_dir: Path) -> list[Path]:
    """The files that together hold the durable state of the database: it and, where there is one, its WAL."""
    return [path for path in (data_dir / FILE, data_dir / f"{FILE}-wal") if path.exists()]


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether there is a table of this name."""
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone())


def quote(path: Path) -> str:
    # SQLite's URI syntax gives %, ? and # a meaning
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
