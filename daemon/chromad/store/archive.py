"""The log archive of backups: what Chroma's log has held since a base copy of the database, kept apart from it.

A backup is a base and the archive that was written since: `log.sqlite3` with the rows of Chroma's log that came
after the base, and a mark for each backup, which says how far the log went then and what the system tables held
(collections are not in the log). `apply` brings a copy of the base to any row of the archive; the engine then replays
the rows into metadata and vectors, as it does after a crash.
"""

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chromad import names
from chromad.chroma import catalogs, changes, list_values, log, log_gaps, sqlite
from chromad.chroma.catalogs import Catalog
from chromad.errors import BackupError

FILE = "log.sqlite3"


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
        return catalogs.collections(self.catalog)


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
        log.copy_rows(source, "archive.log", last)
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
    now = log.newest(source)
    (last,) = source.execute("SELECT taken FROM archive.marks ORDER BY rowid DESC LIMIT 1").fetchone() or (None,)
    catalog = zlib.compress(json.dumps(catalogs.read(source), allow_nan=False).encode(), 6)
    source.execute("INSERT INTO archive.marks VALUES (?, ?, ?, ?)", (now, taken, catalog, log.topic_at(source, now)))
    if last and sqlite.has_table(source, changes.TABLE):
        # An archive of an earlier chromad has no table for them.
        source.execute(f"CREATE TABLE IF NOT EXISTS archive.changes (mark INTEGER, {changes.COLUMNS})")
        source.execute(
            "INSERT INTO archive.changes"  # noqa: S608 (constants)
            f" SELECT (SELECT max(rowid) FROM archive.marks), {changes.COLUMNS} FROM main.{changes.TABLE}"
            " WHERE happened >= datetime(?, ?)",
            (last, _SLACK),
        )
    return now


def _check_continues(source: sqlite3.Connection) -> None:
    """SQLite gives a seq id again when the newest rows are deleted, as they are with their collection.

    A purge leaves the newest row of each topic. So as long as the collection of the row that was the newest at the last
    mark is there, no seq id up to it was given again.
    """
    row = source.execute("SELECT topic FROM archive.marks ORDER BY rowid DESC LIMIT 1").fetchone()
    if row is None or row[0] is None:
        return
    if row[0] not in map(sqlite.topic, sqlite.collection_ids(source)):
        raise Broken(
            "the collection that was written last before the last backup is gone, so seq ids may be used again"
        )


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
    catalog = json.loads(zlib.decompress(packed), object_hook=catalogs.value)
    if not isinstance(catalog, dict) or catalog.keys() != set(catalogs.TABLES):
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
    if reason := log_gaps.why_purged(source, last, backed_up):
        raise Broken(reason)


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
        if odd := [each for each in sqlite.read_segments(connection) if not names.is_uuid(each)]:
            # They become paths.
            raise BackupError(f"the backup has the segment {odd[0]!r}", "choose another backup: chromactl backups")
        base = log.newest(connection)
        sqlite.do_not_flush(connection)
        connection.execute("ATTACH ? AS archive", (str(path),))
        connection.execute("BEGIN IMMEDIATE")
        # A base of an earlier chromad may hold what the service has dropped since, and the replay would bring it to light.
        list_values.keep(connection)
        # Another history of the data begins here.
        changes.drop(connection)
        gone = catalogs.put(connection, catalog)
        log.take_rows(connection, "archive.log", base, seq_id)
        log.drop_deleted(connection)
        catalogs.set_dimensions(connection)
        connection.execute("COMMIT")
        connection.execute("DETACH archive")
    return sorted(gone)


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise BackupError(f"{path} is missing", "choose another backup: chromactl backups")
    try:
        with closing(sqlite3.connect(path)) as connection:
            yield connection
    except (sqlite3.DatabaseError, zlib.error, ValueError) as error:
        raise BackupError(f"{path} is damaged: {error}", "choose another backup: chromactl backups") from None
