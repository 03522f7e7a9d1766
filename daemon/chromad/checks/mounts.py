"""Whether the file systems that our directories belong on are there: else data would go to the disk below."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from chromad.checks import Result, fail, ok
from chromad.config import Config
from chromad.errors import TryAgain

_FSTAB, _MOUNTINFO = Path("/etc/fstab"), Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class _Mount:
    """device: of the file system. root: what of it is mounted."""

    point: str
    device: str
    root: str


def check(config: Config, paths: Iterable[Path]) -> Result:
    """Whether what fstab(5) mounts at or above paths, and the directory `mount` of the configuration, are mounted."""
    mounted = points(mountinfo())
    ours = list(paths)
    named = [point for point in _of_fstab() if any(path.is_relative_to(point) for path in ours)]
    wanted = [(point, f"{_FSTAB} names a file system for {point}, which is not mounted") for point in named]
    if config.mount:
        wanted.append((str(config.mount), f"{config.mount} is to be a mount point, as mount says, and is none"))
    for point, fact in wanted:
        # Only of one that is not mounted: a file system of the network may not answer to a look at it.
        if point not in mounted and os.path.realpath(point) not in mounted:
            return fail(
                "mounts", TryAgain, fact, f"mount {point}, with the service stopped; else data go to the disk below"
            )
    return ok("mounts", f"what {_FSTAB} and the configuration name for our directories is mounted")


def mountinfo() -> str:
    """What is mounted, as proc_pid_mountinfo(5) has it. Names may be of any bytes."""
    return _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")


def points(mountinfo: str) -> set[str]:
    """The directories on which something else is mounted than what was there, see proc_pid_mountinfo(5).

    For ReadWritePaths=, systemd mounts a directory upon itself: that makes it no volume.
    """
    mounts = [
        _Mount(unescape(fields[4]), fields[2], unescape(fields[3])) for fields in map(str.split, mountinfo.splitlines())
    ]
    return {each.point for each in mounts if each.point == "/" or not _upon_itself(each, mounts)}


def unescape(point: str) -> str:
    """A path as fstab(5) and mountinfo write it."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)


def _upon_itself(mount: _Mount, mounts: list[_Mount]) -> bool:
    """Whether it is the part of a file system that can be seen at the same place without it."""
    point = PurePath(mount.point)
    around = [each for each in mounts if each.point != mount.point and point.is_relative_to(each.point)]
    # Of several at one place, the last covers the others.
    below = max(reversed(around), key=lambda each: len(each.point), default=None)
    if below is None or below.device != mount.device:
        return False
    return PurePath(below.root) / point.relative_to(below.point) == PurePath(mount.root)


def _of_fstab() -> list[str]:
    try:
        lines = _FSTAB.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        # There is none, or it is not for us to read: then nothing is known of volumes but `mount`.
        return []
    fields = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return sorted({os.path.normpath(unescape(each[1])) for each in fields if len(each) > 1 and each[1].startswith("/")})
