"""The quarantine: what is taken out of the data directory is moved here, never deleted on a doubt.

A move is a rename. Where quarantine is on another file system or mount, it is a copy of all that there is, which is durable
and compared before the source goes. What is not whole yet, or not whole any more, has a name that starts with a dot;
`sweep` removes such remains of a move that was killed.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from chromad.chroma import segment
from chromad.errors import ChromadError, PermissionProblem
from chromad.host import files
from chromad.logs.lines import human_bytes
from chromad.logs.lines import log as journal

_ORPHAN, _REBUILT = "orphan", "rebuilt"
_NAME_FORMAT = "%Y%m%dT%H%M%S.%fZ"
_TIME = r"\d{8}T\d{6}\.\d{6}Z"
_ORPHANS = re.compile(rf"[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}-{_ORPHAN}-({_TIME})")
_REMAINS = re.compile(rf"\..+-[a-z]+-{_TIME}")
_BLOCK = 2 << 20
# Bytes: what a directory or a file takes beside its content, and what a copy leaves free for SQLite to go on with
_ENTRY, _RESERVE = 8 << 10, 16 << 20


class NotMoved(ChromadError):
    """Something could not be moved to quarantine. It is where it was, whole, and nothing of it is in quarantine."""


class NoRoom(NotMoved):
    """Quarantine is on another file system or mount, and a copy does not fit there. needed, free: bytes."""

    def __init__(self, path: Path, quarantine_dir: Path, needed: int, free: int) -> None:
        super().__init__(
            f"{path} cannot be moved to {quarantine_dir}, which is on another file system or mount: a copy needs "
            f"{human_bytes(needed)}, and {human_bytes(free)} are free there",
            f"free {human_bytes(max(needed - free, 0))} there, or put both on one mount; nothing was moved",
        )
        self.needed = needed
        self.free = free


def list_lost(segment_id: str, quarantine_dir: Path, records: Iterable[str]) -> Path:
    """Writes the ids of records whose vector cannot be had to `<quarantine_dir>/<segment>-<UTC time>.lost`, one a line."""
    _make(quarantine_dir)
    path = quarantine_dir / f"{segment_id}-{datetime.now(UTC).strftime(_NAME_FORMAT)}.lost"
    files.write_atomically(path, "".join(f"{record}\n" for record in records), 0o640)
    return path


def keep_list(source: Path, quarantine_dir: Path, name: str) -> Path:
    """Copies such a list to `<quarantine_dir>/<name>`, on disk; gives where it is."""
    _make(quarantine_dir)
    files.write_atomically(quarantine_dir / name, source.read_text(encoding="utf-8"), 0o640)
    return quarantine_dir / name


def _make(quarantine_dir: Path) -> None:
    if not quarantine_dir.is_dir():
        quarantine_dir.mkdir(mode=0o750, exist_ok=True)
        files.fsync_path(quarantine_dir.parent)


def move(path: Path, quarantine_dir: Path, why: str, tick: Callable[[], None]) -> Path:
    """Moves a directory to `<quarantine_dir>/<its name>-<why>-<UTC time>`, with all that is in it; gives where it is then.

    why: a word. tick: called often while it has to be copied; what it raises ends the move.
    Raises PermissionProblem when the quarantine cannot be written, NoRoom when a copy does not fit, NotMoved when it cannot
    be had for another reason. Then nothing has changed.
    """
    target = quarantine_dir / f"{path.name.lstrip('.')}-{why}-{datetime.now(UTC).strftime(_NAME_FORMAT)}"
    try:
        _make(quarantine_dir)
        try:
            path.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_over(path, target, tick)
        else:
            _settle(path, target)
    except PermissionError as error:
        raise PermissionProblem(
            f"{path} cannot be moved to {quarantine_dir}: {error.strerror}",
            f"create it: install -d -m 0750 … {quarantine_dir}",
        ) from None
    except OSError as error:
        raise NotMoved(
            f"{path} cannot be moved to {quarantine_dir}: {error.strerror}",
            "look at the file systems of both (dmesg); nothing was removed",
        ) from None
    return target


def move_orphan(path: Path, quarantine_dir: Path, tick: Callable[[], None]) -> Path:
    """As `move`, for the segment of a collection that was deleted."""
    return move(path, quarantine_dir, _ORPHAN, tick)


def move_rebuilt(path: Path, quarantine_dir: Path, tick: Callable[[], None]) -> Path:
    """As `move`, for a segment of which the log has everything: of each the last one alone is kept, so that one that is not
    sound again and again takes no more room each time."""
    former = list(quarantine_dir.glob(f"{path.name}-{_REBUILT}-*"))
    target = move(path, quarantine_dir, _REBUILT, tick)
    for each in former:
        shutil.rmtree(each)
    return target


def remove_orphans(quarantine_dir: Path, grace: float) -> list[Path]:
    """Removes what `move_orphan` moved here more than `grace` seconds ago, and remains of moves; gives what were orphans.

    A directory that holds anything but the files of a segment is not ours to remove.
    """
    if not quarantine_dir.is_dir():
        return []
    sweep(quarantine_dir)
    removed = []
    for path in sorted(quarantine_dir.iterdir()):
        if _is_over(path, grace) and _is_segment(path):
            shutil.rmtree(path)
            removed.append(path)
    return removed


def sweep(directory: Path) -> None:
    """Removes what moves that were killed have left in a directory, be it quarantine or what was moved out of."""
    for path in directory.glob(".*"):
        if _REMAINS.fullmatch(path.name) and path.is_dir() and not path.is_symlink() and not _is_held(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_over(path: Path, grace: float) -> bool:
    """Whether it is an orphan whose time is over. It began when it was moved, which its name tells."""
    found = _ORPHANS.fullmatch(path.name)
    try:
        moved = datetime.strptime(found[1], _NAME_FORMAT).replace(tzinfo=UTC) if found else None
    except ValueError:
        return False
    return moved is not None and moved < datetime.now(UTC) - timedelta(seconds=grace)


def _is_segment(path: Path) -> bool:
    """Whether it is a directory that holds nothing but files of a segment."""
    if path.is_symlink() or not path.is_dir():
        return False
    with os.scandir(path) as entries:
        return all(each.name in segment.FILES and each.is_file(follow_symlinks=False) for each in entries)


def _is_held(path: Path) -> bool:
    """Whether somebody is at work on it, or it cannot be told."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _settle(path: Path, target: Path) -> None:
    """Makes a rename durable, or undoes it."""
    try:
        files.fsync_path(target.parent)
        files.fsync_path(path.parent)
    except OSError:
        target.rename(path)
        raise


# Copying


def _copy_over(path: Path, target: Path, tick: Callable[[], None]) -> None:
    """Copies it, then removes the source; after an error there is the source and nothing else."""
    for directory in (target.parent, path.parent):
        sweep(directory)
    needed, free = _size(path) + _RESERVE, _free(target.parent)
    if free < needed:
        raise NoRoom(path, target.parent, needed, free)
    partial, removed = (each.with_name(f".{target.name}") for each in (target, path))
    partial.mkdir(mode=0o750)
    holder = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        _copy_tree(path, partial, tick)
        partial.rename(target)
        files.fsync_path(target.parent)
        # Out of its place at once: a kill must not leave half of it there.
        path.rename(removed)
    except BaseException as error:
        if path.exists():
            with suppress(FileNotFoundError):
                target.rename(partial)
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(path, target.parent, needed, _free(target.parent)) from None
        raise
    finally:
        os.close(holder)
    with suppress(OSError):
        files.fsync_path(path.parent)
    shutil.rmtree(removed, ignore_errors=True)


def _copy_tree(source: Path, target: Path, tick: Callable[[], None]) -> None:
    """Copies all directories and files, durably; names what is neither, and leaves it out."""
    for entry in _entries(source):
        if entry.is_dir(follow_symlinks=False):
            (target / entry.name).mkdir(mode=0o750)
            _copy_tree(Path(entry.path), target / entry.name, tick)
        elif entry.is_file(follow_symlinks=False):
            _copy_file(Path(entry.path), target / entry.name, tick)
        else:
            journal.warning("%s is neither a file nor a directory, and is not copied to quarantine", entry.path)
    files.fsync_path(target)


def _copy_file(source: Path, target: Path, tick: Callable[[], None]) -> None:
    """Copies what a file holds between its holes, and its times, which tell whether a persist was complete. Reads it back."""
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    writer = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        before, extents = os.fstat(reader), list(_extents(reader))
        for offset, block in _blocks(reader, extents):
            _write(writer, block, offset)
            # A little at a time: the commits of clients wait for what is not on disk yet.
            os.fdatasync(writer)
            tick()
        os.truncate(writer, before.st_size)
        segment.keep_times(reader, writer)
        os.fsync(writer)
        # What is read now comes from the disk.
        os.posix_fadvise(writer, 0, 0, os.POSIX_FADV_DONTNEED)
        same = _digest(writer, extents, tick) == _digest(reader, extents, tick)
        after = os.fstat(reader)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise OSError(errno.EBUSY, f"{source} has changed meanwhile")
        if not same:
            raise OSError(errno.EIO, f"{target} does not hold what was written")
    finally:
        os.close(reader)
        os.close(writer)


def _write(fd: int, block: bytes, offset: int) -> None:
    """All of it: a disk that gets full takes a part first, and says so only to the next write."""
    rest = memoryview(block)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def _digest(fd: int, extents: list[tuple[int, int]], tick: Callable[[], None]) -> bytes:
    digest = hashlib.sha256(str(os.fstat(fd).st_size).encode())
    for _, block in _blocks(fd, extents):
        digest.update(block)
        tick()
    return digest.digest()


def _blocks(fd: int, extents: list[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    for start, end in extents:
        for offset in range(start, end, _BLOCK):
            yield offset, os.pread(fd, min(_BLOCK, end - offset), offset)


def _extents(fd: int) -> Iterator[tuple[int, int]]:
    """Where a file has content: begin and end of each piece between its holes, in bytes."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # There is nothing more.
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _size(directory: Path) -> int:
    """Bytes that a copy takes."""
    total = _ENTRY
    for entry in _entries(directory):
        if entry.is_dir(follow_symlinks=False):
            total += _size(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                total += _ENTRY + sum(end - start for start, end in _extents(fd))
            finally:
                os.close(fd)
    return total


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _free(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize
