"""Takes every step of every operation, or a part of them, or a sample."""

import argparse
import copy
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path

from tests import packages
from tests.crash import disks, processes
from tests.crash.disks import Disk
from tests.crash.steps import judge, plan, report, syscalls
from tests.crash.steps.attempt import Bench, Outcome
from tests.crash.steps.calls import Call, thinned
from tests.crash.steps.operations import DAEMON, Operation
from tests.crash.steps.plan import FAULTS, Step
from tests.crash.steps.report import Document
from tests.crash.steps.upgrades import UPGRADES
from tests.crash.steps.verbs import VERBS
from tests.integration.account import AS_ROOT, open_doors, service, why_unreachable

_OPERATIONS = {made.name: made for made in (make() for make in (*DAEMON, *VERBS, *UPGRADES))}
_HOME = Path("var")
# How often a failure comes again where it is looked whether what it leaves adds up
_TIMES = 20
# Steps of each operation in a sample, about
_EACH = 35


def main() -> int:
    """0 when all was as it must be."""
    arguments = _arguments()
    if not syscalls.supported():
        print("this machine's system calls have other numbers: x86-64 alone is known")
        return 0
    if arguments.list:
        print("\n".join(_OPERATIONS))
        return 0
    packages.need({"restic": "restic"})
    # So that everything is cleaned up, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    before = report.read(arguments.report)
    document = before

    def add(found: Sequence[Document]) -> None:
        nonlocal document
        document = copy.deepcopy(before)
        for each in found:
            report.merge(document, each)
        report.write(arguments.report, document)

    if arguments.jobs > 1:
        add(_run_beside(arguments))
    else:
        _run(arguments, add)
    print(report.summary(document))
    found = report.bad(document)
    for name, step in found.items():
        print(f"NOT AS IT MUST BE: {name}: {judge.briefly(step['findings'])}")
    return 1 if found or any(_grows(sizes) for sizes in document["repeats"].values()) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.steps", description=__doc__)
    parser.add_argument("operations", nargs="*", choices=[[], *_OPERATIONS], help="those to take; all without")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS if AS_ROOT else FAULTS[:-1])
    parser.add_argument("--part", default="1/1", metavar="N/M", help="one of M parts, which add up in the report")
    parser.add_argument("--sample", type=int, metavar="N", help="not all: about so many, chosen by the seed")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes that share the work")
    parser.add_argument("--call", default="", metavar="TEXT", help="only steps whose line has this text")
    parser.add_argument(
        "--repeats", type=int, default=1, metavar="N", help=f"calls of each operation at which it fails {_TIMES} times"
    )
    parser.add_argument("--list", action="store_true", help="show the operations")
    parser.add_argument("--report", type=Path, default=_HOME / "crash-steps.json", metavar="FILE.json")
    return parser.parse_args()


def _run_beside(arguments: argparse.Namespace) -> list[Document]:
    """Shares the work among processes; gives what each has found."""
    names = _chosen(arguments)
    number, of = _part(arguments.part)
    children = []
    for job in range(arguments.jobs):
        path = arguments.report.with_name(f"{arguments.report.stem}-{job}.json")
        path.unlink(missing_ok=True)
        words = ["--jobs", "1", "--seed", str(arguments.seed), "--report", str(path), "--call", arguments.call]
        words += ["--seconds", str(arguments.seconds), "--faults", *arguments.faults]
        if arguments.sample:
            # To begin an operation takes longer than a step: each process takes its own ones.
            words += [
                "--sample",
                str(arguments.sample // arguments.jobs),
                "--repeats",
                "0",
                "--",
                *names[job :: arguments.jobs],
            ]
        else:
            repeats = arguments.repeats if job == 0 else 0
            part = f"{(number - 1) * arguments.jobs + job + 1}/{of * arguments.jobs}"
            words += ["--part", part, "--repeats", str(repeats), "--", *names]
        if not arguments.sample or names[job :: arguments.jobs]:
            children.append((path, subprocess.Popen([sys.executable, "-m", "tests.crash.steps", *words])))
    try:
        for _, child in children:
            child.wait()
    except BaseException:
        for _, child in children:
            child.terminate()
            child.wait()
        raise
    found = []
    for path, child in children:
        if not path.exists():
            raise SystemExit(f"one of the processes ended with {child.returncode}")
        found.append(report.read(path))
        path.unlink()
        path.with_suffix(".md").unlink()
    return found


def _run(arguments: argparse.Namespace, add: Callable[[Sequence[Document]], None]) -> None:
    """Takes the steps in this process. add: gets what was found up to now, after each operation."""
    if AS_ROOT and why_unreachable(service()):
        open_doors()
    processes.adopt_orphans()
    document = report.empty()
    seen: dict[str, set[Call]] = {}
    began = time.monotonic()
    names = _chosen(arguments)
    with ExitStack() as stack:
        disk = None
        if AS_ROOT:
            disks.prepare()
        if "power" in arguments.faults and any(_OPERATIONS[name].power for name in names):
            manager = disks.disk()
            disk = manager.__enter__()
            stack.callback(_close, manager)
        for number, name in enumerate(names):
            if time.monotonic() > began + arguments.seconds:
                break
            # What one operation does not need of its share of a sample is for the others.
            share = _share(arguments, len(document["steps"]), len(names) - number)
            until = began + arguments.seconds * (number + 1) / len(names)
            _operate(_OPERATIONS[name], arguments, document, seen, disk, share, until)
            document["seconds"] = round(time.monotonic() - began, 1)
            add([document])


def _close(manager: AbstractContextManager[Disk]) -> None:
    """Removes the disk. What was found counts, whatever becomes of it."""
    try:
        manager.__exit__(None, None, None)
    except (disks.DiskError, OSError) as problem:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        print(f"the disk stays: {problem}; {[line for line in mounts if 'chromad-disk' in line]}", flush=True)


def _share(arguments: argparse.Namespace, done: int, left: int) -> int | None:
    return (arguments.sample - done) // left if arguments.sample else None


def _operate(
    operation: Operation,
    arguments: argparse.Namespace,
    document: Document,
    seen: dict[str, set[Call]],
    disk: Disk | None,
    share: int | None,
    until: float,
) -> None:
    """All steps of one operation, or its share of a sample."""
    bench = Bench(operation, disk)
    try:
        calls = bench.watch()
        places, left_out = thinned(calls)
        seen[operation.name] = set(calls)
        whole = len(places)
        places = plan.variant(places, seen.get(operation.base, set()))
        left_out += whole - len(places)
        document["operations"][operation.name] = {"calls": len(calls), "thinned": left_out}
        power = operation.power and disk is not None
        found = plan.steps(operation.name, places, arguments.faults, power=power, seed=arguments.seed)
        found = [step for step in plan.part(found, *_part(arguments.part)) if arguments.call in str(step)]
        print(f"{operation.name}: {len(calls)} calls, {left_out} left out as alike, {len(found)} steps", flush=True)
        # In any order: where the time is over before, it was a sample.
        found = plan.shuffled(found, arguments.seed) if share is None else plan.sample(found, share, arguments.seed)
        for step in found:
            if time.monotonic() > until:
                break
            outcome = bench.strike(step.place, step.fault, thorough=step.thorough(arguments.seed))
            document["steps"][str(step)] = _entry(step, outcome)
            print(_line(step, outcome), flush=True)
        for step in _repeated(found, arguments):
            sizes = bench.repeat(step.place, step.fault, _TIMES)
            document["repeats"][str(step)] = sizes
            print(
                f"{step}, {_TIMES} times: {sizes[0]} bytes, {sizes[1]} bytes{'  GROWS' if _grows(sizes) else ''}",
                flush=True,
            )
    finally:
        bench.close()


def _repeated(found: Sequence[Step], arguments: argparse.Namespace) -> list[Step]:
    candidates = [step for step in found if step.fault in ("kill", "full", "failing")]
    chance = random.Random(arguments.seed)
    return chance.sample(candidates, min(arguments.repeats, len(candidates)))


def _grows(sizes: Sequence[int]) -> bool:
    """Whether bytes are more than what may be by chance: a page here or there of SQLite's files."""
    return sizes[1] > sizes[0] + (1 << 20)


def _entry(step: Step, outcome: Outcome) -> Document:
    seconds = {"seconds": round(outcome.seconds, 2), "took": round(outcome.took, 2)}
    return {"operation": step.operation, "place": str(step.place), "fault": step.fault, **asdict(outcome), **seconds}


def _line(step: Step, outcome: Outcome) -> str:
    came = "" if outcome.reached else " (not reached)"
    wrong = f"  NOT AS IT MUST BE: {judge.briefly(outcome.findings)}" if outcome.findings else ""
    return f"{step}{came}: ready {outcome.seconds:.2f} s, {outcome.took:.1f} s{wrong}"


def _chosen(arguments: argparse.Namespace) -> list[str]:
    names = arguments.operations or [name for name, made in _OPERATIONS.items() if AS_ROOT or not made.root]
    if arguments.sample:
        # To begin one takes as long as some steps.
        names = random.Random(arguments.seed).sample(names, min(len(names), max(2, arguments.sample // _EACH)))
    return names


def _part(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    return int(number), int(of)


if __name__ == "__main__":
    sys.exit(main())
