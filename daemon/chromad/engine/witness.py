"""Whether the disk under a database is full, or has failed since one began to look."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from chromad.chroma import sqlite
from chromad.engine.texts import FailedWrite

# Bytes; what SQLite writes for a transaction is more.
_PROBE = 64 << 10
_TROUBLES = {
    errno.ENOSPC: FailedWrite.FULL,
    errno.EDQUOT: FailedWrite.FULL,
    errno.EIO: FailedWrite.FAILING,
    # After an error of the disk, some file systems let nobody write any more.
    errno.EROFS: FailedWrite.FAILING,
    errno.EUCLEAN: FailedWrite.FAILING,
}


class Witness:
    """Keeps the files of a database open: the kernel tells whoever has a file open of what it could not write to the disk, once
    each (errseq_t, Linux 4.13)."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._files: dict[str, int] = {}
        self._former = -1

    def begin(self) -> None:
        """Opens what is not open yet. The database is never closed, which would take away the locks that this process has on it
        (https://www.sqlite.org/howtocorrupt.html, 2.2); a WAL may be another one by now, and is kept open where it is not."""
        for name in (sqlite.FILE, f"{sqlite.FILE}-wal"):
            held = self._files.get(name, -1)
            if held >= 0 and name == sqlite.FILE:
                continue
            path = self._data_dir / name
            with suppress(OSError):
                if held >= 0 and os.path.samestat(os.fstat(held), os.stat(path, follow_symlinks=False)):
                    continue
                self._files[name] = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                # Not at once: it may be looked at just now.
                if self._former >= 0:
                    os.close(self._former)
                self._former = held

    def trouble(self) -> str:
        """What is wrong with the disk, as `FailedWrite` calls it; empty where nothing is."""
        try:
            _try(self._data_dir)
            for fd in list(self._files.values()):
                os.fdatasync(fd)
        except OSError as error:
            found = _TROUBLES.get(error.errno or 0)
        except MemoryError:
            found = FailedWrite.STARVED
        else:
            found = None
        return str(found.value) if found else ""


def _try(directory: Path) -> None:
    """Raises OSError where the file system of a directory, or our quota there, has no room for another few pages, or takes none."""
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # files without a name
            raise
        status = os.statvfs(directory)
        if status.f_bavail * status.f_frsize < _PROBE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory)) from None
        return
    try:
        written = 0
        while written < _PROBE:
            written += os.write(fd, bytes(_PROBE - written))
    finally:
        os.close(fd)
