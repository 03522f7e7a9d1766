"""Ending a service as a power switch or a cgroup kill does: all its processes at once."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Makes processes whose parents are killed children of this one, so that none escapes `kill`."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill(service: "subprocess.Popen[bytes]", spare: Container[int] = ()) -> None:
    """SIGKILL to a service and all that descends from it; returns when they are gone.

    After `adopt_orphans`, and while this process has no other children than those to spare.
    """
    pids = [service.pid]
    for parent in pids:
        pids += _children(parent)
    # The engine first: it writes.
    for pid in reversed(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    service.wait()
    while orphans := [pid for pid in _children(os.getpid()) if pid not in spare]:
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _children(pid: int) -> list[int]:
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in thread.read_text(encoding="ascii").split()]
    return found
