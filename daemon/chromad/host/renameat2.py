"""renameat2(2), which Python does not have: names in directories that are open are exchanged, or renamed to what is not there."""

import ctypes
import errno
import os

# linux/fs.h
_NOREPLACE = 1
_EXCHANGE = 2

# What a file system that does not know a flag answers
_UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.EXDEV)


def rename(before: int, source: str, after: int, target: str) -> None:
    """Renames what is in the directory `before`; raises FileExistsError when the directory `after` has the new name."""
    number = _call(before, source, after, target, _NOREPLACE)
    if number in _UNKNOWN:
        try:
            os.stat(target, dir_fd=after, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(source, target, src_dir_fd=before, dst_dir_fd=after)
            return
        number = errno.EEXIST
    if number:
        raise OSError(number, os.strerror(number), source, None, target)


def exchange(first: int, one: str, second: int, other: str) -> None:
    """Swaps two names, or raises and leaves both as they are. On a file system that cannot, `other` is missing for an instant,
    in which it is beside `one`, with `.former` after its name."""
    number = _call(first, one, second, other, _EXCHANGE)
    if not number:
        return
    if number not in _UNKNOWN:
        raise OSError(number, os.strerror(number), one, None, other)
    aside = f"{one}.former"
    os.rename(other, aside, src_dir_fd=second, dst_dir_fd=first)
    try:
        os.rename(one, other, src_dir_fd=first, dst_dir_fd=second)
    except OSError:
        os.rename(aside, other, src_dir_fd=first, dst_dir_fd=second)
        raise
    try:
        os.rename(aside, one, src_dir_fd=first, dst_dir_fd=first)
    except OSError:
        os.rename(other, one, src_dir_fd=second, dst_dir_fd=first)
        os.rename(aside, other, src_dir_fd=first, dst_dir_fd=second)
        raise


def _call(before: int, source: str, after: int, target: str, flags: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(before, os.fsencode(source), after, os.fsencode(target), flags) == 0:
        return 0
    return ctypes.get_errno()
