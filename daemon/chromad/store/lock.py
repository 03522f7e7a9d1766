"""Who may work on a data directory: exclusive locks, and who holds them."""

import fcntl
import os
import sys
import time
from pathlib import Path
from types import TracebackType

from chromad.errors import PermissionProblem, TryAgain
from chromad.host import files

DIRECTORY_LOCK = "chromad.lock"
BACKUP_LOCK = "backup.lock"


class Lock:
    """An exclusive flock(2) on a file that names its holder.

    The lock lives as long as any process has `fd` open: the engine inherits it, so that a daemon that
    is killed does not free the directory while its engine still writes.
    """

    def __init__(self, path: Path, purpose: str) -> None:
        self.path = path
        self.purpose = purpose
        self.fd = -1

    def acquire(self) -> None:
        """Raises TryAgain, naming the holder, when another process has the lock."""
        try:
            # What root leaves here belongs to the service user, and does not stand in its way.
            fd = files.open_plain(self.path, os.O_RDWR | os.O_CREAT)
        except PermissionError:
            raise PermissionProblem(
                f"{self.path} cannot be opened for writing", "run as root or as the service user"
            ) from None
        if not _flock(fd, tries=3):
            holder = os.pread(fd, 4096, 0).decode(errors="replace").strip() or "an unknown process"
            os.close(fd)
            raise TryAgain(
                f"{self.path.parent} is in use for {self.purpose} by {holder}",
                "wait for it, or stop it, then try again",
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pid {os.getpid()} ({' '.join(sys.argv)[:200]})\n".encode(errors="replace"), 0)
        self.fd = fd

    def release(self) -> None:
        """Gives the lock back."""
        os.ftruncate(self.fd, 0)
        os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _flock(fd: int, tries: int) -> bool:
    # More than one try: `backup_holder` takes the lock for an instant to see whether it is free.
    for attempt in range(tries):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05 if attempt < tries - 1 else 0)
        else:
            return True
    return False


def directory_lock(data_dir: Path) -> Lock:
    """The lock of the one who writes the data directory."""
    return Lock(data_dir / DIRECTORY_LOCK, "writing")


def backup_lock(backup_dir: Path) -> Lock:
    """The lock of the one who takes, drills, restores or forgets backups."""
    return Lock(backup_dir / BACKUP_LOCK, "a backup, a drill or a restore")


def is_held(path: Path) -> bool:
    """Whether a process has the lock of this file."""
    try:
        fd = files.open_plain(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _flock(fd, tries=1)
    finally:
        os.close(fd)


def backup_holder(backup_dir: Path) -> int | None:
    """The pid of the one who has the lock of the backups now, else None."""
    try:
        fd = files.open_plain(backup_dir / BACKUP_LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        if _flock(fd, tries=1):
            return None
        return _holder(fd)
    finally:
        os.close(fd)


def directory_holder_lives(data_dir: Path) -> bool:
    """Whether the process that took the directory's lock still runs; a child of it may hold the lock."""
    try:
        fd = files.open_plain(data_dir / DIRECTORY_LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        return Path(f"/proc/{_holder(fd)}").exists()
    finally:
        os.close(fd)


def _holder(fd: int) -> int | None:
    words = os.pread(fd, 64, 0).decode(errors="replace").split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


def hold_directory(path: Path) -> int:
    """Locks a directory as long as this process lives; gives the descriptor."""
    fd = files.open_directory(path)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def is_held_directory(path: Path) -> bool:
    """Whether somebody has locked it, or it cannot be told."""
    try:
        os.close(hold_directory(path))
    except OSError:
        return True
    return False
