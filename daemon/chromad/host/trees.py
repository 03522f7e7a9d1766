"""Whole directories that change hands: by descriptors, as in `files`, following nobody's links."""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from chromad.host import files

# linux/fcntl.h
_AT_EMPTY_PATH = 0x1000
_ACCESS_LISTS = {"system.posix_acl_access", "system.posix_acl_default"}
_TOP = PurePath()


def give_tree(path: Path, before: int, uid: int, gid: int) -> None:
    """Gives a directory and what is in it to somebody else, for whom alone it is to change: 0750, files 0640, no access lists.
    before: whose all of it must be. Raises PermissionError for what is neither a directory nor a plain file, belongs to another
    one, or has another name elsewhere.

    A directory is closed to its former owner before it is looked into: nothing is added behind our back.
    """
    with files.directory(path.parent) as parent:
        _give(parent, path.name, path, before, (uid, gid))


def _give(parent: int, name: str, path: Path, before: int, owner: tuple[int, int]) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        status = os.fstat(fd)
        is_directory = stat.S_ISDIR(status.st_mode)
        if status.st_uid != before:
            raise PermissionError(errno.EPERM, "it belongs to somebody else", str(path))
        if not is_directory:
            _need_plain(fd, path)
        os.fchown(fd, *owner)
        os.fchmod(fd, 0o700 if is_directory else 0o600)
        _remove_access_lists(fd)
        if is_directory:
            for each in os.listdir(fd):
                _give(fd, each, path / each, before, owner)
        else:
            # Nobody else can make another name now.
            _need_plain(fd, path)
        os.fchmod(fd, 0o750 if is_directory else 0o640)
    finally:
        os.close(fd)


def _remove_access_lists(fd: int) -> None:
    try:
        found = os.listxattr(fd)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return  # where there are none
    for each in _ACCESS_LISTS.intersection(found):
        os.removexattr(fd, each)


def _need_plain(fd: int, path: Path) -> None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise PermissionError(errno.EPERM, "it is no plain file with one name", str(path))


@contextmanager
def taken_away(path: Path) -> Iterator[None]:
    """A directory is root's and closed meanwhile, so that its owner puts nothing in the place of what is in it."""
    with files.directory(path) as fd:
        before = os.fstat(fd)
        os.fchown(fd, 0, 0)
        os.fchmod(fd, 0o700)
        try:
            yield
        finally:
            os.fchmod(fd, stat.S_IMODE(before.st_mode))
            os.fchown(fd, before.st_uid, before.st_gid)


def take_tree(path: Path, uid: int, gid: int) -> None:
    """As chown -R, but it follows no link, and leaves alone files that have another name somewhere else."""
    with files.directory(path) as top:
        os.fchown(top, uid, gid)
        for _, name, fd in _everything_in(top, path):
            with suppress(FileNotFoundError):
                _take(fd, name, uid, gid)


def owners(path: Path) -> Iterator[tuple[Path, int]]:
    """A directory and all in it, with the uid of each; it follows no link. What goes away meanwhile is left out."""
    with files.directory(path) as top:
        yield path, os.fstat(top).st_uid
        for place, name, fd in _everything_in(top, path):
            try:
                uid = os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid
            except FileNotFoundError:
                continue
            yield path / place / name, uid


def _everything_in(fd: int, path: Path, place: PurePath = _TOP) -> Iterator[tuple[PurePath, str, int]]:
    """Of each thing below a directory: the directory that it is in, its name, and a descriptor of that directory.

    Raises OSError for a tree with very many levels, each of which takes a descriptor.
    """
    if len(place.parts) > files.LEVELS:
        raise files.too_deep(path)
    for name in os.listdir(fd):
        yield place, name, fd
        try:
            # Not os.fwalk, which opens what is a link by then, a device behind it as well.
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except (NotADirectoryError, FileNotFoundError, PermissionError):
            continue
        try:
            yield from _everything_in(inner, path, place / name)
        finally:
            os.close(inner)


def _take(parent: int, name: str, uid: int, gid: int) -> None:
    """What is looked at is what is given, whatever has its name by then."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        status = os.fstat(fd)
        if status.st_uid == uid or (not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1):
            return
        if ctypes.CDLL(None, use_errno=True).fchownat(fd, b"", uid, gid, _AT_EMPTY_PATH):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), name)
    finally:
        os.close(fd)
