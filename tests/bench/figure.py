"""What a benchmark gives: figures with their limits, shown as a table and kept as JSON."""

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass
class Figure:
    """name: with its unit. ours, control: one value a run; control is stock Chroma, or what else the benchmark says, and empty where there is nothing to
    compare with.

    at_most, at_least: the limits of `value`, where the project promises one.
    """

    name: str
    ours: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)
    at_most: float | None = None
    at_least: float | None = None

    @property
    def value(self) -> float:
        """What is limited: our median as a part of the control's, or our median itself."""
        ours = statistics.median(self.ours)
        return ours / statistics.median(self.control) if self.control else ours

    @property
    def kept(self) -> bool:
        """Whether the limits hold."""
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)


def show(figures: Iterable[Figure]) -> None:
    """Prints a table of medians."""
    table = Table("figure (median)", "control", "chromad", "ratio", "limit", "runs", "")
    for figure in figures:
        limits = [f"≥ {figure.at_least:g}"] if figure.at_least is not None else []
        limits += [f"≤ {figure.at_most:g}"] if figure.at_most is not None else []
        table.add_row(
            figure.name,
            f"{statistics.median(figure.control):.3g}" if figure.control else "",
            f"{statistics.median(figure.ours):.3g}",
            f"{figure.value:.2f}" if figure.control else "",
            " ".join(limits),
            str(len(figure.ours)),
            ("holds" if figure.kept else "[red]FAILS[/]") if limits else "",
        )
    Console(width=max(Console().width, 120)).print(table)


def to_json(figures: Mapping[str, list[Figure]], directory: Path) -> str:
    """All values by benchmark, and on what they were measured. directory: where the data were."""
    document: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "file_system": file_system(directory),
            "load_at_end": os.getloadavg()[0],
        },
        "benchmarks": {
            name: [{**vars(figure), "value": figure.value, "kept": figure.kept} for figure in found]
            for name, found in figures.items()
        },
    }
    return json.dumps(document, indent=1) + "\n"


def file_system(directory: Path) -> str:
    """The type of the file system that a directory lies on."""
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, kind, *_ = line.split()
        if directory.resolve().is_relative_to(mount):
            best = max(best, (mount, kind), key=lambda each: len(each[0]))
    return best[1]
