"""The log archive of backups: what Chroma's log has held since a base copy of the database, kept apart from it.

A backup is a base and the archive that was written since: `log.sqlite3` with the rows of `embeddings_queue` that came
after the base, and a mark for each backup, which says how far the log went then and what the system tables held
(collections are not in the log). `apply` brings a copy of the base to any row of the archive; the engine then replays
the rows into metadata and vectors, as it does after a crash.
"""

import json
import math
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from chromad import names
from chromad.chroma import changes, list_values, sqlite
from chromad.errors import BackupError

FILE = "log.sqlite3"

# Columns of embeddings_queue, and the tables that say which collections there are
_COLUMNS = "seq_id, created_at, operation, topic, id, vector, encoding, metadata"
_TABLES = ("tenants", "databases", "collections", "collection_metadata", "segments", "segment_metadata")
# Rows that belong to a segment by way of `embeddings`
_OF_EMBEDDINGS = {
    "embedding_fulltext_search": "rowid",
    "embedding_metadata": "id",
    "embedding_metadata_array": "id",
}

# The clock may have been set back since the last mark.
_SLACK = "-1 hour"

# As in `_attached`
_SCHEMA = """
PRAGMA synchronous = OFF;
CREATE TABLE log (seq_id INTEGER PRIMARY KEY, created_at TIMESTAMP, operation INTEGER, topic TEXT, id TEXT, vector BLOB,
                  encoding TEXT, metadata TEXT);
CREATE INDEX log_topic ON log (topic, seq_id);
CREATE TABLE marks (last_seq_id INTEGER, taken TEXT, catalog BLOB, topic TEXT);
PRAGMA user_version = 1;
"""

# A table's name: its columns and its rows
Catalog = dict[str, dict[str, list[Any]]]


@dataclass(frozen=True)
class Mark:
    """How far the log went when a backup was taken (UTC, ISO 8601), and what the system tables held.

    changed: what became of them since the mark before, and maybe some earlier changes; none in archives of an earlier chromad.
    """

    last_seq_id: int
    taken: str
    catalog: Catalog
    changed: tuple[changes.Change, ...] = ()

    def collections(self) -> dict[str, tuple[str, str]]:
        """Ids of the collections, with their names and the ids of their databases."""
        table = self.catalog["collections"]
        uuid, name, database = (table["columns"].index(column) for column in ("id", "name", "database_id"))
        return {row[uuid]: (row[name], row[database]) for row in table["rows"]}


class Broken(Exception):
    """The log cannot be continued from what the archive has: seq ids were given a second time, or rows are gone."""


def create(path: Path, source: sqlite3.Connection, taken: str) -> int:
    """Makes the archive of a base, with its mark and no rows; gives how far the log goes in the base. The caller puts it on
    disk."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(_SCHEMA)
    path.chmod(0o640)
    with _attached(source, path):
        return _mark(source, taken)


def last_seq_id(path: Path) -> int:
    """How far the archive goes, by its newest mark. Raises BackupError for a file that is no archive."""
    with _open(path) as connection:
        row = connection.execute("SELECT max(last_seq_id) FROM marks").fetchone()
    if row[0] is None:
        raise BackupError(f"{path} has no mark", "choose another backup: chromactl backups")
    return int(row[0])


def rows(path: Path) -> int:
    """How many rows of the log the archive has. Raises BackupError for a file that is no archive."""
    with _open(path) as connection:
        (count,) = connection.execute("SELECT count(*) FROM log").fetchone()
    return int(count)


def append(
    path: Path, source: sqlite3.Connection, taken: str, look: Callable[[sqlite3.Connection], None] = lambda _: None
) -> int:
    """Copies the rows that a database has after the newest mark, and sets a mark; gives how far the archive goes then.

    source: autocommit, to a live database or to another base, which must hold the whole log since that mark. taken: the
    mark's time. look: called within the transaction, for what must be of the same moment. Raises Broken when the source's
    log does not continue the archive's. The caller puts the archive on disk.
    """
    with _attached(source, path):
        (last,) = source.execute("SELECT max(last_seq_id) FROM archive.marks").fetchone()
        _check_continues(source)
        source.execute(
            f"INSERT INTO archive.log ({_COLUMNS}) SELECT {_COLUMNS} FROM main.embeddings_queue WHERE seq_id > ?",  # noqa: S608 (constants)
            (last,),
        )
        now = _mark(source, taken)
        look(source)
    return now


@contextmanager
def _attached(source: sqlite3.Connection, path: Path) -> Iterator[None]:
    """A transaction over a database and an archive."""
    source.execute("ATTACH ? AS archive", (str(path),))
    try:
        # A commit would fsync several times, and the clients' commits wait for each.
        source.execute("PRAGMA archive.synchronous = OFF")
        source.execute("BEGIN")
        yield
        source.execute("COMMIT")
    except BaseException:
        if source.in_transaction:
            source.execute("ROLLBACK")
        raise
    finally:
        source.execute("DETACH archive")


def _mark(source: sqlite3.Connection, taken: str) -> int:
    (now,) = source.execute("SELECT coalesce(max(seq_id), 0) FROM main.embeddings_queue").fetchone()
    (last,) = source.execute("SELECT taken FROM archive.marks ORDER BY rowid DESC LIMIT 1").fetchone() or (None,)
    catalog = zlib.compress(json.dumps(read_catalog(source), allow_nan=False).encode(), 6)
    source.execute(
        "INSERT INTO archive.marks SELECT ?, ?, ?, (SELECT topic FROM main.embeddings_queue WHERE seq_id = ?)",
        (now, taken, catalog, now),
    )
    if last and sqlite.has_table(source, changes.TABLE):
        # An archive of an earlier chromad has no table for them.
        source.execute(f"CREATE TABLE IF NOT EXISTS archive.changes (mark INTEGER, {changes.COLUMNS})")
        source.execute(
            "INSERT INTO archive.changes"  # noqa: S608 (constants)
            f" SELECT (SELECT max(rowid) FROM archive.marks), {changes.COLUMNS} FROM main.{changes.TABLE}"
            " WHERE happened >= datetime(?, ?)",
            (last, _SLACK),
        )
    return int(now)


def _check_continues(source: sqlite3.Connection) -> None:
    """SQLite gives a seq id again when the newest rows are deleted, as they are with their collection.

    A purge leaves the newest row of each topic. So as long as the collection of the row that was the newest at the last
    mark is there, no seq id up to it was given again.
    """
    row = source.execute("SELECT topic FROM archive.marks ORDER BY rowid DESC LIMIT 1").fetchone()
    if row is None or row[0] is None:
        return
    if not source.execute("SELECT 1 FROM main.collections WHERE ? || id = ?", (sqlite.TOPIC, row[0])).fetchone():
        raise Broken(
            "the collection that was written last before the last backup is gone, so seq ids may be used again"
        )


def read_catalog(connection: sqlite3.Connection) -> Catalog:
    """The system tables of a database, small beside the rest."""
    catalog: Catalog = {}
    for table in _TABLES:
        cursor = connection.execute(f"SELECT * FROM main.{table}")  # noqa: S608 (constants)
        catalog[table] = {
            "columns": [column[0] for column in cursor.description],
            "rows": [[_plain(value) for value in row] for row in cursor],
        }
    return catalog


def places(catalog: Catalog) -> dict[str, tuple[str, str, str]]:
    """Tenant, database and name of each collection of a catalog, by its id."""
    table = catalog["databases"]
    uuid, name, tenant = (table["columns"].index(column) for column in ("id", "name", "tenant_id"))
    databases = {row[uuid]: (row[tenant], row[name]) for row in table["rows"]}
    held = Mark(0, "", catalog).collections()
    return {each: (*databases[database], name) for each, (name, database) in held.items()}


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it."""
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"real": str(value)}
    return value


def _value(document: dict[str, Any]) -> Any:
    """The inverse of `_plain`, for what is an object in JSON."""
    if document.keys() == {"blob"}:
        return bytes.fromhex(document["blob"])
    if document.keys() == {"real"}:
        return float(document["real"])
    return document


def newest(path: Path) -> Mark:
    """The newest mark. Raises BackupError for a file that is no archive."""
    with _open(path) as connection:
        found = connection.execute("SELECT rowid FROM marks ORDER BY rowid DESC LIMIT 1").fetchone()
        return _read(connection, path, found)


def around(path: Path, time: datetime) -> tuple[Mark | None, Mark | None]:
    """The last mark up to and in the second of a time (UTC), and the first one after it; None where there is none."""
    with _open(path) as connection:
        rows = connection.execute("SELECT rowid, taken FROM marks ORDER BY rowid").fetchall()
        before = [row[:1] for row in rows if _moment(row[1]) <= time][-1:]
        after = [row[:1] for row in rows if _moment(row[1]) > time][:1]
        first, second = (_read(connection, path, each[0]) if each else None for each in (before, after))
    return first, second


def _moment(text: object) -> datetime:
    found = datetime.fromisoformat(str(text))
    if found.tzinfo is None:
        raise ValueError(f"{text} is no moment")
    return found


def _read(connection: sqlite3.Connection, path: Path, number: tuple[int] | None) -> Mark:
    if number is None:
        raise BackupError(f"{path} has no mark", "choose another backup: chromactl backups")
    last, taken, packed = connection.execute(
        "SELECT last_seq_id, taken, catalog FROM marks WHERE rowid = ?", number
    ).fetchone()
    catalog = json.loads(zlib.decompress(packed), object_hook=_value)
    if not isinstance(catalog, dict) or catalog.keys() != set(_TABLES):
        raise ValueError("a mark lacks a table")
    found = []
    if sqlite.has_table(connection, "changes"):
        statement = f"SELECT {changes.COLUMNS} FROM changes WHERE mark = ? ORDER BY rowid"  # noqa: S608 (constants)
        found = [changes.Change(*(str(value or "") for value in row)) for row in connection.execute(statement, number)]
    return Mark(last, taken, catalog, tuple(found))


def cut(path: Path, time: datetime) -> int:
    """The seq id of the last row of the archive that was logged up to and in the second of a time (UTC).

    As far as the archive goes when all of it was. Where the clock was set back, the first row that is later ends it.
    """
    with _open(path) as connection:
        (first,) = connection.execute(
            "SELECT min(seq_id) FROM log WHERE created_at > ?", (time.strftime("%Y-%m-%d %H:%M:%S"),)
        ).fetchone()
    return int(first) - 1 if first is not None else last_seq_id(path)


def gaps(path: Path, after: int, upto: int) -> int:
    """How many rows between two seq ids the archive lacks: of collections that were deleted before it got them, or purged."""
    with _open(path) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM log WHERE seq_id > ? AND seq_id <= ?", (after, upto)
        ).fetchone()
    return max(upto - after - int(count), 0)


def check_kept(source: sqlite3.Connection, last: int, backed_up: int) -> None:
    """Raises Broken when rows of a database's log after a seq id were purged, whoever did that.

    backed_up: the seq id up to which backups are known to have permitted it, 0 where that is not known. Rows are also missing
    where their collection was deleted; what tells the two apart are records that were last written by a row that is gone,
    segments that have applied more than was ever logged, and a backup that came after.
    """
    kept, newest_row = source.execute(
        "SELECT count(*), coalesce(max(seq_id), 0) FROM main.embeddings_queue WHERE seq_id > ?", (last,)
    ).fetchone()
    rows = source.execute(
        "SELECT seq_id FROM main.max_seq_id WHERE segment_id IN (SELECT s.id FROM main.segments s JOIN main.collections c ON c.id = s.collection)"
    )
    applied = max((sqlite.seq_id(value) for (value,) in rows), default=0)
    if applied > max(newest_row, last):
        raise Broken("rows of the log that were applied are gone")
    if kept == newest_row - last or newest_row <= last:
        return
    if backed_up > last and _lacks(source, last, min(backed_up, newest_row)):
        raise Broken("part of the log was purged after a later backup")
    lost = source.execute(
        # Chroma before 1.0 wrote some as bytes, which are never of late.
        "SELECT count(*) FROM main.embeddings WHERE typeof(seq_id) = 'integer' AND seq_id > ?1 AND seq_id NOT IN"
        " (SELECT seq_id FROM main.embeddings_queue WHERE seq_id > ?1) AND segment_id IN (SELECT id FROM main.segments)",
        (last,),
    ).fetchone()[0]
    if lost:
        raise Broken(f"part of the log was purged: the rows that wrote {lost} records are gone")


def _lacks(source: sqlite3.Connection, after: int, upto: int) -> bool:
    (count,) = source.execute(
        "SELECT count(*) FROM main.embeddings_queue WHERE seq_id > ? AND seq_id <= ?", (after, upto)
    ).fetchone()
    return bool(count < upto - after)


def topics(path: Path, seq_id: int) -> set[str]:
    """The ids of the collections that have rows up to a seq id."""
    with _open(path) as connection:
        found = connection.execute("SELECT DISTINCT topic FROM log WHERE seq_id <= ?", (seq_id,))
        return {topic.removeprefix(sqlite.TOPIC) for (topic,) in found}


def apply(data_dir: Path, path: Path, seq_id: int, catalog: Catalog) -> list[str]:
    """Brings a copy of the base to a row of the archive: its catalog is replaced, the rows are put into its log.

    Gives the uuids of the segments that are no more. The engine does the rest when it touches a collection. The caller puts
    the copy on disk, if it is to stay.
    """
    with sqlite.connect(data_dir) as connection:
        before = {uuid for (uuid,) in connection.execute("SELECT id FROM segments")}
        if odd := [each for each in before if not names.is_uuid(each)]:
            # They become paths.
            raise BackupError(f"the backup has the segment {odd[0]!r}", "choose another backup: chromactl backups")
        (base,) = connection.execute("SELECT coalesce(max(seq_id), 0) FROM embeddings_queue").fetchone()
        sqlite.do_not_flush(connection)
        connection.execute("ATTACH ? AS archive", (str(path),))
        connection.execute("BEGIN IMMEDIATE")
        # A base of an earlier chromad may hold what the service has dropped since, and the replay would bring it to light.
        list_values.keep(connection)
        # Another history of the data begins here.
        changes.drop(connection)
        for table in _TABLES:
            _replace(connection, table, catalog[table])
        gone = before - {uuid for (uuid,) in connection.execute("SELECT id FROM segments")}
        _forget(connection, gone)
        connection.execute(
            f"INSERT INTO main.embeddings_queue ({_COLUMNS}) SELECT {_COLUMNS} FROM archive.log"  # noqa: S608 (constants)
            " WHERE seq_id > ? AND seq_id <= ?",
            (base, seq_id),
        )
        connection.execute(
            "DELETE FROM main.embeddings_queue WHERE topic NOT IN (SELECT ? || id FROM collections)", (sqlite.TOPIC,)
        )
        _set_dimensions(connection)
        connection.execute("COMMIT")
        connection.execute("DETACH archive")
    return sorted(gone)


def _set_dimensions(connection: sqlite3.Connection) -> None:
    """Gives collections that were empty when the catalog was read the dimension of the records that were logged since: the
    engine replays nothing where there is none."""
    for (uuid,) in connection.execute("SELECT id FROM collections WHERE dimension IS NULL").fetchall():
        row = connection.execute(
            "SELECT length(vector) / 4 FROM embeddings_queue WHERE topic = ? AND vector IS NOT NULL ORDER BY seq_id LIMIT 1",
            (sqlite.topic(uuid),),
        ).fetchone()
        if row:
            connection.execute("UPDATE collections SET dimension = ? WHERE id = ?", (row[0], uuid))


def _replace(connection: sqlite3.Connection, table: str, content: Mapping[str, list[Any]]) -> None:
    columns = {row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")}
    if set(content["columns"]) != columns:
        raise BackupError(
            f"the archive's table {table} is not that of the base", "choose another backup: chromactl backups"
        )
    connection.execute(f"DELETE FROM main.{table}")  # noqa: S608 (constants)
    places = ", ".join("?" * len(columns))
    names = ", ".join(content["columns"])
    connection.executemany(f"INSERT INTO main.{table} ({names}) VALUES ({places})", content["rows"])  # noqa: S608 (as above)


def _forget(connection: sqlite3.Connection, segments: set[str]) -> None:
    """Removes what belonged to segments of collections that are no more."""
    there = {name for (name,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")}
    for uuid in segments:
        for table, key in _OF_EMBEDDINGS.items():
            if table in there:
                connection.execute(
                    f"DELETE FROM main.{table} WHERE {key} IN (SELECT id FROM embeddings WHERE segment_id = ?)",  # noqa: S608 (constants)
                    (uuid,),
                )
        connection.execute("DELETE FROM main.embeddings WHERE segment_id = ?", (uuid,))
        connection.execute("DELETE FROM main.max_seq_id WHERE segment_id = ?", (uuid,))


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise BackupError(f"{path} is missing", "choose another backup: chromactl backups")
    try:
        with closing(sqlite3.connect(path)) as connection:
            yield connection
    except (sqlite3.DatabaseError, zlib.error, ValueError) as error:
        raise BackupError(f"{path} is damaged: {error}", "choose another backup: chromactl backups") from None
