"""The report: a JSON file to which parts add up, and a page for people beside it."""

import json
import statistics
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from tests.crash.steps.plan import FAULTS

Document = dict[str, Any]
_WORDS = {"kill": "SIGKILL", "full": "ENOSPC", "failing": "EIO", "term": "SIGTERM", "power": "power cut"}


def empty() -> Document:
    """A report on this code, with nothing in it."""
    return {"code": _code(), "seconds": 0.0, "operations": {}, "steps": {}, "repeats": {}}


def read(path: Path) -> Document:
    """What was found on this code before; of other code nothing is taken over."""
    try:
        found: Document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return empty()
    return found if found["code"] == _code() else empty()


def merge(into: Document, other: Document) -> None:
    """Adds what another part has found."""
    into["seconds"] = round(into["seconds"] + other["seconds"], 1)
    for kind in ("operations", "steps", "repeats"):
        into[kind] |= other[kind]


def write(path: Path, document: Document) -> None:
    """Writes both files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    unfinished.rename(path)
    path.with_suffix(".md").write_text(_page(document), encoding="utf-8")


def bad(document: Document) -> dict[str, Document]:
    """The steps after which something was not as it must be."""
    return {name: step for name, step in document["steps"].items() if step["findings"]}


def summary(document: Document) -> str:
    """A table: operation by operation."""
    head = "calls | left out as alike | steps | not reached | not as it must be | seconds to ready: median, longest"
    lines = [f"| operation | {head} |", f"|{'---|' * 7}"]
    rows = [
        (name, *_row(facts, [step for step in document["steps"].values() if step["operation"] == name]))
        for name, facts in document["operations"].items()
    ]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    steps = list(document["steps"].values())
    calls, left_out = (sum(each[kind] for each in document["operations"].values()) for kind in ("calls", "thinned"))
    lines.append(f"| all | {calls} | {left_out} | {' | '.join(map(str, _counts(steps)))} |")
    return "\n".join(lines)


def _row(facts: Document, steps: list[Document]) -> list[object]:
    return [facts["calls"], facts["thinned"], *_counts(steps)]


def _counts(steps: list[Document]) -> list[object]:
    seconds = [step["seconds"] for step in steps if step["seconds"]]
    times = f"{statistics.median(seconds):.2f}, {max(seconds):.2f}" if seconds else ""
    return [
        len(steps),
        sum(not step["reached"] for step in steps),
        sum(bool(step["findings"]) for step in steps),
        times,
    ]


def _page(document: Document) -> str:
    faults = Counter(step["fault"] for step in document["steps"].values())
    told = ", ".join(f"{faults[fault]} with {_WORDS[fault]}" for fault in FAULTS if faults[fault])
    parts = [
        "# Every step of every operation\n",
        f"Code {document['code']}; {told}; {document['seconds']:.0f} s of one process.\n",
        summary(document),
        "",
    ]
    if document["repeats"]:
        parts += ["## Bytes that are taken when the same failure comes again and again\n"]
        parts += [
            f"- {name}: {before} after two, {after} after all" for name, (before, after) in document["repeats"].items()
        ]
    if found := bad(document):
        parts += ["## Not as it must be\n"]
        parts += [f"- {name}: {json.dumps(step['findings'])}" for name, step in found.items()]
    for name in document["operations"]:
        parts += [
            "",
            f"## {name}\n",
            _steps({key: step for key, step in document["steps"].items() if step["operation"] == name}),
        ]
    return "\n".join(parts) + "\n"


def _steps(found: dict[str, Document]) -> str:
    """Call by call: the outcome, and seconds to ready, of each fault."""
    calls: dict[str, dict[str, str]] = {}
    for step in found.values():
        calls.setdefault(step["place"], {})[step["fault"]] = _outcome(step)
    lines = [f"| call | {' | '.join(_WORDS[fault] for fault in FAULTS)} |", f"|{'---|' * (len(FAULTS) + 1)}"]
    for call, outcomes in calls.items():
        lines.append(f"| {call} | {' | '.join(outcomes.get(fault, '') for fault in FAULTS)} |")
    return "\n".join(lines)


def _outcome(step: Document) -> str:
    if step["findings"]:
        return ", ".join(step["findings"])
    return f"{'right' if step['reached'] else 'not reached'}, {step['seconds']:.2f} s"


@cache
def _code() -> str:
    """The commit, and whether there is more, as it was when this was asked first."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
