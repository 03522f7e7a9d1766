"""Takes backups under mixed writes, and restores some of them: python -m tests.soak.backups.

The writes go on all the time, also to a collection of 100,000 x 384. How long one of them took while a backup ran is
limited; those that met a persist of their own segment, which is the engine's own doing, are counted apart. Writers pause,
as SQLite lets one write at a time: if they did not, each write would wait for all others', backup or not. SQLite has no
queue for that: whoever finds it locked looks again after up to 25, 50, then 100 ms. Chroma applies one write at a time, and
reads for each all that was written to its collection since the last persist: the longer ago that was, the longer it takes.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.client import Client, upserts
from tests.bench.groups import clients, group
from tests.bench.servers import ChromactlFailed, Chromad, Stock
from tests.bench.stalls import Span, Stolen, longest
from tests.bench.stalls import Writer as Beside
from tests.bench.ways import allocated, prepare

from . import second, writer
from .vast import Found, Vast
from .writer import Window, Writer

_EVERY = 50  # backups between two that are restored
_STALL = 0.2  # seconds
_SHOWN = 20
_WORST = 5
# Often enough that backups meet checkpoints and purges of their own time
_SETTINGS = {"checkpoint": {"interval": "2m"}}


@dataclass
class Seen:
    """calm: when no backup ran. backups: when each ran, and what it said of itself. sizes: bytes of the repository before
    backups were forgotten. wrong: whatever must not be."""

    calm: Span
    backups: list[tuple[Span, dict[str, Any]]] = field(default_factory=list)
    restored: list[Found] = field(default_factory=list)
    compared: int = 0
    sizes: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    set_back: set[str] = field(default_factory=set)


def main() -> int:
    """0 when all backups were proven and right, and no write failed or was held up, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.backups", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="backups to take")
    parser.add_argument("--records", type=int, default=100_000, help="of the large collection")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two operations of each mixed writer")
    parser.add_argument("--single-pause", type=float, default=0.05, help="the same of the two that send single records")
    parser.add_argument("--calm", type=float, default=120.0, help="seconds without a backup at first, to compare with")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where the data go for the time")
    arguments = parser.parse_args()
    prepare()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chromad-soak-", dir=arguments.directory) as root:
        result, wrong = _soak(Path(root), arguments)
    print(json.dumps({**result, "wrong": len(wrong), "seconds": round(time.monotonic() - started)}, indent=1))
    print("\n".join(wrong[:_SHOWN]) or "every backup and every write was right")
    return 1 if wrong else 0


def _soak(root: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    with (
        clients(),
        group("chromadb.service") as service,
        group("chromadb-backup.service") as timer,
        Chromad(root, _SETTINGS, (service, timer)) as server,
    ):
        stolen = Stolen()
        vast = Vast(server, arguments.records, arguments.single_pause)
        bodies = upserts([f"beside-{key}" for key in range(1000)], 1, np.random.default_rng(1))
        collection = Client(server.port).create("beside")
        beside = Beside(server.port, collection, bodies, arguments.single_pause)
        writers = writer.start(server.port, pause=arguments.pause)
        # Writers wait while the engine serves the first read of a collection that was only written, backup or not.
        for name in {vast.collection, collection, *(each.collection for each in writers)}:
            Client(server.port).post(name, "get", b'{"limit": 1, "include": ["embeddings"]}')
        seen = _take(server, arguments, vast, writers)
        spans: dict[str, list[Span]] = {}
        for each in writers:
            try:
                each.stop()
            except Exception as error:
                seen.wrong.append(f"{each.kind.name}: a request failed: {error!r}")
        try:
            vast.stop()
            spans = {"the large collection": vast.spans, "another": beside.stop()}
        except EOFError:
            seen.wrong.append("a single upsert failed; its traceback is above")
    stolen.stop()
    for found in seen.restored:
        seen.wrong += vast.compare(found)
    stalls = {name: _stalls(those, seen, vast.persists, stolen) for name, those in spans.items()}
    seen.wrong += [
        f"a write to {name} took {each['backup']} s while a backup ran"
        for name, each in stalls.items()
        if each["backup"] > _STALL
    ]
    operations = sum(each.count for each in writers) + sum(map(len, spans.values()))
    return {**_summary(seen), "operations": operations, "stalls": stalls}, seen.wrong


def _take(server: Chromad, arguments: argparse.Namespace, vast: Vast, writers: list[Writer]) -> Seen:
    begin = time.monotonic()
    time.sleep(arguments.calm)
    seen = Seen(Span(begin, time.monotonic()))
    while len(seen.backups) < arguments.count and not seen.wrong:
        for each in writers:
            each.settle()
        begin = time.monotonic()
        try:
            told = json.loads(server.chromactl("backup", "--json"))
            span = Span(begin, time.monotonic())
            seen.backups.append((span, told))
            if len(seen.backups) % _EVERY == 0 or len(seen.backups) == arguments.count:
                _restore(server, seen, vast, _windows(writers))
        except ChromactlFailed as error:
            seen.wrong.append(str(error))
        seen.wrong += [f"{each.kind.name}: a request failed" for each in writers if each.error]
    return seen


def _windows(writers: Sequence[Writer]) -> dict[str, list[Window]]:
    windows: dict[str, list[Window]] = {}
    for each in writers:
        windows.setdefault(each.collection, []).append(each.window())
    return windows


def _restore(server: Chromad, seen: Seen, vast: Vast, windows: dict[str, list[Window]]) -> None:
    """Restores the last backup and reads it; all before it are forgotten then, so that the repository stays small."""
    span, told = seen.backups[-1]
    root = server.root / "second"
    root.mkdir()
    server.chromactl("restore", told["id"], "--target", str(root / "data"))
    result = second.differences(root, windows)
    with Stock(root) as copy:
        found, more = vast.look(copy, span)
    shutil.rmtree(root)
    seen.restored.append(found)
    seen.compared += result.records + len(found.values)
    seen.wrong += result.wrong + more
    seen.set_back |= result.set_back
    seen.sizes.append(allocated(server.repository))
    listed = json.loads(server.chromactl("backups", "--json"))["backups"]
    others = [each["id"] for each in listed if each["id"] != told["id"]]
    if others:
        server.chromactl("backups", "forget", *others, "--confirm")
    print(
        f"{len(seen.backups)} backups, {result.records:,} records compared, {len(seen.wrong)} wrong; the repository took "
        f"{seen.sizes[-1] >> 20} MiB and takes {allocated(server.repository) >> 20} MiB",
        file=sys.stderr,
        flush=True,
    )


def _stalls(spans: Sequence[Span], seen: Seen, persists: Sequence[Span], stolen: Stolen) -> dict[str, Any]:
    """The longest writes in seconds, how many took too long, and into which backups the worst fell: its number, when in it,
    whether with a base, and how many seconds of all processors the hypervisor gave to others meanwhile."""
    during = _split(spans, [span for span, _ in seen.backups])[0]
    calm = _split(spans, [seen.calm])[0]
    calm_held, calm_alone = _split(calm, persists)
    held, alone = _split(during, persists)
    worst = sorted(alone, key=lambda span: span.seconds)[-_WORST:]
    return {
        "writes": len(during),
        "over": sum(span.seconds > _STALL for span in alone),
        "backup": round(longest(alone), 3),
        "backup_in_persist": round(longest(held), 3),
        "calm_writes": len(calm),
        "calm_over": sum(span.seconds > _STALL for span in calm_alone),
        "calm": round(longest(calm_alone), 3),
        "calm_in_persist": round(longest(calm_held), 3),
        "worst": [
            {
                "seconds": round(span.seconds, 3),
                "backup": number,
                "after": round(span.begin - backup.begin, 2),
                "base": bool(told["base"]),
                "stolen": round(stolen.within(span), 2),
            }
            for span in reversed(worst)
            for number, (backup, told) in enumerate(seen.backups, 1)
            if span.meets([backup])
        ],
    }


def _split(spans: Sequence[Span], others: Sequence[Span]) -> tuple[list[Span], list[Span]]:
    """Those that meet any of the others, and the rest. others: in the order of time."""
    begins = [other.begin for other in others]
    parts: tuple[list[Span], list[Span]] = [], []
    for span in spans:
        # The last one that begins before it ends
        place = bisect_left(begins, span.end) - 1
        parts[0 if place >= 0 and others[place].end > span.begin else 1].append(span)
    return parts


def _summary(seen: Seen) -> dict[str, Any]:
    result: dict[str, Any] = {"backups": len(seen.backups)}
    for name, base in (("bases", True), ("additional", False)):
        chosen = [(span, told) for span, told in seen.backups if bool(told["base"]) == base]
        result[name] = {
            "count": len(chosen),
            "median_seconds": round(statistics.median(span.seconds for span, _ in chosen), 2) if chosen else None,
            "max_seconds": round(longest([span for span, _ in chosen]), 2),
            "added_bytes": sum(told["added"] for _, told in chosen),
        }
    return {
        **result,
        "restored": len(seen.restored),
        "records_compared": seen.compared,
        "vectors_set_back_by_chroma_itself": len(seen.set_back),
        "repository_bytes": max(seen.sizes, default=0),
    }


if __name__ == "__main__":
    sys.exit(main())
