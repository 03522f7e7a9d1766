"""File systems: which ones there are, what is missing (see `mounts`), how full they are and will be."""

from collections.abc import Generator, Iterator
from pathlib import Path

from chromad.checks import Data, Result, fail, mounts, ok, warn
from chromad.checks.host import Host
from chromad.errors import ChromadError, ConfigurationError
from chromad.host.disks import Aside, usage
from chromad.logs.lines import human_bytes

# On these SQLite's locks or its shared memory do not work, https://www.sqlite.org/wal.html and faq.html#q5
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "9p", "afs"}
_SOON = 7 * 86400  # seconds
_HINT = "delete records and run chromactl compact, keep fewer backups, or give it more space"


def check(host: Host) -> Iterator[Result]:
    """Kind and mounts of the file systems, then how full they are."""
    data_dir, checkpoint_dir = host.config.data_dir, host.config.checkpoint_dir
    kind = file_system(data_dir, mounts.mountinfo())
    if kind in _NETWORK:
        fact = f"{data_dir} is on {kind}: SQLite needs a local file system"
        yield fail("file_system", ConfigurationError, fact, "move the data to a local one", {"type": kind})
    else:
        yield ok("file_system", f"{data_dir} is on {kind}", {"type": kind})
    if checkpoint_dir.exists() and data_dir.exists() and checkpoint_dir.stat().st_dev != data_dir.stat().st_dev:
        yield warn(
            "checkpoint_dir",
            f"{checkpoint_dir} is not on the file system of {data_dir}",
            "move it there: recovery and backups link and copy between them",
        )
    paths = (data_dir, checkpoint_dir, host.config.backup.local_path)
    yield mounts.check(host.config, [path for path in paths if path])
    yield from _space(host)


def file_system(path: Path, mountinfo: str) -> str:
    """The type of the file system of a path, by the longest mount point that holds it (proc_pid_mountinfo(5))."""
    best, kind = "", "unknown"
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = mounts.unescape(before.split()[4])
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def _space(host: Host) -> Iterator[Result]:
    config = host.config
    seen = set()
    paths = [config.data_dir, config.checkpoint_dir]
    if (backups := config.backup.local_path) and (yield from _answers(backups)):
        paths.append(backups)
    for path in paths:
        if not path.exists() or path.stat().st_dev in seen:
            continue
        seen.add(path.stat().st_dev)
        found = usage(path)
        fact = f"the file system of {path} is {found.percent:.0f} % full ({found.of}), {human_bytes(found.free)} free"
        data: Data = {"path": str(path), "percent": round(found.percent, 1), "of": found.of, "free": found.free}
        if found.percent >= config.disk.fence_percent:
            yield fail("disk", ChromadError, fact, _HINT, data)
        elif found.percent >= config.disk.warn_percent:
            yield warn("disk", fact, _HINT, data)
        else:
            yield ok("disk", fact, data)
    yield from _forecast(host)


def _answers(path: Path) -> Generator[Result, None, bool]:
    """Whether the file system of the backups can be looked at at all."""
    aside = Aside(path)
    if aside.answers():
        return True
    hint = "see whether the other side of the mount is there; backups fail until it is, and the log grows"
    yield fail("backup_disk", ChromadError, f"{path}: {aside.problem}", hint)
    return False


def _forecast(host: Host) -> Iterator[Result]:
    seconds = host.answer.disk.full_in if host.answer and host.answer.disk else None
    if seconds is None:
        return
    fact = f"at the growth of the last hours, writes will be refused for want of space in {seconds / 86400:.1f} days"
    if seconds < _SOON:
        yield warn("growth", fact, _HINT, {"seconds": seconds})
    else:
        yield ok("growth", fact, {"seconds": seconds})
