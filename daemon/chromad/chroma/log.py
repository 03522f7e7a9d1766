"""Chroma's log (`embeddings_queue`): how far it is needed, and purging what is not."""

import sqlite3
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from chromad.chroma import sqlite
from chromad.errors import ChromadError

# Rows of one purge transaction, and the pause between two in seconds: writers are never held up for long.
_BATCH = 500
_PAUSE = 0.005

# All of a row
_COLUMNS = "seq_id, created_at, operation, topic, id, vector, encoding, metadata"

# Operation codes
ADD, UPDATE, UPSERT, DELETE = range(4)


def purge(data_dir: Path, covered: Mapping[str, int], go_on: Callable[[int], bool]) -> int:
    """Deletes rows that nothing needs any more, in small transactions; gives how many.

    covered: topic and the seq id up to which its rows can go. The newest row of each topic stays: SQLite gives the
    next record the highest seq id plus one, which must never be one that a segment has seen. Deleted content is
    overwritten (secure_delete). go_on: called with the count so far after each transaction; False ends the purge.
    """
    count = 0
    with sqlite.connect(data_dir) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        for topic, seq_id in covered.items():
            while True:
                done = connection.execute(
                    "DELETE FROM embeddings_queue WHERE seq_id IN (SELECT seq_id FROM embeddings_queue WHERE topic = ?1"
                    " AND seq_id <= ?2 AND seq_id < (SELECT max(seq_id) FROM embeddings_queue WHERE topic = ?1)"
                    " ORDER BY seq_id LIMIT ?3)",
                    (topic, seq_id, _BATCH),
                ).rowcount
                count += done
                if done and not go_on(count):
                    return count
                if done < _BATCH:
                    break
                time.sleep(_PAUSE)
    return count


def size_after(connection: sqlite3.Connection, seq_id: int) -> tuple[int, int]:
    """How much was logged after a seq id: bytes, and the seq id up to which they were counted."""
    size, last = connection.execute(
        "SELECT coalesce(sum(coalesce(length(vector), 0) + coalesce(length(metadata), 0) + length(id) + 100), 0),"
        " coalesce(max(seq_id), ?1) FROM embeddings_queue WHERE seq_id > ?1",
        (seq_id,),
    ).fetchone()
    return int(size), int(last)


def newest(connection: sqlite3.Connection) -> int:
    """The seq id of the newest row, 0 when there is none."""
    (found,) = connection.execute("SELECT coalesce(max(seq_id), 0) FROM main.embeddings_queue").fetchone()
    return int(found)


def count(connection: sqlite3.Connection, after: int | None = None) -> int:
    """How many rows there are. after: only those after this seq id."""
    where, values = ("", ()) if after is None else (" WHERE seq_id > ?", (after,))
    (found,) = connection.execute(f"SELECT count(*) FROM embeddings_queue{where}", values).fetchone()  # noqa: S608 (constants)
    return int(found)


def seconds_ahead(connection: sqlite3.Connection) -> int | None:
    """How far in the future the newest row was logged, by this host's clock; None when there is no row."""
    (found,) = connection.execute(
        "SELECT unixepoch(max(created_at)) - unixepoch('now') FROM embeddings_queue"
    ).fetchone()
    return None if found is None else int(found)


def topic_at(connection: sqlite3.Connection, seq_id: int) -> str | None:
    """The topic of a row; None when there is no such row."""
    row = connection.execute("SELECT topic FROM main.embeddings_queue WHERE seq_id = ?", (seq_id,)).fetchone()
    return str(row[0]) if row else None


def newest_ids(connection: sqlite3.Connection, topic: str, rows: int) -> list[str]:
    """The ids that the newest rows of a collection are about."""
    found = connection.execute(
        "SELECT DISTINCT id FROM (SELECT id FROM embeddings_queue WHERE topic = ? ORDER BY seq_id DESC LIMIT ?)",
        (topic, rows),
    )
    return [record for (record,) in found]


def writes(connection: sqlite3.Connection, topic: str, ids: Sequence[str]) -> list[tuple[int, str, str]]:
    """Seq ids, ids and times of what the log has of records."""
    marks = ", ".join("?" * len(ids))
    return connection.execute(
        f"SELECT seq_id, id, created_at FROM embeddings_queue WHERE topic = ? AND id IN ({marks})",  # noqa: S608 (question marks)
        (topic, *ids),
    ).fetchall()


def vector_of(
    connection: sqlite3.Connection, collection: sqlite.Collection, record: str, *, existed: bool
) -> bytes | None:
    """The vector (32-bit floats) that the log gives a record, None when it gives none. existed: before the oldest row."""
    rows = connection.execute(
        "SELECT seq_id, operation, vector IS NOT NULL FROM embeddings_queue WHERE topic = ? AND id = ? ORDER BY seq_id",
        (collection.topic, record),
    ).fetchall()
    _, seq_id = outcome(rows, existed=existed)
    row = connection.execute(
        "SELECT vector FROM embeddings_queue WHERE seq_id = ? AND encoding = 'FLOAT32'", (seq_id,)
    ).fetchone()
    return row[0] if row else None


def vectors_logged_once(connection: sqlite3.Connection, collection: sqlite.Collection) -> sqlite3.Cursor:
    """Ids and vectors of records that one row alone is about, which adds them."""
    return connection.execute(
        "SELECT id, vector FROM embeddings_queue WHERE topic = ? GROUP BY id HAVING count(*) = 1 AND vector IS NOT NULL"
        " AND operation IN (?, ?)",
        (collection.topic, ADD, UPSERT),
    )


def copy_rows(connection: sqlite3.Connection, table: str, after: int) -> None:
    """Copies the rows after a seq id into a table of the same columns, of an attached database."""
    connection.execute(
        f"INSERT INTO {table} ({_COLUMNS}) SELECT {_COLUMNS} FROM main.embeddings_queue WHERE seq_id > ?",  # noqa: S608 (constants)
        (after,),
    )


def take_rows(connection: sqlite3.Connection, table: str, after: int, upto: int) -> None:
    """Logs the rows of such a table between two seq ids."""
    connection.execute(
        f"INSERT INTO main.embeddings_queue ({_COLUMNS}) SELECT {_COLUMNS} FROM {table}"  # noqa: S608 (constants)
        " WHERE seq_id > ? AND seq_id <= ?",
        (after, upto),
    )


def drop_deleted(connection: sqlite3.Connection) -> None:
    """Removes the rows of collections that are no more."""
    connection.execute(
        "DELETE FROM main.embeddings_queue WHERE topic NOT IN (SELECT ? || id FROM collections)", (sqlite.TOPIC,)
    )


def rebuilds(connection: sqlite3.Connection, collection: sqlite.Collection) -> bool:
    """Whether the log gives each record of a collection its vector, so that its segment can be made anew from it."""
    return not ids_without_vector(connection, collection) and not ids_added_again(connection, collection)


def purged_after(connection: sqlite3.Connection, collection: sqlite.Collection, seq_id: int) -> int:
    """How many records were last written by rows after a seq id that the log does not have any more: a segment that stands for
    it cannot be brought up to date."""
    (count,) = connection.execute(
        # Chroma before 1.0 wrote some as bytes, which are never of late.
        "SELECT count(*) FROM embeddings WHERE typeof(seq_id) = 'integer' AND seq_id > ?1 AND segment_id IN"
        " (SELECT id FROM segments WHERE collection = ?2 AND scope = 'METADATA')"
        " AND seq_id NOT IN (SELECT seq_id FROM embeddings_queue WHERE topic = ?3 AND seq_id > ?1)",
        (seq_id, collection.id, collection.topic),
    ).fetchone()
    return int(count)


def replays_exactly(connection: sqlite3.Connection, collection: sqlite.Collection, seq_id: int) -> bool:
    """Whether replaying the rows after a seq id gives the same from a segment that has applied some of them already.

    A persist writes its files first and its seq id last, so files may be ahead of the seq id. Replay does not
    mind, but for one order: an update of an id that is not there (the engine ignores it), then an add of the id. From
    files that have the id already the update takes hold, and the add is what is ignored.
    """
    updated: set[str] = set()
    rows = connection.execute(
        "SELECT operation, id FROM embeddings_queue WHERE topic = ? AND seq_id > ? AND operation IN (?, ?)"
        " ORDER BY seq_id",
        (collection.topic, seq_id, ADD, UPDATE),
    )
    for operation, record in rows:
        if operation == UPDATE:
            updated.add(record)
        elif record in updated:
            return False
    return True


def ids_without_vector(connection: sqlite3.Connection, collection: sqlite.Collection) -> set[str]:
    """The records of a collection that a replay of the whole log would not give a vector."""
    rows = connection.execute(
        "SELECT embedding_id FROM embeddings WHERE segment_id IN"
        " (SELECT id FROM segments WHERE collection = ?1 AND scope = 'METADATA')"
        " AND embedding_id NOT IN (SELECT id FROM embeddings_queue WHERE topic = ?2 AND operation IN (?3, ?4))",
        (collection.id, collection.topic, ADD, UPSERT),
    )
    return {record for (record,) in rows}


def ids_added_again(connection: sqlite3.Connection, collection: sqlite.Collection) -> set[str]:
    """Records that were there when the oldest add of them was logged that the log still holds: the engine ignored it, and a
    replay of the log alone would give them its vector.

    Told by the metadata segment, which keeps what wrote a record last, and when it was made (seconds). An upsert in the log
    gives a record its vector whatever was before.
    """
    rows = connection.execute(
        "SELECT e.embedding_id, e.seq_id, q.first, q.logged > e.created_at FROM embeddings e JOIN"
        " (SELECT id, min(seq_id) AS first, min(created_at) AS logged FROM embeddings_queue"
        "  WHERE topic = ?2 AND operation IN (?3, ?4) GROUP BY id HAVING sum(operation = ?4) = 0) q ON q.id = e.embedding_id"
        " WHERE e.segment_id IN (SELECT id FROM segments WHERE collection = ?1 AND scope = 'METADATA')",
        (collection.id, collection.topic, ADD, UPSERT),
    )
    return {record for record, written, first, older in rows if older or first > sqlite.seq_id(written)}


def outcome(changes: Iterable[tuple[int, int, bool]], *, existed: bool) -> tuple[bool, int]:
    """What rows of the log make of one id in the vector segment: whether it is there, and the seq id of the row that has its
    vector, 0 where that is the one before. changes: seq id, operation, and whether it has a vector; in order."""
    present, found = existed, 0
    for seq_id, operation, has_vector in changes:
        if operation == DELETE:
            present, found = False, 0
        elif operation == UPSERT or (operation == ADD and not present):
            present, found = True, seq_id if has_vector else found
        elif operation == UPDATE and present:
            found = seq_id if has_vector else found
    return present, found


def vectors_of_known(
    connection: sqlite3.Connection, collection: sqlite.Collection, records: Container[str]
) -> dict[str, bytes]:
    """Vectors that the log gives to records that were there before its rows, but that a replay without them would not give:
    those of updates. Of those records alone that have one."""
    rows = connection.execute(
        "SELECT id, seq_id, operation, vector IS NOT NULL FROM embeddings_queue WHERE topic = ? ORDER BY id, seq_id",
        (collection.topic,),
    )
    found = {}
    for record, group in groupby(rows, lambda row: str(row[0])):
        if record not in records:
            continue
        present, seq_id = outcome(((seq, operation, has) for _, seq, operation, has in group), existed=True)
        if present and seq_id:
            (found[record],) = connection.execute(
                "SELECT vector FROM embeddings_queue WHERE seq_id = ?", (seq_id,)
            ).fetchone()
    return found


def drop_unreadable_metadata(connection: sqlite3.Connection) -> None:
    """Takes metadata that is no JSON out of rows that the metadata segments have applied, which are kept for their vectors.

    Chroma before 1.0 wrote NaN and Infinity there. The engine cannot read such a row, and refuses the whole collection.
    """
    for collection in sqlite.read_collections(connection, counted=False):
        connection.execute(
            "UPDATE embeddings_queue SET metadata = NULL WHERE topic = ? AND seq_id <= ? AND NOT json_valid(metadata)",
            (collection.topic, collection.written),
        )


def pending_records(connection: sqlite3.Connection, collection: sqlite.Collection) -> int:
    """By how many the records of a collection change when the rows are applied that its metadata segment has yet to apply.

    A write is first logged, then applied: a copy of the database may fall in between.
    """
    rows = connection.execute(
        "SELECT operation, id FROM embeddings_queue WHERE topic = ? AND seq_id > ? ORDER BY seq_id",
        (collection.topic, collection.written),
    ).fetchall()
    change = 0
    present: dict[str, bool] = {}
    for operation, record in rows:
        if record not in present:
            found = connection.execute(
                "SELECT 1 FROM embeddings WHERE embedding_id = ? AND segment_id IN"
                " (SELECT id FROM segments WHERE collection = ? AND scope = 'METADATA')",
                (record, collection.id),
            ).fetchone()
            present[record] = found is not None
        before = present[record]
        present[record] = operation in (ADD, UPSERT) or (operation == UPDATE and before)
        change += present[record] - before
    return change


def is_applied(connection: sqlite3.Connection, collection: sqlite.Collection) -> bool:
    """Whether the metadata segment has applied all that is logged."""
    row = connection.execute(
        "SELECT 1 FROM embeddings_queue WHERE topic = ? AND seq_id > ? LIMIT 1", (collection.topic, collection.written)
    ).fetchone()
    return row is None


def prepend(
    connection: sqlite3.Connection, collection: sqlite.Collection, vectors: Iterable[tuple[str, bytes]]
) -> None:
    """Logs upserts of vectors (little-endian 32-bit floats) before everything that the log has of a collection.

    Uses seq ids that were purged, so that the metadata segment, which has applied them, takes no notice. Within a
    transaction of the caller's. Raises ChromadError when there are too few.
    """
    (first,) = connection.execute(
        "SELECT coalesce(min(seq_id), ?) FROM embeddings_queue WHERE topic = ?",
        (collection.written + 1, collection.topic),
    ).fetchone()
    taken = {
        seq_id for (seq_id,) in connection.execute("SELECT seq_id FROM embeddings_queue WHERE seq_id < ?", (first,))
    }
    free = (seq_id for seq_id in range(first - 1, 0, -1) if seq_id not in taken)
    for record, vector in vectors:
        seq_id = next(free, None)
        if seq_id is None:
            raise ChromadError(
                f"the log has too few free seq ids before {first}", "restore a backup, or add the records again"
            )
        connection.execute(
            "INSERT INTO embeddings_queue (seq_id, operation, topic, id, vector, encoding) VALUES (?, ?, ?, ?, ?, 'FLOAT32')",
            (seq_id, UPSERT, collection.topic, record, vector),
        )
