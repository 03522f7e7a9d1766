"""Sizes of everything on disk over time, under mixed writes with checkpoints and purging: python -m tests.soak.sizes.

The number of records goes up and down around a mean, so what grows all the same grows without bound. The first quarter
of the run is left out: collections fill, and SQLite's file finds its size. Of the rest, nothing may be larger in the
second half than 1.25 times the most of the first half, plus a little. Segments do grow: Chroma uses the place of a
deleted record never again. Checkpoints follow them, and may take twice as much, one copy kept and one in the making.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.bench.client import Client, upserts
from tests.bench.servers import Chromad

from . import deleted, plot, sample, writer
from .sample import Sample

_SETTINGS = {"checkpoint": {"interval": "30s", "after_log": "32M"}}
# Seconds
_INTERVAL = 2.0
_DROP = 60.0

_GROWTH = 1.25
_SLACK = {"log_rows": 2000, "database": 8 << 20, "wal": 8 << 20}
_COPIES = 2


def main() -> int:
    """0 when everything stayed bounded and deleted text is gone, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.sizes", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where the data go for the time")
    parser.add_argument("--output", type=Path, default=Path("var"), help="where sizes.csv and sizes.png go")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="chromad-soak-", dir=arguments.directory) as root,
        Chromad(Path(root), _SETTINGS) as server,
    ):
        writers = writer.start(server.port)
        samples = _watch(server, arguments.minutes * 60)
        sample.write(samples, arguments.output / "sizes.csv")
        plot.draw(samples, arguments.output / "sizes.png")
        for each in writers:
            each.stop()
        before, after = deleted.measure(server, writers)
    grown = _grown(samples)
    result = {
        "minutes": arguments.minutes,
        "operations": sum(each.count for each in writers),
        "most": {name: max(getattr(each, name) for each in samples) for name in vars(samples[0])},
        "last": vars(samples[-1]),
        "grown": grown,
        "deleted_documents_in_bytes": {"before_compact": before, "after_compact": after},
    }
    print(json.dumps(result, indent=1))
    return 1 if grown or after or not before else 0


def _watch(server: Chromad, seconds: float) -> list[Sample]:
    """Samples for so long; from time to time a collection is made, filled and deleted."""
    client = Client(server.port)
    bodies = upserts([f"short-lived-{number}" for number in range(500)], 100, np.random.default_rng(0), 64)
    samples = []
    begin = dropped = time.monotonic()
    while time.monotonic() - begin < seconds:
        time.sleep(_INTERVAL)
        samples.append(sample.take(server, time.monotonic() - begin))
        if time.monotonic() - dropped > _DROP:
            dropped = time.monotonic()
            collection = client.create("short-lived", 100)
            for body in bodies:
                client.post(collection, "upsert", body)
            client.drop("short-lived")
    return samples


def _grown(samples: Sequence[Sample]) -> list[str]:
    """What grew without bound."""
    rest = samples[len(samples) // 4 :]
    first, second = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    grown = []
    for name, slack in _SLACK.items():
        before, after = (max(getattr(each, name) for each in half) for half in (first, second))
        if after > _GROWTH * before + slack:
            grown.append(f"{name}: at most {before} in the first half, {after} in the second")
    worst = max(rest, key=lambda each: each.checkpoints / max(each.segments, 1))
    if worst.checkpoints > _COPIES * worst.segments:
        grown.append(f"checkpoints take {worst.checkpoints} bytes, the segments {worst.segments}")
    return grown


if __name__ == "__main__":
    sys.exit(main())
