"""SQLite's write-ahead log: the mode in which it is, emptying it, and one that does not go with its file."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from chromad.chroma import sqlite
from chromad.errors import ChromadError

_NEWEST = "SELECT coalesce(max(seq_id), 0) FROM embeddings_queue"


def use(data_dir: Path, *, flush: bool = True) -> None:
    """Puts the file into WAL mode, making it when the directory is empty. The mode stays in the file.

    flush: False leaves it to the caller to put a private copy on disk.
    """
    path = data_dir / sqlite.FILE
    path.touch(mode=0o640)
    with sqlite.connect(data_dir) as connection:
        if not flush:
            sqlite.do_not_flush(connection)
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise ChromadError(
            f"{path} stays in journal mode {mode}", "a network file system cannot hold it; use a local one"
        )


@contextmanager
def keep(data_dir: Path) -> Iterator[None]:
    """For private copies, as `do_not_flush`: no other connection can move the WAL into the file meanwhile.

    It must be in WAL mode, and the WAL empty: a reader of the file itself is what stops others (SQLite's walCheckpoint).
    """
    with sqlite.connect(data_dir) as connection:
        sqlite.do_not_flush(connection)
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        yield


def truncate(data_dir: Path, *, flush: bool = True) -> bool:
    """Moves the WAL into the file and empties it. False when another connection was in the way. flush: as in `use`."""
    with sqlite.connect(data_dir, busy_timeout=5.0) as connection:
        if not flush:
            sqlite.do_not_flush(connection)
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


def holds_something(data_dir: Path) -> bool:
    """Whether there is a WAL that holds something."""
    wal = data_dir / f"{sqlite.FILE}-wal"
    return wal.exists() and wal.stat().st_size > 0


def goes_back(data_dir: Path) -> bool:
    """Whether the WAL is of an earlier time than the file: the log ends earlier with it than without it, though it has no later
    header; or SQLite cannot read both together, but the file alone. Changes neither. Nobody else may have them open."""
    sqlite.need_plain(data_dir)
    path = sqlite.quote(data_dir / sqlite.FILE)
    try:
        with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
            (alone,) = connection.execute(_NEWEST).fetchone()
            (sound,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError:
        return False
    # A process that ends without closing its connection moves nothing from the WAL into the file.
    program = f"import os, sqlite3; c = sqlite3.connect('file:{path}?mode=rw', uri=True); "
    program += f"print(c.execute({_NEWEST!r}).fetchone()[0], c.execute('PRAGMA quick_check(1)').fetchone()[0], flush=True); os._exit(0)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    found = done.stdout.split(maxsplit=1)
    if len(found) != 2 or found[1].strip() != "ok":
        return bool(sound == "ok")
    # To delete the collection that was written last takes the end of the log.
    return int(found[0]) < alone and not _has_later_header(data_dir)


def _has_later_header(data_dir: Path) -> bool:
    """Whether the WAL holds a header of the database of a later time than the file's, by its change counter, which every
    transaction that writes the header counts up: https://sqlite.org/fileformat2.html#file_change_counter"""
    with open(data_dir / sqlite.FILE, "rb") as file:
        counter = file.read(100)[24:28]
    committed = last = counter
    with open(data_dir / f"{sqlite.FILE}-wal", "rb") as wal:
        header = wal.read(32)
        size, salts = int.from_bytes(header[8:12]), header[16:24]
        while len(frame := wal.read(24)) == 24 and frame[8:16] == salts:
            page = wal.read(size)
            if int.from_bytes(frame[:4]) == 1:
                last = page[24:28]
            if any(frame[4:8]):
                committed = last
    return committed > counter


def set_aside(data_dir: Path) -> Path:
    """Renames the WAL, so that SQLite does not take it for one of the file; gives its name."""
    wal = data_dir / f"{sqlite.FILE}-wal"
    aside = wal.with_name(f"{wal.name}.aside-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    wal.rename(aside)
    (data_dir / f"{sqlite.FILE}-shm").unlink(missing_ok=True)
    fd = os.open(data_dir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return aside
