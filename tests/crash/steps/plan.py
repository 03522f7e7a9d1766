"""Which steps are taken: every call with every fault that makes a difference there, in parts that add up, or a sample of them.

A process that is killed before it syncs leaves what it leaves when it is killed before its next change, so `kill` comes at
changes alone; a power cut makes a difference where something was synced or renamed. What SQLite notes in shared memory (-shm) is
worth nothing to the next process that opens the file. Of calls that are alike, an error is returned to the first and the last.
"""

import random
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tests.crash.steps.calls import END, FIRST, LAST, Call, Place

FAULTS = ("kill", "full", "failing", "term", "power")
# Kinds of calls that a full disk refuses, see `syscalls`; what syncs writes what had no place yet.
_NEED_ROOM = {"write", "copy", "clone", "allocate", "make", "link", "symlink", "mkdir", "sync", "rename"}
# Those that decide what a disk has
_ORDERED = {"rename", "sync"}
_SHARED_MEMORY = "-shm"
_SEGMENT = (".bin", ".pickle")
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
    found = [Step(operation, place, fault) for place in (*places, Place(END, FIRST, 1)) for fault in faults]
    return [step for step in found if _applies(step, power, seed)]


def part(found: Iterable[Step], number: int, of: int) -> list[Step]:
    """Those of one part; a step is in the same part whatever else there is. number: from 1."""
    return [step for step in found if step.number(0) % of == number - 1]


def shuffled(found: Sequence[Step], seed: int) -> list[Step]:
    """All of them, in any order."""
    return random.Random(seed).sample(found, len(found))


def sample(found: Sequence[Step], size: int, seed: int) -> list[Step]:
    """Some of them, in any order, but for those after which a checkpoint waits a minute for the end of a persist, and those that
    sometimes find what only Chroma can mend."""
    return shuffled([step for step in found if not _cuts_a_persist(step) and not _loses_a_transaction(step)], seed)[
        :size
    ]


def _loses_a_transaction(step: Step) -> bool:
    """Whether an error comes once in the engine's log. Until the service has ended the engine for it, some milliseconds later, a
    write may be acknowledged that goes into a transaction which the pool of connections keeps open."""
    call = step.place.call
    return step.fault == "failing" and call.role == "engine" and call.path.endswith("-wal")


def _cuts_a_persist(step: Step) -> bool:
    call = step.place.call
    return step.fault in ("full", "failing") and call.role == "engine" and call.path.endswith(_SEGMENT)


def _applies(step: Step, power: bool, seed: int) -> bool:
    kind, which = step.place.call.kind, step.place.which
    if step.place.call == END:
        return step.fault == "kill" or (step.fault == "power" and power)
    if step.place.call.path.endswith(_SHARED_MEMORY):
        return step.fault in ("full", "failing") and which == FIRST
    if step.fault == "kill":
        return kind != "sync"
    if step.fault in ("full", "failing"):
        return which in (FIRST, LAST) and (step.fault == "failing" or kind in _NEED_ROOM)
    if step.fault == "term":
        return step.number(seed) % _TERM == 0
    if step.fault == "power":
        return power and kind in _ORDERED and which in (FIRST, LAST)
    return True


def variant(places: Iterable[Place], base: Collection[Call]) -> list[Place]:
    """Those of an operation that is a variant of another one: of what both have in common, one of each kind."""
    return [place for place in places if place.which == FIRST or place.call not in base]
