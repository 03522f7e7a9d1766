"""Memory: the daemon stays small beside the engine, which needs it for vectors."""

import ctypes
import sqlite3
from contextlib import closing, suppress

# mallopt(3), malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_BLOCK = 128 << 10  # bytes
# For the pages that all connections to SQLite hold, in bytes; each would hold 2 MB of them
_PAGES = 1 << 20


def stay_small() -> None:
    """Keeps one heap for all threads, and large blocks out of it: those that a checkpoint needs would be kept else."""
    # There is none in another C library.
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _BLOCK), (_TRIM_THRESHOLD, _BLOCK)):
            mallopt(option, value)
    with closing(sqlite3.connect(":memory:")) as connection:
        # https://www.sqlite.org/pragma.html#pragma_soft_heap_limit: of the process
        connection.execute(f"PRAGMA soft_heap_limit = {_PAGES}")
