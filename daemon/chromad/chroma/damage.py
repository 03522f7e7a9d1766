"""What makes a segment unsound, and how its files are opened. For processes that read segments."""

import errno
import os
import stat
from io import FileIO
from pathlib import Path


class Damage(Exception):
    """A segment is not what the engine leaves behind; the text says what is wrong, for an operator."""


class Missing(Damage):
    """A file is not there."""


def open_file(path: Path) -> FileIO:
    """Opens a file of a segment for reading. Raises Missing, Damage when it is no regular file, OSError otherwise."""
    try:
        # Without O_NONBLOCK the open of a FIFO would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise Missing(f"{path.name} is missing") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link, a socket
            raise Damage(f"{path.name} is not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Damage(f"{path.name} is not a regular file")
    return FileIO(fd)


def size(file: FileIO) -> int:
    """Bytes that the file claims to have; a sparse one holds fewer."""
    return os.fstat(file.fileno()).st_size


def held(file: FileIO) -> str:
    """The size in words, with what is really on disk where that is much less."""
    status = os.fstat(file.fileno())
    allocated = status.st_blocks * 512
    if allocated < status.st_size // 2:
        return f"{status.st_size} bytes ({allocated} of them on disk)"
    return f"{status.st_size} bytes"
