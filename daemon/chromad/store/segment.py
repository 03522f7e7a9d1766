"""Vector segment directories: `<data>/<segment uuid>/`, written in place by the engine."""

import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chromad.errors import BackupError
from chromad.store import sqlite, state

# Written last by the engine's persist: without it the directory holds nothing that can be opened.
PICKLE = "index_metadata.pickle"
FILES = ("header.bin", "data_level0.bin", "length.bin", "link_lists.bin", PICKLE)

# Seconds. A segment counts as quiet when no file of it changed for QUIET under the write lock. Files newer than the
# pickle tell of a persist that stands still half way, until they are older than STALL: by then the daemon has ended an
# engine that hangs, and files that were copied by hand may have any order.
_QUIET = 0.1
_STALL = 60.0
_LIMIT = 90.0

# ioctl(2) FICLONE of linux/fs.h: share the blocks of another file
_FICLONE = 0x40049409

_Stats = dict[str, tuple[int, int, int]]


def directories(data_dir: Path) -> list[Path]:
    """The directories in which the engine keeps segments, those of deleted collections included."""
    return sorted(path for path in data_dir.iterdir() if path.is_dir() and _is_uuid(path.name))


def allocated(directory: Path) -> int:
    """Bytes that a segment takes on disk; 0 when it has no directory."""
    try:
        return sum(entry.stat().st_blocks * 512 for entry in os.scandir(directory))
    except FileNotFoundError:
        return 0


def sync(directory: Path) -> Iterator[Path]:
    """fsyncs a segment's files, then its directory; yields each one when it is done."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_file(follow_symlinks=False):
            state.fsync_path(Path(entry.path))
            yield Path(entry.path)
    state.fsync_path(directory)
    yield directory


def copy_quiet(connection: sqlite3.Connection, segment: str, source: Path, target: Path) -> int | None:
    """Copies a segment that a live engine may be writing.

    Under SQLite's write lock the engine cannot begin another persist (it needs a write first); one that has
    begun finishes its files and then waits for the lock. So: lock, wait until no file changes, copy, compare.

    connection: autocommit, to the live database. Gives the seq id that the copy stands for, None when the
    log must rebuild the segment from its beginning. Raises BackupError when the segment never becomes quiet.
    """
    deadline = time.monotonic() + _LIMIT
    while time.monotonic() < deadline:
        connection.execute("BEGIN IMMEDIATE")
        try:
            before = _wait_until_quiet(source)
            if PICKLE not in before:
                return None
            if not _within_persist(source, before):
                _replace(target)
                for name in before:
                    _copy_file(source / name, target / name)
                if _stats(source) == before:
                    return _seq_id(connection, segment, target)
        finally:
            connection.execute("ROLLBACK")
        # Give way to writers, and to the persist.
        time.sleep(_QUIET)
    raise BackupError(f"{source} kept changing for {_LIMIT:.0f} s", "look for what slows the disk down, then try again")


@contextmanager
def hold_still(data_dir: Path, tick: Callable[[], None]) -> Iterator[bool]:
    """Keeps a live engine from writing anything: holds the write lock, all segments being quiet.

    Yields False, without the lock, when that could not be had in time. Calls `tick` while it waits.
    """
    deadline = time.monotonic() + _LIMIT
    with sqlite.connect(data_dir, busy_timeout=_LIMIT) as connection:
        while time.monotonic() < deadline:
            connection.execute("BEGIN IMMEDIATE")
            try:
                found = {directory: _wait_until_quiet(directory) for directory in directories(data_dir)}
                if not any(PICKLE in stats and _within_persist(path, stats) for path, stats in found.items()):
                    yield True
                    return
            finally:
                connection.execute("ROLLBACK")
            tick()
            time.sleep(_QUIET)
    yield False


def _seq_id(connection: sqlite3.Connection, segment: str, target: Path) -> int | None:
    row = connection.execute("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (segment,)).fetchone()
    if row is None:
        shutil.rmtree(target)
        return None
    return int(row[0])


def _wait_until_quiet(source: Path) -> _Stats:
    before = _stats(source)
    for _ in range(10):
        newest = max((stat[2] for stat in before.values()), default=0)
        if 0 <= newest < time.time_ns() - _QUIET * 1e9:
            return before
        # Changed just now, or the clock was set back: look whether it still changes.
        time.sleep(_QUIET)
        after = _stats(source)
        if after == before:
            return after
        before = after
    return before


def _within_persist(source: Path, stats: _Stats) -> bool:
    newest = max(stat[2] for stat in stats.values())
    if time.time_ns() - newest > _STALL * 1e9:
        return False
    with open(source / PICKLE, "rb") as pickle:
        pickle.seek(max(stats[PICKLE][1] - 1, 0))
        complete = pickle.read(1) == b"."  # the STOP opcode of every pickle
    return not complete or stats[PICKLE][2] < newest


def _stats(source: Path) -> _Stats:
    try:
        entries = [(entry.name, entry.stat()) for entry in os.scandir(source) if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return {}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in entries}


def _replace(target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(mode=0o750)


def _copy_file(source: Path, target: Path) -> None:
    with open(source, "rb") as reader, open(target, "xb") as writer:
        try:
            fcntl.ioctl(writer, _FICLONE, reader.fileno())
        except OSError:
            shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        keep_times(reader.fileno(), writer.fileno())


def keep_times(source: int, target: int) -> None:
    """Gives a copy the times of its original (file descriptors): their order tells whether a persist was complete."""
    status = os.fstat(source)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _is_uuid(name: str) -> bool:
    return len(name) == 36 and name.count("-") == 4 and set(name) <= set("0123456789abcdef-")
