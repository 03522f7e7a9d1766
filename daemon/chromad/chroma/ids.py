"""The ids of a vector segment against those of the metadata segment: which records of a collection a search can find at all.

Only for child processes: it reads all ids. Both segments apply the same log, each as far as its seq id says; so with the rows
after that both must have the same ids. They are compared by their number and the sum of their hashes, so that nothing holds
all of them; only where that tells of a difference are they looked at one by one.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from chromad.chroma import damage, idmap, log, sqlite
from chromad.chroma.damage import Damage
from chromad.chroma.soundness import Claim

_BITS = (1 << 64) - 1

# Operations of one id, in the order of the log
_Changes = dict[bytes, list[int]]


def compare(directory: Path, claim: Claim) -> None:
    """Compares a segment that has applied the log up to `claim.upto` with the metadata segment of its collection.

    Raises Damage when it has records that were deleted, or lacks some of which the log, or the segment before it
    (`claim.before`), has a vector. Records whose vector nothing has any more are no damage: nothing better can be had.
    """
    with sqlite.connect(claim.data_dir) as connection:
        connection.execute("BEGIN")
        found = connection.execute(
            "SELECT s.id, coalesce(m.seq_id, 0) FROM segments s LEFT JOIN max_seq_id m ON m.segment_id = s.id"
            " WHERE s.collection = ? AND s.scope = 'METADATA'",
            (claim.topic.removeprefix(sqlite.TOPIC),),
        ).fetchone()
        if found is None:
            return  # it was deleted just now
        metadata, applied = found[0], sqlite.seq_id(found[1])
        vector_changes = _changes(connection, claim.topic, claim.upto)
        metadata_changes = _changes(connection, claim.topic, applied)
        touched = vector_changes.keys() | metadata_changes.keys()
        vectors = _Ids(_of_segment(directory), touched, vector_changes)
        records = _Ids(_of_metadata(connection, metadata), touched, metadata_changes)
        if vectors.same_as(records):
            return
        there = {record for record in _of_segment(directory) if record not in touched} | vectors.touched
        known = {record for record in _of_metadata(connection, metadata) if record not in touched} | records.touched
        missing, surplus = known - there, len(there - known)
        missing &= _had(connection, claim, missing)
    if surplus or missing:
        raise Damage(f"{idmap.FILE} lacks {len(missing)} records that there are, and has {surplus} that were deleted")


class _Ids:
    """A set of ids with the log applied. touched: those that either log changes, which are kept one by one."""

    def __init__(self, ids: Iterable[bytes], touched: Iterable[bytes], changes: _Changes) -> None:
        special = set(touched)
        there = set()
        self._count = self._sum = 0
        for record in ids:
            if record in special:
                there.add(record)
            else:
                self._count += 1
                self._sum = (self._sum + hash(record)) & _BITS
        self.touched = {record for record in special if _outcome(record in there, changes.get(record, ()))}

    def same_as(self, other: "_Ids") -> bool:
        """Whether both are the same set."""
        return (self._count, self._sum, self.touched) == (other._count, other._sum, other.touched)


def _outcome(present: bool, operations: Iterable[int]) -> bool:
    for operation in operations:
        if operation == log.DELETE:
            present = False
        elif operation in (log.ADD, log.UPSERT):
            present = True
    return present


def _changes(connection: sqlite3.Connection, topic: str, after: int) -> _Changes:
    rows = connection.execute(
        "SELECT CAST(id AS BLOB), operation FROM embeddings_queue WHERE topic = ? AND seq_id > ? ORDER BY id, seq_id",
        (topic, after),
    )
    return {record: [operation for _, operation in group] for record, group in groupby(rows, lambda row: bytes(row[0]))}


def _of_segment(directory: Path) -> Iterator[bytes]:
    try:
        pickle = damage.open_file(directory / idmap.FILE)
    except damage.Missing:
        return
    with pickle:
        for name, ids, _ in idmap.IdMap(pickle).items():
            if name == "id_to_label":
                yield from ids


def _of_metadata(connection: sqlite3.Connection, segment: str) -> Iterator[bytes]:
    rows = connection.execute("SELECT CAST(embedding_id AS BLOB) FROM embeddings WHERE segment_id = ?", (segment,))
    for (record,) in rows:
        yield bytes(record)


def _had(connection: sqlite3.Connection, claim: Claim, wanted: set[bytes]) -> set[bytes]:
    """Those of which the log or the segment before has a vector."""
    rows = connection.execute(
        "SELECT CAST(id AS BLOB) FROM embeddings_queue WHERE topic = ? AND operation IN (?, ?) AND vector IS NOT NULL",
        (claim.topic, log.ADD, log.UPSERT),
    )
    found = {bytes(record) for (record,) in rows} & wanted
    if claim.before is not None:
        found.update(record for record in _of_segment(claim.before) if record in wanted)
    return found
