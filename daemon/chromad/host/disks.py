"""File systems: how full they are, also those that may never answer."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from chromad.host import threads

# Seconds that a look takes at most where somebody waits for the answer
_QUICK = 2.0


@dataclass(frozen=True)
class Usage:
    """One file system. percent: used, as df(1) counts it, of bytes or of inodes, whichever is more. free: bytes."""

    path: Path
    percent: float
    of: str
    free: int


def usage(path: Path) -> Usage:
    """How full the file system of a path is."""
    return usage_of(path, space(path))


def usage_of(path: Path, found: dict[str, float]) -> Usage:
    """The same of what `space` has found."""
    percent, of = max((100 * found["used_ratio"], "space"), (100 * found["inodes_used_ratio"], "inodes"))
    return Usage(path, percent, of, int(found["free_bytes"]))


def space(path: Path) -> dict[str, float]:
    """`size_bytes`, `free_bytes`, `used_ratio` and `inodes_used_ratio` of the file system of a path, as `usage` counts."""
    status = os.statvfs(path)
    used = status.f_blocks - status.f_bfree
    return {
        "size_bytes": status.f_blocks * status.f_frsize,
        "free_bytes": status.f_bavail * status.f_frsize,
        "used_ratio": used / max(used + status.f_bavail, 1),
        "inodes_used_ratio": (status.f_files - status.f_favail) / status.f_files if status.f_files else 0.0,
    }


class Aside:
    """The file system of a path that may never answer, as one of the network: a thread of its own looks at it.

    found: as `space` gives it, None when there is nothing, or nothing is known yet. problem: why it cannot be had; empty where
    it can, or where the path does not exist. silent: seconds without an answer that are a problem.
    """

    def __init__(self, path: Path, silent: float = _QUICK) -> None:
        self.path = path
        self._silent = silent
        self.found: dict[str, float] | None = None
        self.problem = ""
        self._look: threads.Task | None = None
        self._since = 0.0

    def look(self, patience: float) -> None:
        """Looks again, unless the last look is still in progress; waits for it so many seconds at most."""
        if self._look is None or not self._look.is_alive():
            self._since = time.monotonic()
            self._look = threads.Task("backup file system", self._work)
            self._look.start()
            self._look.join(patience)
        waited = time.monotonic() - self._since
        if self._look.is_alive() and waited > self._silent:
            self.found, self.problem = None, f"it has not answered for {waited:.0f} s"

    def answers(self) -> bool:
        """Whether it can be looked at, after the time that this may take."""
        self.look(2 * _QUICK)
        return not self.problem

    def _work(self) -> None:
        try:
            found, problem = space(self.path), ""
        except FileNotFoundError:
            found, problem = None, ""
        except OSError as error:
            found, problem = None, error.strerror or str(error)
        self.found, self.problem = found, problem
