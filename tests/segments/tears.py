"""One persist of the engine, stopped at any byte: what the files hold then, and what the engine makes of it.

A persist writes header, level 0, lengths and links in place, in this order, and then the pickle anew. SQLite learns of it
last, so that after a kill the engine replays all that the persist was about; after a power cut SQLite may know of a persist
whose files are not all on disk.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chromad.chroma import format, idmap
from chromad.chroma.damage import Damage

from tests.segments import engine, workload
from tests.segments.damage import FILES
from tests.segments.engine import Vector
from tests.segments.workload import Workload

KINDS = {
    "adds": {"add": 1},
    "updates": {"update": 1},
    "deletes": {"delete": 1},
    "adds and deletes of the same": {"churn": 1},
    "all": {"add": 3, "update": 3, "upsert": 3, "delete": 2, "churn": 1},
}


@dataclass(frozen=True)
class Persist:
    """data: a directory whose log goes on to the end of the persist. old, new: the segment's files. vectors: when all is applied."""

    data: Path
    workload: Workload
    old: dict[str, bytes]
    old_seq: int
    new: dict[str, bytes]
    new_seq: int

    @property
    def vectors(self) -> dict[str, Vector]:
        """What the collection holds in the end."""
        return self.workload.vectors


@dataclass(frozen=True)
class State:
    """Files that a crash may leave. kill: a kill can; else it takes a power cut."""

    name: str
    files: dict[str, bytes]
    kill: bool = True


@dataclass(frozen=True)
class Outcome:
    """problem: the validator's, empty when sound. after_kill: the engine has all right when it replays the persist.
    after_power_cut: it has all right when SQLite says that nothing is to be replayed. crashed: it did, in one of both.
    """

    problem: str
    after_kill: bool
    after_power_cut: bool
    crashed: bool


def record(data: Path, seed: int, kinds: str) -> Persist:
    """Makes a segment in `data` and one persist more, of these kinds of writes."""
    return Persist(data, *engine.run(_record, data, seed, kinds))


def _record(data: Path, seed: int, kinds: str) -> tuple[Workload, dict[str, bytes], int, dict[str, bytes], int]:
    found = workload.make(seed)
    found.threshold = found.random.choice([10, 30, 60])
    found.largest = found.random.choice([10, 40])
    found.dimension = min(found.dimension, 64)
    found.kinds = {"add": 1}
    collection = workload.open_or_create(data, found)
    directory = engine.segment(data, found.name)
    until = found.random.choice([20, 90, 130])
    while len(found.vectors) < until or not (directory / idmap.FILE).exists():
        found.step(collection)
    old, old_seq = engine.contents(directory), engine.seq_id(data, found.name)
    found.kinds = KINDS[kinds]
    while engine.seq_id(data, found.name) == old_seq:
        found.step(collection)
    new_seq = engine.seq_id(data, found.name)
    assert old_seq is not None
    assert new_seq is not None
    return found, old, old_seq, engine.contents(directory), new_seq


def states(persist: Persist, numbers: random.Random, cuts: int) -> Iterator[State]:
    """All that a kill leaves between files, `cuts` random places within each, and as many mixtures of a power cut."""
    written: dict[str, bytes] = {}
    for name in FILES:
        old, new = persist.old[name], persist.new[name]
        rest = {other: persist.old[other] for other in FILES if other not in written}
        yield State(f"before {name}", rest | written)
        for at in _places(old, new, numbers, cuts, whole=name == idmap.FILE):
            content = new[:at] if name == idmap.FILE else new[:at] + old[at:]
            yield State(f"{name} up to {at}", rest | written | {name: content})
        written[name] = new
    yield State("complete", written)
    for number in range(cuts * 2):
        yield State(f"power cut {number}", {name: _lost(persist, name, numbers) for name in FILES}, kill=False)


def judge(persist: Persist, state: State, scratch: Path, *, engine_too: bool = True) -> Outcome:
    """Compares the validator with the engine. engine_too: ask the engine even where the validator refuses."""
    directory = engine.variant(persist.data, scratch, persist.workload.name, state.files, persist.old_seq)
    try:
        format.examine(directory)
        problem = ""
    except Damage as damage:
        problem = str(damage)
    if problem and not engine_too:
        return Outcome(problem, False, False, False)
    after_kill = _right(persist, scratch)
    engine.variant(persist.data, scratch, persist.workload.name, state.files, persist.new_seq)
    after_power_cut = _right(persist, scratch)
    return Outcome(problem, bool(after_kill), bool(after_power_cut), None in (after_kill, after_power_cut))


def _right(persist: Persist, data: Path) -> bool | None:
    """Whether the engine gives all vectors, goes on writing and persisting, and gives all again after a restart.

    None when it crashes.
    """
    try:
        if not engine.same(engine.run(engine.read, data, persist.workload.name), persist.vectors):
            return False
        follower, _ = engine.run(workload.phase, data, persist.workload, 4)
        return engine.same(engine.run(engine.read, data, persist.workload.name), follower.vectors)
    except engine.EngineCrash:
        return None
    except RuntimeError:
        return False


def _places(old: bytes, new: bytes, numbers: random.Random, cuts: int, *, whole: bool) -> list[int]:
    if whole:
        return sorted({0, 1, len(new) - 1, *(numbers.randrange(len(new)) for _ in range(cuts))})
    changed = [at for at in range(len(new)) if at >= len(old) or old[at] != new[at]]
    return sorted(numbers.sample(changed, min(cuts, len(changed))))


def _lost(persist: Persist, name: str, numbers: random.Random) -> bytes:
    """A file of which a disk has some blocks."""
    old, new = persist.old[name], persist.new[name]
    how = numbers.choice(["old", "new", "old", "new", "blocks", "size"])
    if how in ("old", "new"):
        return old if how == "old" else new
    if how == "size":
        return (b"" if name == idmap.FILE else old) + bytes(max(0, len(new) - len(old)))
    block = numbers.choice([64, 512, 4096])
    before = old.ljust(len(new), b"\0")
    return b"".join((new if numbers.random() < 0.5 else before)[at : at + block] for at in range(0, len(new), block))
