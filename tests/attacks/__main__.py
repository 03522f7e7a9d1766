"""Attacks each of root's verbs and playbooks on a booted host: python -m tests.attacks (root)

A service user who has been broken into puts links, pipes and directories in place of what a verb touches, exchanges these
while it runs, and writes databases, backups and state for it to read. Ends with 1 when anything outside of the service's own
directories was created, changed, removed, read or handed over, when a verb did not end, or when it printed a traceback.
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.hosts.system import REPOSITORY, prepare_controller

from .house import House, read

_SHOWN = 40


@dataclass
class Row:
    """What came of the attacks on a verb. cases: by kind. outcomes: how often."""

    cases: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    exchanges: int = 0
    seconds: float = 0.0
    wrong: int = 0


@dataclass
class Report:
    """All of it. wrong: a document for each attack after which something was not as it must be."""

    rows: dict[str, Row] = field(default_factory=dict)
    touched: dict[str, str] = field(default_factory=dict)
    wrong: list[dict[str, Any]] = field(default_factory=list)

    def add(self, found: dict[str, Any]) -> None:
        """A line of the host's side."""
        if "refused_by_the_kernel" in found:
            if not found["problem"]:
                self.wrong.append(
                    {"verb": "the kernel", "what": found["refused_by_the_kernel"], "problems": ["it can"]}
                )
        elif "touched" in found:
            self.touched[found["touched"]] = f"{found['paths']} ({found['by_root']})"
        else:
            row = self.rows.setdefault(found["verb"], Row())
            row.cases[found["kind"]] += 1
            row.outcomes[str(found.get("outcome", "")).partition(":")[0]] += 1
            row.rounds += found.get("rounds", 0)
            row.exchanges += found.get("exchanges", 0)
            row.seconds += found.get("seconds", 0.0)
            if found["problems"]:
                row.wrong += 1
                self.wrong.append(found)

    @property
    def cases(self) -> int:
        """How many attacks there were; a round of the racer is one as well."""
        return sum(row.rounds or row.cases["race"] for row in self.rows.values()) + sum(
            count for row in self.rows.values() for kind, count in row.cases.items() if kind != "race"
        )

    def show(self, console: Console) -> None:
        """The table, and what was wrong."""
        names = (
            "VERB",
            "TOUCHED (ROOT)",
            "STATIC",
            "CRAFTED",
            "ROUNDS",
            "EXCHANGES",
            "DONE",
            "REFUSED",
            "WAITED",
            "WRONG",
            "S",
        )
        table = Table(*names, box=None)
        for name, row in self.rows.items():
            counts = (row.cases["static"], row.cases["crafted"], row.rounds, row.exchanges)
            outcomes = (row.outcomes["done"], row.outcomes["refused"], row.outcomes["waited"] + row.outcomes["hung"])
            table.add_row(
                name, self.touched.get(name, ""), *map(str, (*counts, *outcomes, row.wrong, round(row.seconds)))
            )
        console.print(table)
        for each in self.wrong[:_SHOWN]:
            console.print_json(json.dumps(each))
        console.print(f"{self.cases} attacks, {len(self.wrong)} with something wrong")


def main() -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", default="1/1", help="n/m: the n-th of m parts of the verbs")
    parser.add_argument("--verb", default="", help="those verbs whose names have this regular expression")
    parser.add_argument("--kind", default="", choices=("", "static", "race", "crafted", "trace"))
    parser.add_argument("--only", default="", help="paths and crafted things that have this in their names")
    parser.add_argument("--release", type=Path, default=REPOSITORY, help="the tree that is installed and attacked")
    parser.add_argument("--cases", type=int, default=16, help="things in the place of others, for each verb; 0 for all")
    parser.add_argument("--runs", type=int, default=20, help="of each verb, in which so many rounds are done together")
    parser.add_argument("--rounds", type=int, default=100, help="of the racer, for each verb")
    parser.add_argument("--log", type=Path, default=Path("/dev/null"), help="a file for all that was found")
    arguments = parser.parse_args()
    prepare_controller()
    started = time.monotonic()
    report = Report()
    words = ["run", f"--seed={arguments.seed}", f"--part={arguments.part}", f"--cases={arguments.cases}"]
    words += [
        f"--runs={arguments.runs}",
        f"--rounds={arguments.rounds}",
        f"--kind={arguments.kind}",
        f"--verb={arguments.verb}",
        f"--only={arguments.only}",
    ]
    other = "" if arguments.release == REPOSITORY else "-other"
    name = f"attacked-{arguments.part.replace('/', '-of-')}{other}"
    with House(name, arguments.release) as house, arguments.log.open("w") as log:
        print(f"the host is ready after {time.monotonic() - started:.0f} s", flush=True)
        code = _attack(house, words, report, log)
    console = Console(width=200)
    report.show(console)
    console.print(f"{time.monotonic() - started:.0f} s")
    return 1 if code or report.wrong else 0


def _attack(house: House, words: list[str], report: Report, log: Any) -> int:
    with house.inside(*words) as process:
        assert process.stdout
        assert process.stdin
        for line in process.stdout:
            found = read(line)
            if found and "play" in found:
                code, said = house.play(str(found["play"]), traced=bool(found["traced"]))
                process.stdin.write(json.dumps({"code": code, "said": said}) + "\n")
                process.stdin.flush()
                continue
            log.write(line)
            log.flush()
            if found:
                report.add(found)
                if found.get("problems"):
                    print(line[:600], flush=True)
            else:
                print(line, end="", flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
