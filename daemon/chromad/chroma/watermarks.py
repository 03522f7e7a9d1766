"""Up to where segments say that they have applied the log (`max_seq_id`), against what the log holds.

A watermark above the newest row of the log swallows writes: SQLite gives the next row the highest seq id plus one, the engine
logs it, acknowledges it, and applies only what is above the watermark. It comes about when rows of the log are deleted by hand,
or when a migration of Chroma 1.0 reads a number where it expects eight bytes.

The log gets a row at the watermark: a delete of an id that no record has, which changes nothing and makes the next seq ids
higher ones. They never go back, so that checkpoints and backups keep their order. Where the log is whole up to the newest
record, or the watermark is no seq id that a log could reach, the watermark is lowered as well, to what the segment has applied,
since rows may wait below it. For the metadata segment that is the highest seq id of its records: rows above it deleted, or did
nothing, and do so again. The vector segment gets all rows that the log still has once more, which is as good (but for what
`log.replays_exactly` says).
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chromad.chroma import idmap, legacy, log, sqlite
from chromad.chroma.finding import Finding

# No log has more rows; JSON and its readers are exact up to here.
HIGHEST = 1 << 53
# No record has this id: the engine refuses empty ones.
_NOBODY = ""
_BLOBS = 5  # the migration of metadb since which seq ids are numbers


@dataclass(frozen=True)
class _Place:
    """One collection. metadata, vector: its segments and their watermarks (None: it has none that can be read). newest: row of
    its own in the log, 0 when it has none."""

    name: str
    topic: str
    metadata: str
    vector: str
    applied: int | None
    persisted: int | None
    newest: int


def check(connection: sqlite3.Connection, *, thorough: bool) -> Iterator[Finding]:
    """thorough: watermarks below the newest row of other collections as well, and their form; without it only what swallows
    the next write is looked for, by index alone where the log has one by topic."""
    if thorough:
        yield from _form(connection)
        yield from _unreachable(connection)
    last = _last(connection)
    if not thorough and _highest(connection) <= last:
        return
    for place in _places(connection):
        highest = max(place.applied or 0, place.persisted or 0)
        fact = ""
        if highest > last:
            fact = (
                f"its segments claim to have applied the log up to {highest}, but its newest row is {last}: the next writes"
                " would be acknowledged and never applied"
            )
        elif thorough and highest > place.newest and _waiting(connection, place):
            fact = f"its segments claim to have applied the log up to {highest}, which has no such row, and others wait"
        elif thorough and place.applied is not None and (place.persisted or 0) > place.applied:
            fact = "its vector segment claims to have applied more of the log than its metadata segment"
        if fact:
            yield Finding("watermark", f"{place.name}: {fact}", mend=partial(_mend, place=place))


def unmarked(connection: sqlite3.Connection, directory: Path) -> Iterator[Finding]:
    """Segments that were persisted, by their files, and have no watermark. Until 0.5 Chroma had it in the files."""
    for place in _places(connection):
        files = directory / place.vector
        if place.persisted is not None or not (files / idmap.FILE).is_file():
            continue
        if legacy.is_old(files) and legacy.read(files).seq_id is not None:
            continue
        fact = f"{place.name}: nothing says up to where its vector segment has applied the log; all of it is applied once more"
        yield Finding("watermark", fact, mend=partial(_mark, place=place))


def _mark(connection: sqlite3.Connection, *, place: _Place) -> None:
    set_watermark(connection, place.vector, min(place.applied or 0, _before_log(connection, place)))


def set_watermark(connection: sqlite3.Connection, segment: str, seq_id: int | None) -> None:
    """In the form of the file's Chroma. None: it has applied nothing."""
    connection.execute("DELETE FROM max_seq_id WHERE segment_id = ?", (segment,))
    if seq_id is not None:
        value = seq_id if _numbers(connection) else seq_id.to_bytes(8, "big")
        connection.execute("INSERT INTO max_seq_id (segment_id, seq_id) VALUES (?, ?)", (segment, value))


def read(value: object) -> int | None:
    """A seq id in the form of any Chroma; None when it is none."""
    if isinstance(value, bytes):
        value = int.from_bytes(value, "big") if len(value) == 8 else None
    return value if isinstance(value, int) and value >= 0 else None


def applied_by(connection: sqlite3.Connection, segment: str) -> int:
    """The highest seq id among a metadata segment's records, 0 when it has none."""
    rows = connection.execute("SELECT seq_id FROM embeddings WHERE segment_id = ?", (segment,))
    return max((seq for (value,) in rows if (seq := read(value)) is not None and seq < HIGHEST), default=0)


def log_delete(connection: sqlite3.Connection, topic: str, record: str, seq_id: int | None = None) -> None:
    """Logs the delete of a record, at the next seq id unless another one is given."""
    connection.execute(
        "INSERT INTO embeddings_queue (seq_id, operation, topic, id, metadata) VALUES (?, ?, ?, ?, '{}')",
        (seq_id, log.DELETE, topic, record),
    )


def _form(connection: sqlite3.Connection) -> Iterator[Finding]:
    numbers = _numbers(connection)
    wrong = [
        (segment, read(value))
        for segment, value in connection.execute("SELECT segment_id, seq_id FROM max_seq_id").fetchall()
        if not isinstance(value, int if numbers else bytes) or read(value) is None
    ]
    if not wrong:
        return

    def mend(connection: sqlite3.Connection) -> None:
        for segment, seq_id in wrong:
            set_watermark(connection, segment, seq_id)

    yield Finding(
        "watermark",
        f"{len(wrong)} segments say in another form than this Chroma's up to where they have applied the log",
        count=len(wrong),
        mend=mend,
    )


def _unreachable(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Seq ids of the log itself that leave no room for the next ones."""
    (count,) = connection.execute(
        "SELECT count(*) FROM embeddings_queue WHERE seq_id >= ? OR seq_id < 1", (HIGHEST,)
    ).fetchone()
    if count:
        yield Finding(
            "log",
            f"{count} rows of the log have seq ids that no log reaches; SQLite would give the next ones at random",
            count=count,
            mend=_renumber,
        )


def _renumber(connection: sqlite3.Connection) -> None:
    """Gives such rows the next seq ids of the sound ones, in the same order, and what refers to them as well."""
    marks = connection.execute("SELECT segment_id, seq_id FROM max_seq_id").fetchall()
    place = max(
        (
            seq
            for statement in (
                "SELECT seq_id FROM embeddings_queue",
                "SELECT seq_id FROM max_seq_id",
                "SELECT seq_id FROM embeddings",
            )
            for (value,) in connection.execute(statement)
            if (seq := read(value)) is not None and seq < HIGHEST
        ),
        default=0,
    )
    moved: dict[int | None, int] = {}
    rows = connection.execute(
        "SELECT seq_id FROM embeddings_queue WHERE seq_id >= ? OR seq_id < 1 ORDER BY seq_id", (HIGHEST,)
    ).fetchall()
    for (seq_id,) in rows:
        place += 1
        moved[seq_id] = place
        connection.execute("UPDATE embeddings_queue SET seq_id = ? WHERE seq_id = ?", (place, seq_id))
    for segment, value in marks:
        if read(value) in moved:
            set_watermark(connection, segment, moved[read(value)])
    records = [row for row in connection.execute("SELECT id, seq_id FROM embeddings") if read(row[1]) in moved]
    for record, value in records:
        new = moved[read(value)]
        encoded = new.to_bytes(8, "big") if isinstance(value, bytes) else new
        connection.execute("UPDATE embeddings SET seq_id = ? WHERE id = ?", (encoded, record))


def _places(connection: sqlite3.Connection) -> list[_Place]:
    rows = connection.execute(
        "SELECT c.name, c.id, m.id, v.id, a.seq_id, p.seq_id FROM collections c"
        " JOIN segments m ON m.collection = c.id AND m.scope = 'METADATA'"
        " JOIN segments v ON v.collection = c.id AND v.scope = 'VECTOR'"
        " LEFT JOIN max_seq_id a ON a.segment_id = m.id LEFT JOIN max_seq_id p ON p.segment_id = v.id"
    ).fetchall()
    return [
        _Place(
            name,
            sqlite.topic(collection),
            metadata,
            vector,
            read(applied),
            read(persisted),
            _newest(connection, collection),
        )
        for name, collection, metadata, vector, applied, persisted in rows
    ]


def _last(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute("SELECT coalesce(max(seq_id), 0) FROM embeddings_queue").fetchone()
    return int(last)


def _highest(connection: sqlite3.Connection) -> int:
    values = (read(value) for (value,) in connection.execute("SELECT seq_id FROM max_seq_id"))
    return max((each for each in values if each is not None), default=0)


def _newest(connection: sqlite3.Connection, collection: str) -> int:
    (newest,) = connection.execute(
        "SELECT coalesce(max(seq_id), 0) FROM embeddings_queue WHERE topic = ?", (sqlite.topic(collection),)
    ).fetchone()
    return int(newest)


def _waiting(connection: sqlite3.Connection, place: _Place) -> bool:
    """Whether rows of the log lie between what the metadata segment has applied and what it claims."""
    return place.newest > applied_by(connection, place.metadata)


def _mend(connection: sqlite3.Connection, *, place: _Place) -> None:
    true = applied_by(connection, place.metadata)
    applied, persisted, newest = place.applied, place.persisted, place.newest
    reached = max([true, *(each for each in (applied, persisted) if each is not None and each < HIGHEST)])
    if true > newest and _is_new_epoch(connection, place):
        # Written after the log had been emptied, under seq ids that had been given before.
        newest = _lift(connection, place, reached)
    whole = newest >= true
    if applied is not None and applied > place.newest and (whole or applied >= HIGHEST):
        applied = true
    if persisted is not None and (
        persisted >= HIGHEST or (whole and persisted > place.newest) or persisted > (applied or 0)
    ):
        persisted = min(applied or 0, _before_log(connection, place))
    for segment, seq_id in ((place.metadata, applied), (place.vector, persisted)):
        set_watermark(connection, segment, seq_id)
    if reached > newest:
        _reach(connection, place.topic, reached)


def _is_new_epoch(connection: sqlite3.Connection, place: _Place) -> bool:
    """Whether no row of the log is one that the metadata segment has applied: seq ids were given anew."""
    rows = connection.execute(
        "SELECT q.seq_id, e.seq_id FROM embeddings_queue q LEFT JOIN embeddings e ON e.segment_id = ? AND e.embedding_id = q.id"
        " WHERE q.topic = ?",
        (place.metadata, place.topic),
    ).fetchall()
    if not rows or any(seq == read(value) for seq, value in rows):
        return False
    (later,) = connection.execute(
        "SELECT (SELECT min(created_at) FROM embeddings_queue WHERE topic = ?)"
        " >= (SELECT max(created_at) FROM embeddings WHERE segment_id = ?)",
        (place.topic, place.metadata),
    ).fetchone()
    return bool(later)


def _lift(connection: sqlite3.Connection, place: _Place, above: int) -> int:
    """Moves a collection's rows of the log above a seq id, in their order; gives the last one."""
    at = max(above, _last(connection))
    rows = connection.execute(
        "SELECT seq_id FROM embeddings_queue WHERE topic = ? ORDER BY seq_id", (place.topic,)
    ).fetchall()
    for (seq_id,) in rows:
        at += 1
        connection.execute("UPDATE embeddings_queue SET seq_id = ? WHERE seq_id = ?", (at, seq_id))
    return at


def _before_log(connection: sqlite3.Connection, place: _Place) -> int:
    (first,) = connection.execute("SELECT min(seq_id) FROM embeddings_queue WHERE topic = ?", (place.topic,)).fetchone()
    return max(0, int(first) - 1) if first is not None else 0


def _reach(connection: sqlite3.Connection, topic: str, seq_id: int) -> None:
    """Makes the log end at or above a seq id, with a row of this collection, which purges leave."""
    log_delete(connection, topic, _NOBODY, max(seq_id, _last(connection) + 1))


def _numbers(connection: sqlite3.Connection) -> bool:
    """Whether `max_seq_id` holds numbers, not eight bytes."""
    row = connection.execute("SELECT max(version) FROM migrations WHERE dir = 'metadb'").fetchone()
    return bool(row and row[0] is not None and row[0] >= _BLOBS)
