"""The vectors of a segment against the log: what was acknowledged must be in the files, else the log must not be purged.

Only for child processes: it imports numpy. The engine can leave vectors behind that are older than what it has told clients
(Chroma 1.5.9, hnswalg.h): `updatePoint` writes the new vector into memory and marks only elements whose links it changes for
the next persist, so the update of an element that has no links, as with few neighbours or deleted ones, stays in memory; and
a log that is applied a second time lets an update take hold that came before its record.
"""

import os
import sqlite3
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from chromad.chroma import damage, format, idmap, log, sqlite
from chromad.chroma.damage import Damage
from chromad.chroma.format import Header
from chromad.chroma.soundness import Claim

# The engine normalises where the space is cosine, with 32-bit floats.
_NEAR = 1e-4
_TINY = 1e-30
# Of a vector whose squared length is out of their range it keeps nothing: it reads as not a number, or as about zero.
_SQUARES = 1e-37, 3e38
_ABOUT_ZERO = 1e-18
# Rows of the log
_AT_ONCE = 500

_Floats = NDArray[np.float32]


def compare(directory: Path, claim: Claim) -> int:
    """Compares a segment that `format.examine` calls sound with the rows of the log that it claims to have applied.

    Gives how many vectors are not what the log says; with `claim.mend` they are what it says afterwards. Takes some 40
    bytes of memory for each row. Raises Damage when ids are missing or were deleted, OSError, ChromadError from SQLite.
    """
    with sqlite.connect(claim.data_dir) as connection:
        wanted = _Wanted(connection, claim)
        if not wanted.keys.size:
            return 0
        labels = _labels(directory, wanted)
        wrong = wanted.wrong_presence(labels)
        suspects: list[_Element] = []
        if labels.any():
            suspects = [
                _Element(group, number, stored.tobytes())
                for group, number, stored, logged in _pairs(directory, connection, claim, wanted.likely(), labels)
                if not _same(stored, logged, claim)
            ]
        doubtful = {suspect.group for suspect in suspects} | set(wrong)
        if not doubtful:
            return 0
        keys = {int(wanted.keys[group]) for group in doubtful}
        later, existed = _later(connection, claim, keys), _existed(claim, keys)
        wrong = [group for group in wrong if int(wanted.keys[group]) not in later]
        _check_presence(wrong, claim, wanted, labels, existed)
        doubts = []
        for suspect in suspects:
            key = int(wanted.keys[suspect.group])
            seq_id = wanted.vector(suspect.group, existed=key in existed)
            doubts.append((suspect, seq_id, later.get(key, [])[-_AT_ONCE:]))
        return _mend(directory, connection, claim, doubts)


def settle(directory: Path, connection: sqlite3.Connection, claim: Claim) -> int:
    """Writes the new vectors of updated records straight into a segment, and takes them out of the log: both private copies
    that serve to look at records and are thrown away.

    An engine that replays the log then has the same records, but did not connect the updated ones to their new neighbours,
    which takes it milliseconds for each. Records that were added or deleted are left to the replay. Gives how many records
    it was. connection: autocommit, to the database that `claim` names.
    """
    wanted = _Wanted(connection, claim)
    if not wanted.keys.size:
        return 0
    labels = np.where(wanted.deleted, 0, _labels(directory, wanted))
    if not labels.any():
        return 0
    done: set[int] = set()
    with _Writer(directory, claim) as writer:
        for group, number, stored, logged in _pairs(directory, connection, claim, wanted.vectors_of_old(), labels):
            done.add(int(wanted.keys[group]))
            if not _same(stored, logged, claim):
                writer.write(number, logged)
    rows = connection.execute(
        "SELECT CAST(id AS BLOB), seq_id FROM embeddings_queue"
        " WHERE topic = ? AND seq_id > ? AND seq_id <= ? AND operation IN (?, ?)",
        (claim.topic, claim.after, claim.upto, log.UPDATE, log.UPSERT),
    )
    settled = [(log.UPDATE, seq_id) for record, seq_id in rows if hash(record) in done]
    connection.execute("BEGIN")
    connection.executemany(
        "UPDATE embeddings_queue SET operation = ?, vector = NULL, encoding = NULL WHERE seq_id = ?", settled
    )
    connection.execute("COMMIT")
    return len(done)


class _Wanted:
    """What the rows of the log make of each id that is in them.

    keys: hashes of ids, sorted. Whether an id was there before the first of its rows may matter, as an add of one that is
    there is ignored, and so is an update of one that is not. So there are two outcomes of each, for an id that was `new` then
    and one that was `old`: whether it is there in the end, and the seq id of its vector, 0 for the one before. deleted:
    whether it was at any time.
    """

    def __init__(self, connection: sqlite3.Connection, claim: Claim) -> None:
        keys, seq_ids, operations, with_vector = array("q"), array("q"), array("b"), array("b")
        rows = connection.execute(
            "SELECT CAST(id AS BLOB), seq_id, operation, vector IS NOT NULL FROM embeddings_queue"
            " WHERE topic = ? AND seq_id > ? AND seq_id <= ? ORDER BY seq_id",
            (claim.topic, claim.after, claim.upto),
        )
        for record, seq_id, operation, has_vector in rows:
            keys.append(hash(record))
            seq_ids.append(seq_id)
            operations.append(operation)
            with_vector.append(has_vector)
        found = np.frombuffer(keys, np.int64) if keys else np.zeros(0, np.int64)
        order = np.argsort(found, kind="stable")
        found = found[order]
        first = np.ones(len(found), bool)
        first[1:] = found[1:] != found[:-1]
        self.keys: NDArray[np.int64] = found[first]
        self._present = np.zeros((2, len(self.keys)), bool)
        self._vector = np.zeros((2, len(self.keys)), np.int64)
        self.deleted = np.zeros(len(self.keys), bool)
        group = -1
        state: list[Any] = []
        for start in range(0, len(order), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            for at, begins in zip(order[part].tolist(), first[part].tolist(), strict=True):
                if begins:
                    self._keep(group, state)
                    group, state = group + 1, [False, 0, True, 0]
                self.deleted[group] |= operations[at] == log.DELETE
                _apply(state, operations[at], seq_ids[at] if with_vector[at] else 0)
        self._keep(group, state)

    def _keep(self, group: int, state: Sequence[Any]) -> None:
        if group >= 0:
            self._present[:, group] = state[0], state[2]
            self._vector[:, group] = state[1], state[3]

    def vector(self, group: int, *, existed: bool) -> int:
        """The seq id of the row that has its vector, 0 when none has."""
        return int(self._vector[int(existed), group])

    def vectors_of_old(self) -> NDArray[np.int64]:
        """`vector` of each, if it was there before."""
        old: NDArray[np.int64] = self._vector[1]
        return old

    def likely(self) -> NDArray[np.int64]:
        """`vector` of each, as it is if it is there: of an id that was new, where such a one would be there."""
        new, old = self._vector
        return np.where(self._present[0], new, old)

    def wrong_presence(self, labels: NDArray[np.int64]) -> list[int]:
        """Those that are there or missing unlike the outcome for an old id; only one that was old is there whenever a new one is."""
        found: list[int] = np.flatnonzero((labels > 0) != self._present[1]).tolist()
        return found

    def is_there_if_new(self, group: int) -> bool:
        """Whether it is to be there even if it was new."""
        return bool(self._present[0, group])


def _apply(state: list[Any], operation: int, vector: int) -> None:
    """One row, to an id that was new (the first two) and to one that was old (the others)."""
    for at in (0, 2):
        if operation == log.DELETE:
            state[at] = False
        elif operation == log.UPSERT or (operation == log.ADD and not state[at]):
            state[at], state[at + 1] = True, vector or state[at + 1]
        elif operation == log.UPDATE and state[at]:
            state[at + 1] = vector or state[at + 1]


@dataclass(frozen=True)
class _Element:
    """One whose vector is not the likely one. group: its id's place among those wanted. number: in the files."""

    group: int
    number: int
    vector: bytes


def _labels(directory: Path, wanted: _Wanted) -> NDArray[np.int64]:
    """The label of each id that is wanted, 0 for those that are not there."""
    labels = np.zeros(len(wanted.keys), np.int64)

    def take(keys: NDArray[np.int64], found: Sequence[int]) -> None:
        at = np.searchsorted(wanted.keys, keys).clip(max=len(wanted.keys) - 1)
        hit = wanted.keys[at] == keys
        labels[at[hit]] = np.array(found, np.int64)[hit]

    _read_ids(directory, take)
    return labels


def _read_ids(directory: Path, take: Callable[[NDArray[np.int64], Sequence[int]], None]) -> None:
    with damage.open_file(directory / idmap.FILE) as pickle:
        for name, ids, found in idmap.IdMap(pickle).items():
            if name == "id_to_label":
                take(np.fromiter(map(hash, ids), np.int64, len(ids)), found)


def _pairs(
    directory: Path, connection: sqlite3.Connection, claim: Claim, rows: NDArray[np.int64], labels: NDArray[np.int64]
) -> Iterator[tuple[int, int, _Floats, _Floats]]:
    """Of each id with a label and a row: its place, the number of its element, its vector in the files and in the row."""
    header = format.read_header(directory)
    group_of = np.full(int(labels.max()) + 1, -1, np.int64)
    compared = np.flatnonzero((labels > 0) & (rows > 0))
    group_of[labels[compared]] = compared
    for first, words, lengths in _elements(directory, header, claim.cosine):
        low = words[:, -2]
        numbers = np.flatnonzero((words[:, 0] >> 16 == 0) & (low < len(group_of)))
        groups = group_of[low[numbers]]
        numbers, groups = numbers[groups >= 0], groups[groups >= 0]
        vectors = words[:, header.data_offset // 4 : -2].view("<f4")
        for start in range(0, len(numbers), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            logged = _fetch(connection, rows[groups[part]].tolist(), header.dimension)
            for number, group in zip(numbers[part].tolist(), groups[part].tolist(), strict=True):
                vector = logged.get(int(rows[group]))
                if vector is not None:
                    stored = vectors[number] if lengths is None else _scaled(vectors[number], lengths[number])
                    yield group, first + number, stored, vector


def _scaled(vector: _Floats, length: np.float32) -> _Floats:
    with np.errstate(invalid="ignore", over="ignore"):  # see _SQUARES
        return vector * length


def _elements(
    directory: Path, header: Header, cosine: bool
) -> Iterator[tuple[int, NDArray[np.uint32], _Floats | None]]:
    """The number of the first element of a block, the block with one element a row, and their lengths in a cosine space."""
    rows = max(1, format.CHUNK // header.element_size)
    with (
        damage.open_file(directory / format.LEVEL0_FILE) as level0,
        damage.open_file(directory / format.LENGTH_FILE) as length,
    ):
        for first in range(0, header.elements, rows):
            count = min(rows, header.elements - first)
            block = level0.read(count * header.element_size)
            if len(block) < count * header.element_size:
                raise Damage(f"{format.LEVEL0_FILE} ends early")
            lengths = np.frombuffer(length.read(4 * count), "<f4") if cosine else None
            yield first, np.frombuffer(block, "<u4").reshape(count, -1), lengths


def _fetch(connection: sqlite3.Connection, seq_ids: Sequence[int], dimension: int) -> dict[int, _Floats]:
    """Vectors of rows of the log; without those of another encoding or size."""
    marks = ", ".join("?" * len(seq_ids))
    rows = connection.execute(
        f"SELECT seq_id, vector FROM embeddings_queue WHERE encoding = 'FLOAT32' AND seq_id IN ({marks})",  # noqa: S608 (marks)
        list(seq_ids),
    )
    return {
        seq_id: np.frombuffer(vector, "<f4")
        for seq_id, vector in rows
        if vector is not None and len(vector) == 4 * dimension
    }


def _same(stored: _Floats, logged: _Floats, claim: Claim) -> bool:
    if not claim.cosine:
        return stored.tobytes() == logged.tobytes()
    with np.errstate(invalid="ignore", over="ignore"):  # see _SQUARES
        if np.abs(stored - logged).max() <= _NEAR * np.abs(logged).max() + _TINY:
            return True
    squares = _squares(logged)
    if squares >= _SQUARES[1]:
        return not np.isfinite(stored).all()
    return squares <= _SQUARES[0] and bool(np.abs(stored).max() < _ABOUT_ZERO)


def _squares(vector: _Floats) -> float:
    """The squared length of a vector."""
    wide = vector.astype(np.float64)
    return float(wide @ wide)


def _later(connection: sqlite3.Connection, claim: Claim, keys: set[int]) -> dict[int, list[int]]:
    """The rows after the claim of these ids: the files may be ahead of it, after a kill in a persist."""
    found: dict[int, list[int]] = {}
    rows = connection.execute(
        "SELECT CAST(id AS BLOB), seq_id FROM embeddings_queue WHERE topic = ? AND seq_id > ?",
        (claim.topic, claim.upto),
    )
    for record, seq_id in rows:
        if hash(record) in keys:
            found.setdefault(hash(record), []).append(seq_id)
    return found


def _existed(claim: Claim, keys: set[int]) -> set[int]:
    """Which of these ids were there before the first row; all of them, where that cannot be known."""
    if claim.before is None:
        return keys
    sought = np.array(sorted(keys), np.int64)
    found: set[int] = set()

    def take(ids: NDArray[np.int64], _labels: Sequence[int]) -> None:
        found.update(ids[np.isin(ids, sought)].tolist())

    _read_ids(claim.before, take)
    return found


def _check_presence(
    wrong: Sequence[int], claim: Claim, wanted: _Wanted, labels: NDArray[np.int64], existed: set[int]
) -> None:
    risen = sum(bool(labels[group]) for group in wrong)
    missing = sum(
        not labels[group]
        and (wanted.is_there_if_new(group) or (claim.before is not None and int(wanted.keys[group]) in existed))
        for group in wrong
    )
    if missing or risen:
        raise Damage(f"{idmap.FILE} lacks {missing} ids that the log has, and has {risen} that were deleted")


def _mend(
    directory: Path,
    connection: sqlite3.Connection,
    claim: Claim,
    suspects: Sequence[tuple[_Element, int, list[int]]],
) -> int:
    """Counts the suspects that are not what the log says, and puts right what is to be mended. suspects: each with the row that
    has its vector, and rows that came later."""
    if not suspects:
        return 0
    count = 0
    with _Writer(directory, claim) as writer:
        for suspect, seq_id, later in suspects:
            stored = np.frombuffer(suspect.vector, "<f4")
            logged = _fetch(connection, [seq_id], len(stored)).get(seq_id)
            ahead = _fetch(connection, later, len(stored)).values()
            if logged is None or any(_same(stored, other, claim) for other in (logged, *ahead)):
                continue
            count += 1
            if claim.mend:
                writer.write(suspect.number, logged)
    return count


class _Writer:
    """Writes vectors into the files of a segment, whose times stay as they were: their order tells whether a persist was
    complete, and what a copy is of."""

    def __init__(self, directory: Path, claim: Claim) -> None:
        self._header = format.read_header(directory)
        self._cosine = claim.cosine
        self._files = [
            open(directory / name, "r+b" if claim.mend else "rb")  # noqa: SIM115 (closed in __exit__)
            for name in (format.LEVEL0_FILE, format.LENGTH_FILE)
        ]
        self._times = [os.fstat(file.fileno()) for file in self._files]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file, status in zip(self._files, self._times, strict=True):
            if file.writable():
                file.flush()
                os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
            file.close()

    def write(self, number: int, vector: _Floats) -> None:
        """Gives an element this vector, as the engine would store it."""
        level0, lengths = self._files
        with np.errstate(over="ignore", under="ignore"):
            norm = np.sqrt(np.float32(_squares(vector)))
        level0.seek(number * self._header.element_size + self._header.data_offset)
        level0.write((vector / (norm + np.float32(_TINY)) if self._cosine else vector).tobytes())
        if self._cosine:
            lengths.seek(4 * number)
            lengths.write(norm.tobytes())
