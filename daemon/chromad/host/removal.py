"""Removes trees of large files a little at a time.

A file system frees all blocks of a file in one go, and where it is mounted with `discard` it hands them to the disk at
once: the commits of the service's clients wait until that is done.
"""

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

_STEP = 8 << 20  # bytes that are freed at once


def remove_tree(directory: Path, *, ignore_errors: bool = False) -> None:
    """Removes a directory and all in it, as `shutil.rmtree`. Nobody else may use or link a file of it.

    Files that have another name, such as those shared with checkpoints, lose this one and keep what they hold.
    """
    # rmtree says what is wrong, if it matters.
    with suppress(OSError):
        for _, _, names, fd in os.fwalk(directory):
            for name in names:
                _shrink(name, fd)
    shutil.rmtree(directory, ignore_errors=ignore_errors)


def _shrink(name: str, directory: int) -> None:
    """Cuts the end off a file until little is left."""
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        return
    fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if status.st_nlink > 1:
            return
        # By its size, a sparse file would have too many steps.
        allocated = status.st_blocks * 512
        for left in range(allocated // _STEP * _STEP, 0, -_STEP):
            os.ftruncate(fd, status.st_size * left // allocated)
            # The change of the directory commits the one before. To sync the file would write what is to be removed.
            os.utime(directory)
            os.fsync(directory)
    finally:
        os.close(fd)
