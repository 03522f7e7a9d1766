"""The validator of segments against many inputs: python -m tests.soak.soundness --fuzz 100000 --segments 1000 --tears 10

Fuzz: damaged segments never make it crash, take long, or use much memory; of those that it calls sound, some are given to the
engine, which must not crash either. Segments: those of random workloads are sound after each batch, in each life of the engine;
vectors that the engine loses are seen by the comparison with the log, no others, and it has all of them when they are mended.
Tears: a persist that a kill stops anywhere is either seen, or put right by the engine's replay; nothing that is called sound,
after a power cut either, makes the engine crash.
"""

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chromad.chroma import idmap
from chromad.chroma.damage import Damage
from rich.console import Console
from rich.progress import track

from tests.segments import claims, damage, engine, pieces, tears, workload
from tests.segments.workload import Workload

# Of one input of a few KiB: seconds of processor time, since a busy machine may let any process wait, and bytes.
_LONGEST = 2.0
_MEMORY = 30 << 20

# Fuzzed segments that are given to the engine although the validator calls them sound.
_OPENED = 300

# Where the data of workloads that failed are kept
_EVIDENCE = Path("var/soundness")

_console = Console()


@dataclass(frozen=True)
class Base:
    """Two states of one collection, to be damaged, and the database that goes with the second."""

    data: Path
    workload: Workload
    old: Path
    new: Path


def main() -> int:
    """0 when everything held, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.soundness", description=__doc__)
    parser.add_argument("--fuzz", type=int, default=100_000, help="damaged inputs")
    parser.add_argument("--segments", type=int, default=1000, help="random collections")
    parser.add_argument("--tears", type=int, default=10, help="persists of each kind to tear")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    top = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        failures = [
            *_segments(top, arguments.segments, arguments.seed),
            *_fuzz(top, arguments.fuzz, arguments.seed),
            *_tears(top, arguments.tears, arguments.seed),
        ]
    finally:
        shutil.rmtree(top)
    for failure in failures:
        _console.print(f"[red]failed[/]: {failure}", highlight=False)
    return 1 if failures else 0


def _segments(top: Path, wanted: int, seed: int) -> list[str]:
    failures: list[str] = []
    examined = elements = lost = 0
    started = time.monotonic()
    for number in track(range(wanted), "sound segments", console=_console):
        data = top / "segments"
        found = workload.make(seed * 1_000_000 + number)
        step = ""
        before = len(failures)
        try:
            for life in range(found.random.randint(2, 4)):
                step = f"writing, life {life}"
                found, count = engine.run(workload.phase, data, found, found.random.randint(2, 10), limit=300)
                examined += count
                step = f"mending, life {life}"
                mended = claims.mend(data, found.name)
                lost += mended
                step = f"reading, life {life}, {mended} vectors mended"
                # Looked at in an engine that ends before it writes anything, so that the next life begins with it.
                if not engine.same(engine.run(engine.read, data, found.name), found.vectors):
                    failures.append(f"workload {number} of seed {seed}: other vectors than were written, {step}")
                    break
            elements += found.given
        except (RuntimeError, engine.EngineCrash) as error:
            failures.append(f"workload {number} of seed {seed}: {error}, {step}")
        if len(failures) > before:
            shutil.copytree(data, _EVIDENCE / f"{seed}-{number}", dirs_exist_ok=True)
        shutil.rmtree(data)
    _console.print(
        f"{wanted} collections with {elements} records, examined {examined} times while there was something to examine, "
        f"{lost} vectors that the engine did not persist mended: {len(failures)} failures, {time.monotonic() - started:.0f} s"
    )
    return failures


def _fuzz(top: Path, wanted: int, seed: int) -> list[str]:
    failures: list[str] = []
    bases = [_base(top, seed * 1000 + number) for number in range(12 if wanted else 0)]
    verdicts: Counter[str] = Counter()
    opened = 0
    longest = 0.0
    started = time.monotonic()
    for number in track(range(wanted), "damaged segments", console=_console):
        numbers = random.Random(f"{seed} {number}")
        base = numbers.choice(bases)
        source, other = numbers.sample([base.old, base.new], 2)
        ways = damage.damage(source, other, top / "fuzz", numbers)
        before = _reset_peak()
        begun = time.process_time()
        verdict = _verdict(top / "fuzz", numbers)
        taken = time.process_time() - begun
        longest = max(longest, taken)
        verdicts[re.sub(r"(0x)?\d[\da-f]*", "N", verdict)] += 1
        if taken > _LONGEST or _peak() - before > _MEMORY:
            failures.append(f"input {number} of seed {seed} ({ways}): {taken:.1f} s, {(_peak() - before) >> 20} MiB")
        if verdict == "empty" and not _holds_nothing(top / "fuzz" / idmap.FILE):
            failures.append(f"input {number} of seed {seed} ({ways}) is called empty")
        if verdict == "sound" and opened < _OPENED and numbers.random() < 10 * _OPENED / wanted:
            opened += 1
            failures += _open(base, top, f"input {number} of seed {seed} ({ways})")
    for verdict, count in verdicts.most_common():
        _console.print(f"{count:8} {verdict}", highlight=False)
    _console.print(
        f"{wanted} damaged segments: {len(failures)} failures, the longest took {longest * 1000:.0f} ms of processor time; the engine opened "
        f"{opened} that are called sound; {time.monotonic() - started:.0f} s"
    )
    return failures


def _verdict(directory: Path, numbers: random.Random) -> str:
    # Nothing else may come out of it: an exception here ends the run.
    try:
        return "sound" if pieces.examine(directory, numbers).live else "empty"
    except Damage as damage:
        return str(damage)


def _holds_nothing(pickle: Path) -> bool:
    return not pickle.exists() or b"id_to_label}(" not in pickle.read_bytes()


def _open(base: Base, top: Path, name: str) -> Iterable[str]:
    files = engine.contents(top / "fuzz")
    data = top / "opened"
    engine.variant(base.data, data, base.workload.name, files, engine.seq_id(base.data, base.workload.name))
    try:
        engine.run(engine.read, data, base.workload.name)
        engine.run(workload.phase, data, base.workload, 4)
        engine.run(engine.read, data, base.workload.name)
    except engine.EngineCrash as error:
        yield f"{name} is called sound; the engine: {error}"
    except RuntimeError:
        # An error that a client sees, such as for a vector that damage made enormous.
        return


def _base(top: Path, seed: int) -> Base:
    found = workload.make(seed)
    found.threshold = 2
    found.largest = 40
    found.dimension = min(found.dimension, 17)
    data, old, new = (top / f"{what}{seed}" for what in ("base", "old", "new"))
    for target in (old, new):
        found, _ = engine.run(workload.phase, data, found, 6)
        shutil.copytree(engine.segment(data, found.name), target)
    return Base(data, found, old, new)


def _tears(top: Path, wanted: int, seed: int) -> list[str]:
    failures = []
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    for number in track(range(wanted), "torn persists", console=_console):
        for kinds in tears.KINDS:
            persist = tears.record(top / "persist", seed * 1000 + number, kinds)
            for state in tears.states(persist, random.Random(f"{seed} {number} {kinds}"), 3):
                outcome = tears.judge(persist, state, top / "torn", engine_too=False)
                name = re.sub(r"\d+", "N", state.name)
                if outcome.problem:
                    outcomes["seen"] += 1
                    continue
                # Nothing can be said of what a disk wrote out of order: lost blocks of vectors and lengths do not show.
                right = outcome.after_kill or not state.kill
                outcomes["called sound, right after the replay" if outcome.after_kill else "called sound, wrong"] += 1
                if not outcome.after_power_cut:
                    outcomes[f"called sound, wrong without the replay: {kinds}, {name}"] += 1
                if outcome.crashed or not right:
                    failures.append(f"persist {number} of seed {seed} ({kinds}), {state.name}: called sound: {outcome}")
            shutil.rmtree(persist.data)
    for name, count in sorted(outcomes.items()):
        _console.print(f"{count:8} {name}", highlight=False)
    _console.print(
        f"{wanted} x {len(tears.KINDS)} persists: {len(failures)} failures, {time.monotonic() - started:.0f} s"
    )
    return failures


def _reset_peak() -> int:
    """Begins a new peak of memory; gives the bytes in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return int(status.split()[0]) << 10


if __name__ == "__main__":
    sys.exit(main())
