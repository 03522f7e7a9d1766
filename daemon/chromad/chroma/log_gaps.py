"""Rows that are missing from Chroma's log: whether they were purged, or went with their collection."""

import sqlite3

from chromad.chroma import sqlite


def why_purged(connection: sqlite3.Connection, last: int, backed_up: int) -> str:
    """Why rows after a seq id must have been purged, whoever did that; empty when nothing tells so.

    backed_up: the seq id up to which backups are known to have permitted it, 0 where that is not known. Rows are also missing
    where their collection was deleted; what tells the two apart are records that were last written by a row that is gone,
    segments that have applied more than was ever logged, and a backup that came after.
    """
    kept, newest = connection.execute(
        "SELECT count(*), coalesce(max(seq_id), 0) FROM main.embeddings_queue WHERE seq_id > ?", (last,)
    ).fetchone()
    if _applied(connection) > max(newest, last):
        return "rows of the log that were applied are gone"
    if kept == newest - last or newest <= last:
        return ""
    if backed_up > last and _lacks(connection, last, min(backed_up, newest)):
        return "part of the log was purged after a later backup"
    (lost,) = connection.execute(
        # Chroma before 1.0 wrote some as bytes, which are never of late.
        "SELECT count(*) FROM main.embeddings WHERE typeof(seq_id) = 'integer' AND seq_id > ?1 AND seq_id NOT IN"
        " (SELECT seq_id FROM main.embeddings_queue WHERE seq_id > ?1) AND segment_id IN (SELECT id FROM main.segments)",
        (last,),
    ).fetchone()
    return f"part of the log was purged: the rows that wrote {lost} records are gone" if lost else ""


def _applied(connection: sqlite3.Connection) -> int:
    """The highest seq id that any segment of a collection has applied."""
    rows = connection.execute(
        "SELECT seq_id FROM main.max_seq_id WHERE segment_id IN"
        " (SELECT s.id FROM main.segments s JOIN main.collections c ON c.id = s.collection)"
    )
    return max((sqlite.seq_id(value) for (value,) in rows), default=0)


def _lacks(connection: sqlite3.Connection, after: int, upto: int) -> bool:
    (count,) = connection.execute(
        "SELECT count(*) FROM main.embeddings_queue WHERE seq_id > ? AND seq_id <= ?", (after, upto)
    ).fetchone()
    return bool(count < upto - after)
