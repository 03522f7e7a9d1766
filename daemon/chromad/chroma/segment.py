"""Vector segment directories: `<data>/<segment uuid>/`, written in place by the engine."""

import errno
import fcntl
import mmap
import os
import shutil
import sqlite3
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chromad import names
from chromad.chroma import sqlite
from chromad.errors import BackupError
from chromad.host import files

# Written last by the engine's persist: without it the directory holds nothing that can be opened.
PICKLE = "index_metadata.pickle"
FILES = ("header.bin", "data_level0.bin", "length.bin", "link_lists.bin", PICKLE)

# Seconds. A segment counts as quiet when no file of it changed for QUIET under the write lock. Files newer than the
# pickle tell of a persist that stands still half way, until they are older than STALL: by then the daemon has ended an
# engine that hangs, and files that were copied by hand may have any order.
QUIET = 0.1
_STALL = 60.0
_LIMIT = 90.0

_TRIES_WITHOUT_LOCK = 3
# In the cache: threads of the service that are to run wait until the kernel has copied it.
_SMALL_BLOCK = 128 << 10
_BLOCK = 2 << 20
_MONSTER = 64 << 20

# header.bin, see `format`
HEADER = struct.Struct("<i6QiI3QdQ")
# Elements that memory is given for at first, by Chroma 1.0, others less. Bytes of one: more than this cannot be read at once,
# and 2 MiB hold 500,000 dimensions.
LARGEST_START = 10_000
LARGEST_ELEMENT = 2 << 20

# ioctl(2) FICLONE of linux/fs.h: share the blocks of another file
_FICLONE = 0x40049409

# Of each file by its name: inode, size in bytes, time of the last write in ns
Stats = dict[str, tuple[int, int, int]]


def directories(data_dir: Path) -> list[Path]:
    """The directories in which the engine keeps segments, those of deleted collections included."""
    return sorted(path for path in data_dir.iterdir() if path.is_dir() and names.is_uuid(path.name))


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
            files.fsync_path(Path(entry.path))
            yield Path(entry.path)
    files.fsync_path(directory)
    yield directory


def copy_live(connection: sqlite3.Connection, segment: str, source: Path, target: Path) -> int | None:
    """Copies a segment that a live engine may be writing, into a directory that is made.

    A persist needs a write first, and sets its seq id last, for both of which it needs SQLite's write lock. So: copy
    without the lock, then take it and see that nothing has changed; that holds writers up for an instant only. A
    segment that is persisted more often than it can be copied gets its changed blocks copied again under the lock.

    connection: autocommit, to the live database. Gives the seq id that the copy stands for, None when the
    log must rebuild the segment from its beginning. Raises BackupError when the segment never becomes quiet.
    """
    copy = _Copy(source, target)
    deadline = time.monotonic() + _LIMIT
    tries = 0
    while time.monotonic() < deadline:
        tries += 1
        before = _wait_until_quiet(source)
        if PICKLE in before:
            copy.update(before)
        connection.execute("BEGIN IMMEDIATE")
        try:
            if tries > _TRIES_WITHOUT_LOCK and stats(source) != before:
                before = _wait_until_quiet(source)
                if PICKLE in before and not within_persist(source, before):
                    copy.update(before, flush=False)
            if PICKLE not in before:
                return None
            if stats(source) == before and not within_persist(source, before):
                return _seq_id(connection, segment)
        finally:
            connection.execute("ROLLBACK")
        # Give way to writers, and to the persist.
        time.sleep(QUIET)
    raise BackupError(f"{source} kept changing for {_LIMIT:.0f} s", "look for what slows the disk down, then try again")


def copy_still(connection: sqlite3.Connection, segment: str, source: Path, target: Path) -> int | None:
    """As `copy_live`, of a segment that nobody writes."""
    found = stats(source)
    if PICKLE not in found:
        return None
    _Copy(source, target).update(found)
    return _seq_id(connection, segment)


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
                if not any(PICKLE in seen and within_persist(path, seen) for path, seen in found.items()):
                    yield True
                    return
            finally:
                connection.execute("ROLLBACK")
            tick()
            time.sleep(QUIET)
    yield False


class _Copy:
    """A copy of a segment that can be brought up to date."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source = source
        self._target = target
        self._copied: Stats = {}
        if target.exists():
            shutil.rmtree(target)
        target.mkdir(mode=0o750)

    def update(self, wanted: Stats, *, flush: bool = True) -> None:
        """Copies the files that are not as they were when they were copied last."""
        for name in wanted:
            if self._copied.get(name) != wanted[name]:
                copy_file(self._source / name, self._target / name, flush=flush)
        self._copied = wanted


def _seq_id(connection: sqlite3.Connection, segment: str) -> int | None:
    row = connection.execute(
        "SELECT CAST(seq_id AS INTEGER) FROM max_seq_id WHERE segment_id = ?", (segment,)
    ).fetchone()
    return None if row is None else int(row[0])


def _wait_until_quiet(source: Path) -> Stats:
    before = stats(source)
    for _ in range(10):
        newest = max((stat[2] for stat in before.values()), default=0)
        if 0 <= newest < time.time_ns() - QUIET * 1e9:
            return before
        # Changed just now, or the clock was set back: look whether it still changes.
        time.sleep(QUIET)
        after = stats(source)
        if after == before:
            return after
        before = after
    return before


def within_persist(source: Path, found: Stats) -> bool:
    """Whether files that changed lately tell of a persist that is not complete."""
    newest = max(stat[2] for stat in found.values())
    if time.time_ns() - newest > _STALL * 1e9:
        return False
    return is_torn(source, found)


def is_torn(source: Path, found: Stats) -> bool:
    """Whether the files were not all written by the persist that wrote the pickle: it comes last and ends with STOP."""
    with open(source / PICKLE, "rb") as pickle:
        pickle.seek(max(found[PICKLE][1] - 1, 0))
        complete = pickle.read(1) == b"."
    return not complete or found[PICKLE][2] < max(stat[2] for stat in found.values())


def stats(source: Path) -> Stats:
    """What tells whether a segment's files have changed; empty when it has no directory."""
    try:
        entries = [(entry.name, entry.stat()) for entry in os.scandir(source) if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return {}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in entries}


def database_stats(data_dir: Path) -> Stats:
    """As `stats`, of the file of the database; empty when there is none."""
    try:
        status = (data_dir / sqlite.FILE).stat()
    except FileNotFoundError:
        return {}
    return {sqlite.FILE: (status.st_ino, status.st_size, status.st_mtime_ns)}


def copy_file(source: Path, target: Path, *, flush: bool = True) -> None:
    """Copies a file: shares its blocks where the file system can, else writes what differs from a target that is there.

    flush: put it on disk while it is copied, past the cache or a little at a time: SQLite's fsync of a client's write may
    have to wait for what others have not yet put there. Raises BackupError for a file that is far larger than what it
    holds, as a torn `link_lists.bin` can be, and OSError when the disk is full.
    """
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    writer = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        status = os.fstat(reader)
        if _is_monster(source, status):
            raise BackupError(
                f"{source} claims {status.st_size} bytes and holds {status.st_blocks * 512}",
                "it is damaged; a restart puts the last checkpoint back",
            )
        try:
            fcntl.ioctl(writer, _FICLONE, reader)
        except OSError:
            if not (flush and _copy_past_cache(reader, writer, status.st_size)):
                _copy_blocks(reader, writer, status.st_size, flush)
        os.truncate(writer, status.st_size)
        keep_times(reader, writer)
    finally:
        os.close(reader)
        os.close(writer)


def monster(directory: Path) -> str:
    """Names a file that is far larger than what it holds; empty when there is none."""
    try:
        found = [entry.path for entry in os.scandir(directory) if _is_monster(Path(entry.path), entry.stat())]
    except FileNotFoundError:
        return ""
    return found[0] if found else ""


def _is_monster(path: Path, status: os.stat_result) -> bool:
    # Few blocks alone say nothing where the file system compresses, or has yet to give them.
    if not _is_hollow(status.st_size, status.st_blocks * 512) or status.st_size <= _largest(path):
        return False
    with open(path, "rb") as file:
        return _is_hollow(status.st_size, _written(file.fileno(), status.st_size))


def _is_hollow(size: int, held: int) -> bool:
    return size > _MONSTER + 8 * held


def _written(fd: int, size: int) -> int:
    """Bytes of a file that are no holes, lseek(2); no longer counted where they are enough for it not to be hollow."""
    written = end = 0
    while _is_hollow(size, written):
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # Nothing but a hole is left.
        end = os.lseek(fd, start, os.SEEK_HOLE)
        written += end - start
    return written


def _largest(path: Path) -> int:
    """How large a file of a segment may be by its header; 0 for one that has no sizes of its own, or no header to believe.

    See `format` for the layout; the link lists of an element are many times smaller than what is allowed here.
    """
    try:
        found = (path.parent / FILES[0]).read_bytes()
        (_, _, limit, elements, size, _, _, _, _, links, _, _, _, _) = HEADER.unpack(found)
    except (OSError, struct.error):
        return 0
    if not (0 < elements <= limit <= max(LARGEST_START, 4 * elements) and 0 < size <= LARGEST_ELEMENT):
        return 0
    sizes = {"data_level0.bin": size, "length.bin": 4, "link_lists.bin": 4 + 4 * (4 + 4 * links)}
    return max(100, int(elements)) * int(sizes.get(path.name, 0))


def shares_blocks(data_dir: Path, directory: Path) -> bool:
    """Whether copies of files of one directory in the other share their blocks (reflink)."""
    with tempfile.TemporaryFile(dir=data_dir) as source, tempfile.TemporaryFile(dir=directory) as target:
        source.write(bytes(4096))
        source.flush()
        try:
            fcntl.ioctl(target, _FICLONE, source.fileno())
        except OSError:
            return False
    return True


def _copy_past_cache(source: int, target: int, size: int) -> bool:
    """Writes a file that is empty yet by direct I/O, and puts it on disk; False where the file system has none.

    Nothing is left in the cache for others' fsyncs to wait for, and one fdatasync is enough. The end is filled up to the
    unit of direct writes, for the caller to cut off.
    """
    if os.fstat(target).st_size:
        return False
    block = memoryview(mmap.mmap(-1, _BLOCK))  # direct I/O needs memory that starts at a page
    flags = fcntl.fcntl(target, fcntl.F_GETFL)
    try:
        fcntl.fcntl(target, fcntl.F_SETFL, flags | os.O_DIRECT)
        for offset in range(0, size, _BLOCK):
            read = os.preadv(source, [block], offset)
            _write(target, block[: -(-read // mmap.PAGESIZE) * mmap.PAGESIZE], offset)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        fcntl.fcntl(target, fcntl.F_SETFL, flags)
    os.fdatasync(target)
    return True


def _copy_blocks(source: int, target: int, size: int, flush: bool) -> None:
    there = os.fstat(target).st_size
    step = _BLOCK if flush else _SMALL_BLOCK
    for offset in range(0, size, step):
        block = os.pread(source, step, offset)
        if offset < there and os.pread(target, step, offset) == block:
            continue
        _write(target, memoryview(block), offset)
        if flush:
            os.fdatasync(target)


def _write(target: int, block: memoryview, offset: int) -> None:
    """Writes all of a block: a disk that gets full takes a part of it first, and says so only to the next write."""
    while block:
        written = os.pwrite(target, block, offset)
        block = block[written:]
        offset += written


def keep_times(source: int, target: int) -> None:
    """Gives a copy the times of its original (file descriptors): their order tells whether a persist was complete."""
    status = os.fstat(source)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
