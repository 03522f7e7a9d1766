"""What an engine's unit may write, reached without a name that the service user can exchange meanwhile.

systemd follows paths as root when it starts a unit: what was a directory when it was looked at may be a link by then, where the
service user can write what it is in. Such a directory is bound, by the descriptor that it was looked at with, to a place of root's,
and the unit has it from there. Under its usual path, since the configuration names it: what it is in is an empty file system there,
so that nothing of what else is in it is seen.

The places are root's alone to enter, and go when the unit has what it needs. Those that were left behind by one that was killed
go with the next.
"""

import ctypes
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chromad.host import files

# sys/mount.h
_MS_BIND = 4096
_MNT_DETACH = 2

_RUN = Path("/run")
_NAME = re.compile(r"chromadb-engine-[0-9a-f]{16}")
# What a unit has an empty one of by itself: PrivateTmp=, and ProtectHome=tmpfs where something of ours is in it
_HOMES = ("/home", "/root", "/run/user")
_EMPTY = ("/tmp", "/var/tmp", *_HOMES)  # noqa: S108 (nothing is put there)
_SPECIAL = re.compile(r"[\s\\:\"']")


@contextmanager
def held(name: str, paths: Iterable[Path], programs: Iterable[Path]) -> Iterator[list[str]]:
    """Gives the properties by which a unit may write directories, and see programs where it would see nothing, such as in /tmp.
    Within, the unit is to begin. Paths that are not there do not count.

    name: of the unit, 16 hexadecimal digits at its end. Raises PermissionError for a link that root has not made, OSError."""
    _sweep()
    place = _RUN / name
    lock = -1
    binds: list[str] = []
    empty: list[Path] = []
    writable: list[Path] = []
    try:
        for path in paths:
            try:
                descriptor = files.open_directory(path)
            except FileNotFoundError:
                continue
            try:
                real = Path(f"/proc/self/fd/{descriptor}").readlink()
                source, writable = real, [*writable, real]
                if above := exchangeable_in(real):
                    if lock < 0:
                        files.make_directory(place, 0o700, (0, 0))
                        lock = files.open_directory(place)
                        fcntl.flock(lock, fcntl.LOCK_EX)
                    source = place / str(len(binds))
                    files.make_directory(source, 0o700, (0, 0))
                    _bind(descriptor, source)
                    if not any(above.is_relative_to(each) for each in _EMPTY):
                        empty.append(above)
                binds.append(f"BindPaths={quoted(source)}:{quoted(real)}")
            finally:
                os.close(descriptor)
        at_home = any(each.is_relative_to(home) for each in (*programs, *writable) for home in _HOMES)
        yield [
            *(["ProtectHome=tmpfs"] if at_home else []),
            *(f"TemporaryFileSystem={quoted(each)}:ro" for each in dict.fromkeys(empty)),
            *(f"BindReadOnlyPaths={quoted(each)}" for each in programs),
            *binds,
        ]
    finally:
        if lock >= 0:
            _take_away(place)
            os.close(lock)


def exchangeable_in(path: Path) -> Path | None:
    """The first directory on the way to a real path, from the top, in which others than root could put something else in the place
    of the next; None where there is none."""
    above = Path("/")
    for name in path.parts[1:]:
        status, found = above.lstat(), (above / name).lstat()
        others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if status.st_uid or (others and not (status.st_mode & stat.S_ISVTX and found.st_uid == 0)):
            return above
        above /= name
    return None


def quoted(path: Path) -> str:
    """As it is written in a property that has paths, divided by spaces and colons."""
    return _SPECIAL.sub(r"\\\g<0>", str(path))


def _sweep() -> None:
    """Takes away what was left behind by those that were killed."""
    for place in _RUN.glob("chromadb-engine-*"):
        if not _NAME.fullmatch(place.name):
            continue
        with suppress(OSError):
            lock = files.open_directory(place)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _take_away(place)
            finally:
                os.close(lock)


def _take_away(place: Path) -> None:
    for each in place.iterdir():
        # Not bound yet, perhaps
        with suppress(OSError):
            _call("umount2", os.fsencode(each), _MNT_DETACH)
        files.remove_directory(each)
    files.remove_directory(place)


def _bind(descriptor: int, target: Path) -> None:
    _call("mount", f"/proc/self/fd/{descriptor}".encode(), os.fsencode(target), None, _MS_BIND, None)


def _call(function: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), function)
