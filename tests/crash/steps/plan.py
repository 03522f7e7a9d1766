"""Which steps are taken: every call with every fault that it can meet, in parts that add up, or a sample of them."""

import random
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.crash.steps.calls import Place

FAULTS = ("kill", "full", "failing", "term", "power")
# Kinds of calls that a full disk refuses, see `syscalls`; what syncs writes what had no place yet.
_NEED_ROOM = {"write", "copy", "clone", "allocate", "make", "link", "symlink", "mkdir", "sync", "rename"}
# Those after which the disk is another one for whoever loses what was not flushed
_ORDERED = {"rename", "sync", "unlink", "rmdir", "link", "mkdir", "clone"}
# One in so many calls meets SIGTERM, and after one in so many steps there is another kill.
_TERM, _THOROUGH = 8, 3


@dataclass(frozen=True)
class Step:
    """A fault at a call of an operation."""

    operation: str
    place: Place
    fault: str

    def __str__(self) -> str:
        return f"{self.operation}: {self.place}: {self.fault}"

    def number(self, seed: int) -> int:
        """The same for the same step, whatever others there are."""
        return zlib.crc32(f"{seed} {self}".encode())

    def thorough(self, seed: int) -> bool:
        """Whether the service is killed once more afterwards."""
        return self.number(seed) // 64 % _THOROUGH == 0


def steps(operation: str, places: Iterable[Place], faults: Sequence[str], *, power: bool, seed: int) -> list[Step]:
    """All of an operation."""
    found = [Step(operation, place, fault) for place in places for fault in faults]
    return [step for step in found if _applies(step, power, seed)]


def part(found: Iterable[Step], number: int, of: int) -> list[Step]:
    """Those of one part; a step is in the same part whatever else there is. number: from 1."""
    return [step for step in found if step.number(0) % of == number - 1]


def sample(found: Sequence[Step], size: int, seed: int) -> list[Step]:
    """Some of them, in any order."""
    return random.Random(seed).sample(found, min(size, len(found)))


def _applies(step: Step, power: bool, seed: int) -> bool:
    kind = step.place.call.kind
    if step.fault == "full":
        return kind in _NEED_ROOM
    if step.fault == "term":
        return step.number(seed) % _TERM == 0
    if step.fault == "power":
        return power and kind in _ORDERED
    return True
