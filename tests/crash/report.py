"""The report: JSON with every round, and a Markdown table with both servers side by side."""

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from tests.crash.lab import Round

_LOSSES = {
    "lost": "records lost",
    "wrong": "records wrong",
    "risen": "records risen from the dead",
    "unreadable": "collections unreadable",
    "help": "starts that needed help",
    "refused": "writes refused",
    "unkept": "promises of the disk guard not kept",
}
_TITLES = {"kill": "SIGKILL of the whole service", "power": "Power cuts", "full": "Full disks"}

Summary = dict[str, Any]


def summarize(rounds: list[Round], command: str, seconds: float, evidence: list[Path]) -> Summary:
    """Counts over all rounds, and the rounds themselves."""
    times = [record.seconds_to_ready for record in rounds if record.seconds_to_ready is not None]
    moments: dict[str, Counter[str]] = {}
    for record in rounds:
        counter = moments.setdefault(record.moment, Counter())
        counter.update(rounds=1, hit=int(record.hit), torn=int(bool(record.torn)))
    losses: Counter[str] = Counter(dict.fromkeys(_LOSSES, 0))
    for record in rounds:
        losses.update(record.findings.counts())
    return {
        "command": command,
        "seconds": round(seconds, 1),
        "rounds": len(rounds),
        "rounds_with_losses": sum(bool(record.findings) for record in rounds),
        "losses": dict(losses),
        "moments": {name: dict(counter) for name, counter in moments.items()},
        "torn_at": dict(Counter(step.partition(": ")[2] for record in rounds for step in record.torn)),
        "records_compared": sum(record.records for record in rounds),
        "requests_acknowledged": sum(record.requests for record in rounds),
        "requests_in_flight": sum(record.in_flight for record in rounds),
        "self_queries_missed": sum(record.hidden for record in rounds),
        "records_cut_off_by_the_index": sum(record.cut_off for record in rounds),
        "vectors_set_back": sum(record.set_back for record in rounds),
        "restarts_by_supervisor": sum(record.restarts for record in rounds),
        "seconds_to_ready": {
            "median": round(statistics.median(times), 2) if times else None,
            "max": round(max(times), 2) if times else None,
        },
        "evidence": [str(path) for path in evidence],
        "details": [_detail(record) for record in rounds],
    }


def write(path: Path, experiment: str, server: str, summary: Summary) -> None:
    """Puts one summary into the JSON file, beside those that are there, and writes the table beside it."""
    everything: dict[str, dict[str, Summary]] = {}
    if path.exists():
        everything = json.loads(path.read_text(encoding="utf-8"))
    everything.setdefault(experiment, {})[server] = summary
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    unfinished.rename(path)
    path.with_suffix(".md").write_text(markdown(everything), encoding="utf-8")


def markdown(everything: dict[str, dict[str, Summary]]) -> str:
    """A table for each experiment, a column for each server."""
    parts = []
    for experiment, title in _TITLES.items():
        sides = everything.get(experiment, {})
        if sides:
            parts.append(f"### {title}\n\n{_table(sides)}\n")
    return "\n".join(parts)


def _table(sides: dict[str, Summary]) -> str:
    servers = [name for name in ("stock", "chromad") if name in sides]
    columns = [sides[name] for name in servers]
    rows = [
        ("rounds", [str(column["rounds"]) for column in columns]),
        ("rounds with losses", [str(column["rounds_with_losses"]) for column in columns]),
        *(
            (title, [str(column["losses"][kind]) for column in columns])
            for kind, title in _LOSSES.items()
            if title != _LOSSES["unkept"] or any(column["losses"][kind] for column in columns)
        ),
    ]
    for moment in dict.fromkeys(name for column in columns for name in column["moments"]):
        found = [column["moments"].get(moment) for column in columns]
        texts = [f"{it['hit']} of {it['rounds']}, {it['torn']} torn" if it else "none" for it in found]
        rows.append((f"struck in {moment}", texts))
    rows += [
        ("records compared", [str(column["records_compared"]) for column in columns]),
        ("vectors set back by Chroma itself, crash or not", [str(column["vectors_set_back"]) for column in columns]),
        (
            "records that Chroma's index had lost the way to before the strike",
            [str(column.get("records_cut_off_by_the_index", 0)) for column in columns],
        ),
        ("restarts by the supervisor", [str(column["restarts_by_supervisor"]) for column in columns]),
        ("seconds to ready, median", [str(column["seconds_to_ready"]["median"]) for column in columns]),
        ("seconds to ready, longest", [str(column["seconds_to_ready"]["max"]) for column in columns]),
        ("command", [f"`{column['command']}`" for column in columns]),
    ]
    lines = [f"| | {' | '.join(servers)} |", f"|---|{'---|' * len(servers)}"]
    lines += [f"| {title} | {' | '.join(cells)} |" for title, cells in rows]
    return "\n".join(lines)


def _detail(record: Round) -> dict[str, Any]:
    """A round without what is empty; of each loss a few."""
    detail = {key: value for key, value in vars(record).items() if value and key != "findings"}
    if record.findings:
        detail["counts"] = record.findings.counts()
        detail["findings"] = {kind: found[:5] for kind, found in vars(record.findings).items() if found}
    return detail
