"""Which process has a file open or listens on a port, as far as the kernel lets this user see it."""

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chromad.host import files

# Byte of the -shm file that each connection to a WAL database keeps locked ("DMS",
# https://www.sqlite.org/walformat.html#wal_locks)
_SHM_DMS = 128

_MOST = 20

# struct flock of fcntl(2) on 64-bit Linux: type, whence, start, len, pid
_FLOCK = "hhqqi4x"


@dataclass(frozen=True)
class Process:
    pid: int
    command: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.command})" if self.command else f"pid {self.pid}"


def with_open_database(path: Path, ignore: set[int]) -> list[Process]:
    """The processes that have an SQLite file open, some of them where they are very many.

    Open files of other users are hidden from an ordinary user; their lock on the WAL index is not.
    """
    pids = set()
    try:
        with files.directory(path.parent) as parent:
            wanted = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return []
    # What a link points to is somebody else's.
    if not stat.S_ISREG(wanted.st_mode):
        return []
    for pid, fd in _open_files():
        try:
            status = os.stat(fd)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
            pids.add(pid)
    holder = _lock_holder(path.with_name(path.name + "-shm"))
    if holder is not None:
        pids.add(holder)
    return [Process(pid, command(pid) if pid > 0 else "in another container") for pid in sorted(pids - ignore)[:_MOST]]


def with_listening_port(port: int) -> str:
    """A description of what listens on a TCP port: pid and command, or the user where the process is hidden."""
    owners: dict[str, str] = {}
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/self/net", table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            # proc(5), /proc/net/tcp: 1 local address, 3 state (0A: listening), 7 uid, 9 inode
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                owners[fields[9]] = fields[7]
    for pid, fd in _open_files():
        try:
            link = os.readlink(fd)
        except OSError:
            continue
        if link.startswith("socket:[") and link[8:-1] in owners:
            return str(Process(pid, command(pid)))
    return f"a process of uid {next(iter(owners.values()))}" if owners else "another process"


def command(pid: int) -> str:
    """The command line of a process, empty where it is hidden."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()[:200]


def _open_files() -> Iterator[tuple[int, str]]:
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            names = os.listdir(f"{entry.path}/fd")
        except OSError:
            continue
        for name in names:
            yield int(entry.name), f"{entry.path}/fd/{name}"


def _lock_holder(shm: Path) -> int | None:
    try:
        fd = files.open_plain(shm, os.O_RDWR)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _SHM_DMS, 1, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else max(int(pid), 0)
