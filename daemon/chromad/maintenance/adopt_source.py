"""A directory that is adopted: it is looked at and copied, and nothing in it is written.

It may belong to anybody, so root reads each directory of it with the rights of that directory's owner, by descriptors, and
follows no link: what its owner may not read does not get into the copy, whatever is put in its place meanwhile.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from chromad import names
from chromad.chroma import origin, segment, sqlite
from chromad.errors import ConfigurationError, PermissionProblem, TryAgain
from chromad.host import files, privileges
from chromad.host.privileges import Step
from chromad.store import state, swap

_CHUNK = 1 << 20
_SHOWN = 20
_DATABASE = tuple(f"{sqlite.FILE}{suffix}" for suffix in ("", "-wal", "-journal"))
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Look:
    """bytes: of Chroma's files. served: whether chromad has run on it. left_out: what is not Chroma's; how many more there are,
    where these are many."""

    bytes: int
    served: bool
    left_out: list[str]


class Readable(Protocol):
    """What an adoption needs of the directory."""

    def check(self) -> Look:
        """Raises ConfigurationError when it is none that can be adopted, TryAgain when another process has it open."""

    def copy_to(self, target: Path, tick: Callable[[], None]) -> None:
        """Copies Chroma's files into a directory that is made. tick: called often."""

    def unchanged(self) -> bool:
        """Whether it is as it was when it was copied."""


class Source:
    """A directory that this process may read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, tuple[int, int]] = {}

    def check(self) -> Look:
        """See `Readable`."""
        path = self._path
        if not path.is_absolute():
            raise ConfigurationError(f"the path {path} is relative", "give an absolute one")
        if not path.is_dir():
            origin.check_files(path)
        with self._open() as top:
            with _as_owner(top):
                origin.check_files(path)
                served = state.read(path) is not None
            swap.check_alone(path, here=True)
            found = list(self._files(top))
            # A torn link_lists.bin can claim terabytes.
            size = sum(min(status.st_size, status.st_blocks * 512) for _, status in found)
            left_out = sorted(name for name in os.listdir(top) if not _is_chromas(name))
            more = len(left_out) - _SHOWN
            return Look(size, served, [*left_out[:_SHOWN], f"… and {more} more"] if more > 0 else left_out)

    def copy_to(self, target: Path, tick: Callable[[], None]) -> None:
        """See `Readable`. What root copies belongs to the owner of the directory that the target is in."""
        with self._open() as top, _made(target) as copy:
            self._seen = _stats(self._files(top))
            for name in _DATABASE:
                if name in self._seen:
                    _copy(top, name, copy, self._path / name, tick)
            for uuid in self._segments(top):
                with _inside(top, uuid, self._path / uuid) as inner, _made_in(copy, uuid) as place:
                    for name in sorted(os.listdir(inner)):
                        if f"{uuid}/{name}" in self._seen:
                            _copy(inner, name, place, self._path / uuid / name, tick)

    def unchanged(self) -> bool:
        """See `Readable`."""
        with self._open() as top:
            return _stats(self._files(top)) == self._seen

    def steps(self, copy: Callable[[], Path]) -> dict[str, Step]:
        """What root does for an adoption that works as the service user, by its word. copy: gives where that is made."""
        return {
            "check source": lambda: asdict(self.check()),
            "copy source": lambda: self.copy_to(copy(), _leave_off),
            "source unchanged": self.unchanged,
        }

    @contextmanager
    def _open(self) -> Iterator[int]:
        with files.directory(self._path) as top:
            try:
                yield top
            except PermissionError as error:
                raise PermissionProblem(
                    f"{error.filename or self._path}: {error.strerror}", "its owner must be able to read all of it"
                ) from None

    def _segments(self, top: int) -> list[str]:
        """Of what was seen."""
        return sorted({name.partition("/")[0] for name in self._seen if "/" in name} | self._empty(top))

    def _empty(self, top: int) -> set[str]:
        return {name for name in os.listdir(top) if names.is_uuid(name) and _is_directory(top, name)}

    def _files(self, top: int) -> Iterator[tuple[str, os.stat_result]]:
        """Chroma's files. Raises ConfigurationError for links, which could lead root to any file."""
        for name in _DATABASE:
            yield from self._plain(top, name, name)
        for uuid in (name for name in sorted(os.listdir(top)) if names.is_uuid(name)):
            if _is_directory(top, uuid):
                with _inside(top, uuid, self._path / uuid) as inner:
                    for name in sorted(os.listdir(inner)):
                        yield from self._plain(inner, name, f"{uuid}/{name}")
            elif _is_link(top, uuid):
                raise _link(self._path / uuid)

    def _plain(self, parent: int, name: str, path: str) -> Iterator[tuple[str, os.stat_result]]:
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISLNK(status.st_mode):
            raise _link(self._path / path)
        if stat.S_ISREG(status.st_mode):
            yield path, status


class Asked:
    """A directory that root's part of this program reads."""

    def check(self) -> Look:
        """See `Readable`."""
        return Look(**privileges.ask("check source"))

    def copy_to(self, target: Path, tick: Callable[[], None]) -> None:
        """See `Readable`. The target is known there."""
        privileges.ask("copy source", tick)

    def unchanged(self) -> bool:
        """See `Readable`."""
        answer: Any = privileges.ask("source unchanged")
        return bool(answer)


def of(path: Path) -> Readable:
    """The directory, read by the part of this program that may."""
    return Asked() if privileges.may("check source") else Source(path)


def belongs_to(path: Path, uid: int) -> bool:
    """Whether a user may read a directory by itself; what is not there is nobody's."""
    try:
        return path.stat().st_uid == uid
    except OSError:
        return True


def _leave_off() -> None:
    if privileges.interrupted():
        raise TryAgain("it was interrupted", "nothing was touched")


@contextmanager
def _as_owner(fd: int) -> Iterator[None]:
    status = os.fstat(fd)
    with privileges.acting_as(status.st_uid, status.st_gid):
        yield


@contextmanager
def _inside(parent: int, name: str, path: Path) -> Iterator[int]:
    with _as_owner(parent):
        fd = _open(name, _DIRECTORY, parent, path)
    try:
        yield fd
    finally:
        os.close(fd)


def _open(name: str, flags: int, parent: int, path: Path) -> int:
    try:
        return os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _link(path) from None
        raise type(error)(error.errno, error.strerror, str(path)) from None


@contextmanager
def _made(target: Path) -> Iterator[int]:
    with files.directory(target.parent) as parent, _made_in(parent, target.name) as fd:
        yield fd


@contextmanager
def _made_in(parent: int, name: str) -> Iterator[int]:
    os.mkdir(name, 0o750, dir_fd=parent)
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        _give(fd, parent)
        yield fd
    finally:
        os.close(fd)


def _give(fd: int, parent: int) -> None:
    """What root has made belongs to the owner of its directory."""
    status, owner = os.fstat(fd), os.fstat(parent)
    if os.geteuid() == 0 and status.st_uid == 0:
        os.fchown(fd, owner.st_uid, owner.st_gid)


def _copy(source: int, name: str, target: int, path: Path, tick: Callable[[], None]) -> None:
    """Copies a file with its holes, and its times: they tell whether the files of a segment were written by one persist."""
    with _as_owner(source):
        reader = _open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, source, path)
    try:
        status = os.fstat(reader)
        if not stat.S_ISREG(status.st_mode):
            raise _link(path)
        writer = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640, dir_fd=target
        )
        try:
            _give(writer, target)
            os.ftruncate(writer, status.st_size)
            _copy_content(reader, writer, status.st_size, path, tick)
            segment.keep_times(reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_content(reader: int, writer: int, size: int, path: Path, tick: Callable[[], None]) -> None:
    at = 0
    while at < size:
        try:
            at = os.lseek(reader, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # a hole up to the end
        end = os.lseek(reader, at, os.SEEK_HOLE)
        while at < end:
            chunk = os.pread(reader, min(_CHUNK, end - at), at)
            if not chunk:
                raise TryAgain(f"{path} became shorter", "stop what writes it")
            at += os.pwrite(writer, chunk, at)
            tick()


def _stats(found: Iterator[tuple[str, os.stat_result]]) -> dict[str, tuple[int, int]]:
    """Sizes and times: what tells whether one has been written."""
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found}


def _is_chromas(name: str) -> bool:
    return name.startswith(sqlite.FILE) or names.is_uuid(name)


def _is_directory(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _is_link(parent: int, name: str) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _link(path: Path) -> ConfigurationError:
    return ConfigurationError(f"{path} is a symbolic link", "put what it names in its place")
