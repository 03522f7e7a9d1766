"""Backups: what the first one costs, and one after 1 % of the records changed, beside what people do without Chromad.

Each is measured on the same data while nobody writes: `chromactl backup` of the running service, which opens what it has
taken before it counts, `tar` with `zstd` of the stopped directory, and the live one mirrored by `sqlite3 .backup` and
`rsync`. Then restores, drills, and how all of it grows with the data (at one dimension, so that only their number
differs), and an additional backup with the change.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from . import growth, ways
from .client import Client, queries, upserts
from .figure import Figure
from .options import Options
from .servers import Chromad
from .ways import Chromactl, Cost, Way

# Parts of the first backup that one after a change of 1 % may take
_SECONDS, _BYTES = 0.3, 0.05
# Seconds per record when there are ten times as many, as a part
_PER_RECORD = 1.0
# How much dearer a further changed record may be when there are twice as many
_BEND = 1.3
_CHANGES = (1, 2, 4, 8)  # percent of the records
_CHANGE_ROUNDS = 2
# Checkpoints while it is filled, as by default, and none while it is measured but those that are asked for
_SETTINGS = {"checkpoint": {"interval": "1d", "after_log": "256M"}}
_BATCH = 500


@dataclass(frozen=True)
class Size:
    """rounds: at most so many, a large one taking long. compared: whether the other ways are measured as well. changed:
    whether larger changes are."""

    records: int
    dimension: int
    rounds: int
    compared: bool = True
    changed: bool = False

    def __str__(self) -> str:
        return f"{self.records:,} x {self.dimension}"


_SIZES = (
    Size(10_000, 384, 10),
    Size(100_000, 384, 5, changed=True),
    Size(10_000, 128, 5, compared=False),
    Size(100_000, 128, 3, compared=False),
    Size(1_000_000, 128, 3),
)
_ALIKE = 128


@dataclass
class Seen:
    """What was measured at a size. first, second: by the way's title. restore, drill: seconds. changes: seconds of an
    additional backup, by the number of records changed since the base."""

    size: Size
    first: dict[str, list[Cost]] = field(default_factory=dict)
    second: dict[str, list[Cost]] = field(default_factory=dict)
    restore: list[float] = field(default_factory=list)
    drill: list[float] = field(default_factory=list)
    changes: dict[int, list[float]] = field(default_factory=dict)


def measure(options: Options) -> list[Figure]:
    """Prints the table of ways, draws the growth to `backup.png` in the output, and gives all values."""
    ways.prepare()
    found = [_measure(options, size) for size in _SIZES]
    _show(found)
    curves = _curves([seen for seen in found if seen.size.dimension == _ALIKE])
    [changed] = [seen for seen in found if seen.changes]
    change = [(count, statistics.median(seconds)) for count, seconds in changed.changes.items()]
    growth.draw(
        options.output / "backup.png",
        curves,
        {"additional backup": change},
        (f"any number of records x {_ALIKE}, 1 % changed", str(changed.size)),
    )
    figures = [figure for seen in found for figure in _figures(seen)]
    text = f"x {_ALIKE}, ten times the records"
    for name, curve in curves.items():
        figures.append(Figure(f"{text}: seconds per record: {name}", [growth.per_unit(curve)], at_most=_PER_RECORD))
        # Not limited: the engine's own load of an index becomes dearer with its size.
        figures.append(Figure(f"{text}: cost of a further record: {name}", [growth.bend(curve)]))
    text = f"{changed.size}: cost of a further changed record, twice the change"
    return [*figures, Figure(text, [growth.bend(change)], at_most=_BEND)]


def _measure(options: Options, size: Size) -> Seen:
    seen = Seen(replace(size, records=options.part(size.records)))
    with _filled(options.directory, seen.size) as (server, collection):
        kinds: Sequence[type[Way]] = ways.WAYS if size.compared else (Chromactl,)
        chosen = [kind(server) for kind in kinds]
        numbers = np.random.default_rng(1)
        for _ in range(min(options.rounds, size.rounds)):
            for way in chosen:
                way.clear()
                seen.first.setdefault(way.title, []).append(way.cost(first=True))
            _change(server, collection, seen.size, max(seen.size.records // 100, 1), numbers)
            for way in chosen:
                seen.second.setdefault(way.title, []).append(way.cost(first=False))
            seen.restore.append(_restore(server))
            seen.drill.append(_seconds(lambda: server.chromactl("verify")))
        for _ in range(min(options.rounds, _CHANGE_ROUNDS) if size.changed else 0):
            _measure_changes(server, collection, seen, numbers)
    return seen


def _measure_changes(server: Chromad, collection: str, seen: Seen, numbers: np.random.Generator) -> None:
    way = Chromactl(server)
    for percent in _CHANGES:
        count = max(seen.size.records * percent // 100, percent)
        way.clear()
        way.cost(first=True)
        _change(server, collection, seen.size, count, numbers)
        seen.changes.setdefault(count, []).append(way.cost(first=False).seconds)


@contextmanager
def _filled(directory: Path, size: Size) -> Iterator[tuple[Chromad, str]]:
    """A server with one collection of a size; a large one is persisted less often, since that takes long."""
    numbers = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=directory) as root, Chromad(Path(root), _SETTINGS) as server:
        client = Client(server.port)
        collection = client.create("records", max(size.records // 100, 1000))
        for start in range(0, size.records, 10_000):
            keys = [f"record-{key}" for key in range(start, min(start + 10_000, size.records))]
            for body in upserts(keys, _BATCH, numbers, size.dimension):
                client.post(collection, "upsert", body)
        yield server, collection


def _change(server: Chromad, collection: str, size: Size, count: int, numbers: np.random.Generator) -> None:
    """Gives so many records new vectors, documents and metadata, and lets the service apply them to its index."""
    client = Client(server.port)
    keys = [f"record-{key}" for key in numbers.choice(size.records, count, replace=False)]
    for body in upserts(keys, _BATCH, numbers, size.dimension):
        client.post(collection, "upsert", body)
    for body in queries(1, numbers, size.dimension):
        client.post(collection, "query", body)


def _restore(server: Chromad) -> float:
    target = server.root / "restored"
    seconds = _seconds(lambda: server.chromactl("restore", "latest", "--target", str(target)))
    shutil.rmtree(target)
    return seconds


def _seconds(step: Callable[[], object]) -> float:
    os.sync()
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _curves(found: Sequence[Seen]) -> dict[str, growth.Curve]:
    """By what was done: the numbers of records, and the median seconds."""
    values: dict[str, Callable[[Seen], list[float]]] = {
        "first backup": lambda seen: [cost.seconds for cost in seen.first[Chromactl.title]],
        "additional backup": lambda seen: [cost.seconds for cost in seen.second[Chromactl.title]],
        "restore": lambda seen: seen.restore,
        "drill": lambda seen: seen.drill,
    }
    return {
        name: [(seen.size.records, statistics.median(pick(seen))) for seen in found] for name, pick in values.items()
    }


def _figures(seen: Seen) -> list[Figure]:
    figures = []
    for title, firsts in seen.first.items():
        seconds = seen.second[title]
        text = f"{seen.size}, {title}"
        ours = title == Chromactl.title
        figures += [
            Figure(f"{text}: first (s)", [cost.seconds for cost in firsts]),
            Figure(f"{text}: first (MiB)", [cost.bytes / (1 << 20) for cost in firsts]),
            Figure(f"{text}: after 1 % changed (s)", [cost.seconds for cost in seconds]),
            Figure(f"{text}: after 1 % changed (MiB)", [cost.bytes / (1 << 20) for cost in seconds]),
            Figure(
                f"{text}: time, part of the first",
                [second.seconds / first.seconds for first, second in zip(firsts, seconds, strict=True)],
                at_most=_SECONDS if ours and seen.size.compared else None,
            ),
            Figure(
                f"{text}: bytes, part of the first",
                [second.bytes / first.bytes for first, second in zip(firsts, seconds, strict=True)],
                at_most=_BYTES if ours and seen.size.compared else None,
            ),
        ]
    return [
        *figures,
        Figure(f"{seen.size}: chromactl restore (s)", seen.restore),
        Figure(f"{seen.size}: chromactl verify (s)", seen.drill),
    ]


def _show(found: Sequence[Seen]) -> None:
    """All ways at all sizes in one table of medians."""
    table = Table("records", "way", "first: s", "MiB", "after 1 % changed: s", "MiB", "part of the first: s", "MiB")
    for seen in found:
        for title in seen.first if seen.size.compared else ():
            (first, added), (second, more) = _medians(seen.first[title]), _medians(seen.second[title])
            table.add_row(
                str(seen.size) if title == Chromactl.title else "",
                title,
                *(f"{first:.3g}", f"{added / (1 << 20):.3g}", f"{second:.3g}", f"{more / (1 << 20):.3g}"),
                *(f"{second / first:.2f}", f"{more / added:.3f}"),
                end_section=title == list(seen.first)[-1],
            )
    Console(width=max(Console().width, 140)).print(table)


def _medians(costs: Sequence[Cost]) -> tuple[float, float]:
    return statistics.median(cost.seconds for cost in costs), statistics.median(cost.bytes for cost in costs)
