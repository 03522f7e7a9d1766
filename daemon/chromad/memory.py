"""The C library's memory: what is no longer needed goes back to the system."""

import ctypes
from contextlib import suppress

# mallopt(3), malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_BLOCK = 128 << 10  # bytes


def stay_small() -> None:
    """Keeps one heap for all threads, and large blocks out of it: those that a checkpoint needs would be kept else."""
    # There is none in another C library.
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _BLOCK), (_TRIM_THRESHOLD, _BLOCK)):
            mallopt(option, value)
