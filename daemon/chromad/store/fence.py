"""The write fence: triggers on Chroma's log that refuse writes with a reason, which clients get to read.

Three kinds stand beside each other: the operator's, the disk guard's, and one for each collection in quarantine. The
first two let deletes through, so that space can be freed. Triggers live in the SQLite file: they survive restarts, and
copies of the file must drop them (`drop_all`).
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from chromad.chroma import refusals, sqlite
from chromad.errors import ConfigurationError, TryAgain

OPERATOR = "operator"
DISK = "disk"

_PREFIX = "chromad_fence_"
_LONGEST = 500


def put(data_dir: Path, kind: str, reason: str) -> None:
    """Refuses writes from now on; a fence of the same kind is replaced. reason: one line.

    Raises ConfigurationError for a reason that is empty, longer than 500 characters or not printable.
    """
    if not reason or len(reason) > _LONGEST or not reason.isprintable():
        raise ConfigurationError(
            f"a fence's reason is one printable line of at most {_LONGEST} characters", "say what clients should know"
        )
    with _replacing(data_dir, kind) as connection:
        refusals.refuse_growth(connection, f"{_PREFIX}{kind}", f"writes are fenced: {reason}")


def put_around(data_dir: Path, collection: sqlite.Collection, reason: str) -> None:
    """Refuses all writes to one collection, deletes included: its segment is not there."""
    with _replacing(data_dir, collection.id) as connection:
        refusals.refuse_writes(connection, f"{_PREFIX}{collection.id}", collection.topic, reason)


def lift(data_dir: Path, kind: str) -> bool:
    """Removes a fence, given by its kind or a collection's id; False when there was none."""
    with sqlite.connect(data_dir) as connection:
        there = kind in _names(connection)
        drop(connection, kind)
    return there


def forget_deleted(data_dir: Path) -> None:
    """Removes the fences of collections that are no more."""
    with sqlite.connect(data_dir) as connection:
        there = sqlite.collection_ids(connection)
        for kind in _names(connection) - there - {OPERATOR, DISK}:
            drop(connection, kind)


def read(data_dir: Path) -> dict[str, str]:
    """The fences that stand: kind (or collection id) and reason."""
    if not sqlite.exists(data_dir):
        return {}
    with sqlite.connect(data_dir) as connection:
        return {
            name.removeprefix(_PREFIX): refusals.reason(text)
            for name, text in connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE ? ORDER BY name",
                (f"{_PREFIX}%",),
            )
        }


def need_none(fences: Mapping[str, str], consequence: str) -> None:
    """Raises TryAgain when writes to any collection are refused. fences: as `read` or the daemon's status gives them.
    consequence: what cannot be done therefore, for people."""
    for kind, hint in (
        (OPERATOR, "sudo chromactl unfence, then try again"),
        (DISK, "free some space; chromactl doctor says where"),
    ):
        if reason := fences.get(kind):
            raise TryAgain(f"writes are refused, so {consequence}: {reason}", hint)


def restore(data_dir: Path, fences: dict[str, str]) -> list[str]:
    """Puts back those of `fences` (as `read` gave them) that a client's reset has dropped; gives their kinds."""
    with sqlite.connect(data_dir) as connection:
        missing = sorted((fences.keys() & {OPERATOR, DISK}) - _names(connection))
    for kind in missing:
        put(data_dir, kind, fences[kind].removeprefix("writes are fenced: "))
    return missing


def drop(connection: sqlite3.Connection, kind: str) -> None:
    """Removes a fence within a transaction of the caller's."""
    refusals.drop(connection, f"{_PREFIX}{kind}")


def drop_all(connection: sqlite3.Connection) -> None:
    """Removes every fence from a copy of the database."""
    for kind in _names(connection):
        drop(connection, kind)


def _names(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE ?", (f"{_PREFIX}%",))
    return {name.removeprefix(_PREFIX) for (name,) in rows}


@contextmanager
def _replacing(data_dir: Path, kind: str) -> Iterator[sqlite3.Connection]:
    """A transaction in which a fence is put, after the former one is removed."""
    with sqlite.connect(data_dir) as connection:
        connection.execute("BEGIN IMMEDIATE")
        drop(connection, kind)
        yield connection
        connection.execute("COMMIT")
