"""Runs the benchmarks, prints a table, and fails where a limit that the project promises does not hold."""

import argparse
import statistics
import sys

from rich.console import Console
from rich.table import Table

from . import start


def main() -> int:
    """0 when every limit holds, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="runs of each side; medians are compared")
    rounds = parser.parse_args().rounds
    table = Table("figure", "stock", "chromad", "ratio", "limit", title=f"medians of {rounds} interleaved runs")
    kept = True
    for figure in start.measure(rounds):
        stock, ours = statistics.median(figure.stock), statistics.median(figure.ours)
        ratio = ours / stock
        kept &= ratio <= figure.limit
        table.add_row(figure.name, f"{stock:.3g}", f"{ours:.3g}", f"{ratio:.2f}", f"{figure.limit:.2f}")
    Console().print(table)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
