"""Memory: how much there is; the daemon stays small beside the engine, which needs it for vectors."""

import ctypes
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

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


def limit() -> int:
    """Bytes of memory for this process: the smallest limit of its control groups, else what the machine has."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()[-1].partition("::")[2]
    except OSError:
        return found
    path = Path("/sys/fs/cgroup", group.lstrip("/"))
    for directory in (path, *path.parents):
        try:
            found = min(found, int((directory / "memory.max").read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return found
