"""Runs the benchmarks, prints their figures, and fails where a limit that the project promises does not hold."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import backup, checkpoint, filters, gateway, operate, recovery, start, writes
from .figure import Figure, file_system, show, to_json
from .options import Options

_BENCHMARKS: dict[str, Callable[[Options], list[Figure]]] = {
    "start": start.measure,
    "writes": writes.measure,
    "checkpoint": checkpoint.measure,
    "recovery": recovery.measure,
    "operate": operate.measure,
    "filters": filters.measure,
    "million": filters.measure_million,
    "gateway": gateway.measure,
    "backup": backup.measure,
}


def main() -> int:
    """0 when every limit holds, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", choices=[[], *_BENCHMARKS], help="all of them unless named")
    parser.add_argument("--rounds", type=int, default=10, help="runs of each side; medians are compared")
    parser.add_argument("--percent", type=int, default=100, help="of the full sizes, for a quick look")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="on the file system to measure on")
    parser.add_argument("--output", type=Path, default=Path("var"), help="where pictures go")
    parser.add_argument("--json", type=Path, help="write all values to this file")
    arguments = parser.parse_args()
    if file_system(arguments.directory) in ("tmpfs", "ramfs"):
        parser.error(f"{arguments.directory} is in memory; name a directory on a disk")
    figures: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory(prefix="chromad-bench-", dir=arguments.directory) as directory:
        options = Options(arguments.rounds, arguments.percent, Path(directory), arguments.output)
        for name in arguments.benchmarks or _BENCHMARKS:
            figures[name] = _BENCHMARKS[name](options)
            show(figures[name])
        if arguments.json:
            arguments.json.write_text(to_json(figures, options.directory), encoding="utf-8")
    return 0 if all(figure.kept for found in figures.values() for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
