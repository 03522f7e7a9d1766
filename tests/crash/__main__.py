"""Strikes a service again and again and compares every acknowledged record."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.crash import disks, full, processes, report, strikes
from tests.crash.lab import Lab, Round
from tests.crash.servers import KINDS
from tests.integration.account import AS_ROOT, open_doors, service, why_unreachable

_HOME = Path("var/crash")

# Takes laboratory, rounds, seed and a list for the directories with evidence.
Run = Callable[[Lab, int, int, list[Path]], Iterator[Round]]


def main() -> int:
    """0 when nothing was lost (or the server is not ours to judge), 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("experiment", choices=("kill", "power", "full"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--server", choices=sorted(KINDS), default="chromad")
    parser.add_argument("--report", type=Path, default=_HOME / "report.json", metavar="FILE.json")
    arguments = parser.parse_args()
    if AS_ROOT and why_unreachable(service()):
        open_doors()
    # So that everything is cleaned up, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    processes.adopt_orphans()
    # The thread that strikes must not wait for those that write.
    sys.setswitchinterval(0.0005)
    rounds: list[Round] = []
    evidence: list[Path] = []
    began = time.monotonic()
    with ExitStack() as stack:
        lab, run = _laboratory(arguments, stack)
        stack.callback(lab.close)
        try:
            for record in run(lab, arguments.rounds, arguments.seed, evidence):
                rounds.append(record)
                print(_line(record), flush=True)
        finally:
            command = f"python -m tests.crash {' '.join(sys.argv[1:])}"
            summary = report.summarize(rounds, command, time.monotonic() - began, evidence)
            report.write(arguments.report, arguments.experiment, arguments.server, summary)
            print(report.markdown({arguments.experiment: {arguments.server: summary}}))
            for path in evidence:
                print(f"evidence: {path}")
    return 1 if arguments.server == "chromad" and any(record.findings for record in rounds) else 0


def _laboratory(arguments: argparse.Namespace, stack: ExitStack) -> tuple[Lab, Run]:
    kind, seed, evidence = arguments.server, arguments.seed, arguments.report.parent / "evidence"
    if arguments.experiment == "kill":
        return Lab(kind, seed, evidence), strikes.run
    disks.prepare()
    if arguments.experiment == "power":
        disk = stack.enter_context(disks.disk())
        return Lab(kind, seed, evidence, disk.path, disk), strikes.run
    place = stack.enter_context(disks.small(full.MEGABYTES))
    return Lab(kind, seed, evidence, place, recipes=full.RECIPES), full.run


def _line(record: Round) -> str:
    ready = "never" if record.seconds_to_ready is None else f"{record.seconds_to_ready:.2f} s"
    torn = f", torn {'; '.join(record.torn)}" if record.torn else ""
    losses = f"  LOSSES {record.findings.counts()}" if record.findings else ""
    hit = "" if record.hit else " (not hit)"
    return f"{record.number:4} {record.moment}{hit}: {record.detail}{torn}; ready {ready}, {record.records} records{losses}"


if __name__ == "__main__":
    sys.exit(main())
