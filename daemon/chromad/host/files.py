"""Files in directories that somebody else may write: all goes by descriptors of directories, and follows nobody's links.

As root, the way to a directory is gone name by name, and a symbolic link on it is followed only when root has made it. What
root makes belongs to the owner of the directory that it is in. Nothing that has another name elsewhere is written or given
away, nor what is no plain file. An ordinary user can do no more here than the kernel permits anyway, and goes the short way.
"""

import errno
import fcntl
import mmap
import os
import re
import secrets
import stat
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath

from chromad.host import renameat2

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LEVELS = 100  # of directories in each other, each of which takes a descriptor; the service makes six at most
_LINKS = 40  # that path_resolution(7) follows at most
# What `write_atomically` and `write_link` make first
_DRAFT = re.compile(r"\.(.+)\.[0-9a-f]{16}\.new")
# Seconds after which a draft that nobody has locked is one of a writer that was killed; a link cannot be locked
_ABANDONED, _ABANDONED_LINK = 1.0, 3600.0

_FLUSHED = 4 << 20  # bytes that are put on disk at once


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """A descriptor of a directory. Raises PermissionError when a link that root has not made is on root's way to it."""
    fd = open_directory(path)
    try:
        yield fd
    finally:
        os.close(fd)


def open_directory(path: Path) -> int:
    """As `directory`, for the caller to close."""
    if os.geteuid() != 0:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    ahead = deque(Path(os.path.abspath(path)).parts[1:])
    links = 0
    at = os.open("/", _DIRECTORY)
    try:
        while ahead:
            found = os.open(ahead.popleft(), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            status = os.fstat(found)
            if not stat.S_ISLNK(status.st_mode):
                os.close(at)
                at = found
                continue
            target = PurePath(os.readlink("", dir_fd=found))
            os.close(found)
            links += 1
            if status.st_uid != 0 or links > _LINKS:
                raise PermissionError(errno.ELOOP, "a symbolic link that root has not made is on the way to", str(path))
            if target.is_absolute():
                os.close(at)
                at = os.open("/", _DIRECTORY)
            ahead.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
        return os.open(".", _DIRECTORY, dir_fd=at)
    except NotADirectoryError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    finally:
        os.close(at)


def open_plain(path: Path, flags: int, mode: int = 0o640) -> int:
    """As os.open, of a plain file that is no link; the caller closes it. One that root makes belongs to the owner of its
    directory. Raises PermissionError for anything else, and as root for a file that has another name."""
    with directory(path.parent) as parent:
        # O_NONBLOCK: a pipe in its place must not keep us.
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(path.name, flags, mode, dir_fd=parent)
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path)) from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise PermissionError(errno.EPERM, "it is no plain file", str(path))
            if os.geteuid() == 0 and flags & os.O_ACCMODE != os.O_RDONLY:
                if status.st_nlink > 1:
                    raise PermissionError(errno.EPERM, "it has another name elsewhere", str(path))
                owner = os.fstat(parent)
                if flags & os.O_CREAT:
                    os.fchown(fd, owner.st_uid, owner.st_gid)
        except BaseException:
            os.close(fd)
            raise
    return fd


def read_plain(path: Path) -> bytes:
    """The content of a plain file that is no link; raises as `open_plain`."""
    with open(open_plain(path, os.O_RDONLY), "rb") as file:
        return file.read()


def write_atomically(path: Path, text: str, mode: int, *, new: bool = False) -> None:
    """Writes a file under a name that nobody can guess, fsyncs it, renames it, fsyncs the directory: a crash leaves either the
    old or the new one. A link in its place is replaced, not followed. new: raise FileExistsError where there is something."""
    with directory(path.parent) as parent:
        _remove_drafts(path.name, parent)
        draft = f".{path.name}.{secrets.token_hex(8)}.new"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            # As long as it is a draft.
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(fd, "w", encoding="utf-8", closefd=False) as file:
                file.write(text)
            if os.geteuid() == 0:
                owner = os.fstat(parent)
                os.fchown(fd, owner.st_uid, owner.st_gid)
            os.fchmod(fd, mode)
            os.fsync(fd)
            if new:
                renameat2.rename(parent, draft, parent, path.name)
            else:
                os.rename(draft, path.name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft, dir_fd=parent)
            raise
        finally:
            os.close(fd)
        os.fsync(parent)


def remove_drafts(path: Path) -> None:
    """Removes what writers that were killed have left in a directory, of whatever file; nothing where there is no directory."""
    with suppress(FileNotFoundError), directory(path) as parent:
        _remove_drafts("", parent)


def _remove_drafts(name: str, parent: int) -> None:
    """Removes what writers that were killed have left of a file, or, without a name, of any."""
    for each in os.listdir(parent):
        found = _DRAFT.fullmatch(each)
        with suppress(OSError):
            if found and name in ("", found[1]) and _is_abandoned(each, parent):
                os.unlink(each, dir_fd=parent)


def _is_abandoned(draft: str, parent: int) -> bool:
    """Whether nobody writes a draft any more. Raises OSError where it cannot be told."""
    status = os.stat(draft, dir_fd=parent, follow_symlinks=False)
    age = time.time() - status.st_mtime
    if stat.S_ISLNK(status.st_mode):
        return age > _ABANDONED_LINK
    fd = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)
    return age > _ABANDONED


def try_write(path: Path) -> None:
    """Raises OSError where a directory takes no new file, write and fsync, or does not give it up. What a power cut leaves of it
    goes with other drafts."""
    with directory(path) as parent:
        draft = f".probe.{secrets.token_hex(8)}.new"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            os.write(fd, b"chromad\n")
            os.fsync(fd)
        finally:
            os.close(fd)
            os.unlink(draft, dir_fd=parent)
        os.fsync(parent)


def make_directory(path: Path, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Makes a directory; as root for an owner (uid, gid), else for that of its parent. Raises FileExistsError when there is
    something."""
    with directory(path.parent) as parent:
        os.mkdir(path.name, mode, dir_fd=parent)
        if os.geteuid() != 0:
            return
        fd = os.open(path.name, _DIRECTORY, dir_fd=parent)
        try:
            status, above = os.fstat(fd), os.fstat(parent)
            # The owner of the parent may have put another one in its place.
            if status.st_uid not in (0, above.st_uid) or os.listdir(fd):
                raise PermissionError(errno.EPERM, "something has taken its place", str(path))
            uid, gid = owner or (above.st_uid, above.st_gid)
            if status.st_uid == 0:
                os.fchown(fd, uid, gid)
        finally:
            os.close(fd)


def remove(path: Path) -> None:
    """Removes a file or a link, where it is there."""
    with suppress(FileNotFoundError), directory(path.parent) as parent:
        os.unlink(path.name, dir_fd=parent)


def remove_directory(path: Path) -> None:
    """Removes an empty directory."""
    with directory(path.parent) as parent:
        os.rmdir(path.name, dir_fd=parent)


def remove_tree(path: Path, *, ignore_errors: bool = False) -> None:
    """Removes a directory and all in it; follows no link, opens nothing but directories. Raises OSError also for one that has
    too many levels. ignore_errors: leaves what cannot be removed."""
    # Not shutil.rmtree, which opens what is a pipe, or a link to a device, by then.
    try:
        with directory(path.parent) as parent:
            if not stat.S_ISDIR(os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            _remove_entry(parent, path.name, path, 0, ignore_errors)
    except OSError:
        if not ignore_errors:
            raise


def _remove_entry(parent: int, name: str, top: Path, level: int, ignore_errors: bool) -> None:
    try:
        try:
            fd = os.open(name, _DIRECTORY | os.O_NONBLOCK, dir_fd=parent)
        except (NotADirectoryError, FileNotFoundError):
            os.unlink(name, dir_fd=parent)
            return
        try:
            if level > LEVELS:
                raise too_deep(top)
            for each in os.listdir(fd):
                _remove_entry(fd, each, top, level + 1, ignore_errors)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        # Somebody else has removed it.
        if not level:
            raise
    except OSError:
        if not ignore_errors:
            raise


def too_deep(path: Path) -> OSError:
    """What is raised for a tree that nobody can go through by descriptors."""
    return OSError(errno.ENAMETOOLONG, "it has too many levels, remove it with rm -r", str(path))


def make_link(path: Path, target: str) -> None:
    """Makes a symbolic link, or lets it point elsewhere: whoever looks sees the former or the new one."""
    with directory(path.parent) as parent:
        draft = f".{path.name}.{secrets.token_hex(8)}.new"
        _remove_drafts(path.name, parent)
        os.symlink(target, draft, dir_fd=parent)
        try:
            os.rename(draft, path.name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.unlink(draft, dir_fd=parent)
            raise
        os.fsync(parent)


def rename(source: Path, target: Path) -> None:
    """Renames; there must be nothing under the new name. Raises FileExistsError else."""
    with directory(source.parent) as before, directory(target.parent) as after:
        renameat2.rename(before, source.name, after, target.name)


def exchange(one: Path, other: Path) -> None:
    """Swaps two directories, or raises and leaves both as they are. As root, both must belong to the same user.

    Where the directory that `one` is in may be somebody else's, root does it beside `other`, to which `one` comes under its own
    name after a dot: what is looked at there is what is exchanged. A kill leaves one of the two under that name.
    """
    with directory(one.parent) as first, directory(other.parent) as second, ExitStack() as end:
        before, after = _directory(first, one), _directory(second, other)
        if os.geteuid() != 0 or os.path.samestat(os.fstat(first), os.fstat(second)):
            _same_owner(one, before, after)
            renameat2.exchange(first, one.name, second, other.name)
            return
        for parent, path in ((first, one), (second, other)):
            fd = os.open(path.name, _DIRECTORY, dir_fd=parent)
            end.callback(os.close, fd)
            # For whoever comes to clear away; what the owner does to itself is of no account.
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with _beside(first, one, second) as (way, there):
            if not os.path.samestat(there, before):
                raise PermissionError(errno.EPERM, "something has taken its place", str(one))
            _same_owner(one, there, after)
            renameat2.exchange(second, way, second, other.name)
            try:
                renameat2.rename(second, way, first, one.name)
            except OSError:
                renameat2.exchange(second, way, second, other.name)
                raise


def _same_owner(path: Path, one: os.stat_result, other: os.stat_result) -> None:
    if os.geteuid() == 0 and one.st_uid != other.st_uid:
        raise PermissionError(errno.EPERM, "it belongs to another user than what is exchanged for it", str(path))


def bring(one: Path, other: Path) -> None:
    """Renames a directory to what is not there. As root, it must belong to the owner of the directory that it is in, and comes
    beside `other` first, as in `exchange`."""
    with directory(one.parent) as first, directory(other.parent) as second, _beside(first, one, second) as (way, there):
        if os.geteuid() == 0 and there.st_uid != os.fstat(first).st_uid:
            raise PermissionError(errno.EPERM, "it belongs to somebody else", str(one))
        renameat2.rename(second, way, second, other.name)


@contextmanager
def _beside(first: int, path: Path, second: int) -> Iterator[tuple[str, os.stat_result]]:
    """A directory is in another one meanwhile, under a name of its own; an error puts it back, whatever it is."""
    way = f".{path.name}"
    renameat2.rename(first, path.name, second, way)
    try:
        yield way, _directory(second, path.with_name(way))
    except BaseException:
        try:
            renameat2.rename(second, way, first, path.name)
        except FileExistsError:
            # The owner has put something else there.
            renameat2.rename(second, way, first, f"{path.name}.{secrets.token_hex(8)}")
        raise


def _directory(parent: int, path: Path) -> os.stat_result:
    status = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    return status


def sync(path: Path) -> None:
    """fsyncs a directory."""
    with directory(path) as fd:
        os.fsync(fd)


def set_mode(path: Path, mode: int) -> None:
    """chmod of a directory or a plain file."""
    with directory(path.parent) as parent:
        fd = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            status = os.fstat(fd)
            if not stat.S_ISDIR(status.st_mode) and (not stat.S_ISREG(status.st_mode) or status.st_nlink > 1):
                raise PermissionError(errno.EPERM, "it is no plain file with one name", str(path))
            os.fchmod(fd, mode)
        finally:
            os.close(fd)


def fsync_file(path: Path) -> None:
    """fsyncs a file a little at a time: if it is large and was written just now, the commits of the service's clients would
    wait for all of it. Needs the right to write it."""
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if size:
            with mmap.mmap(file.fileno(), 0) as content:
                for start in range(0, size, _FLUSHED):
                    # msync: fsync of a range
                    content.flush(start, min(_FLUSHED, size - start))
        os.fsync(file.fileno())


def fsync_path(path: Path) -> None:
    """fsyncs one file or directory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
