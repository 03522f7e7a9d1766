"""Draws how sizes went over time."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from .sample import Sample

mpl.use("Agg")

_ROWS = ("log_rows", "records")
_BYTES = ("database", "wal", "segments", "checkpoints", "quarantine")


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Writes a picture: counts above, mebibytes below, over minutes."""
    minutes = [sample.seconds / 60 for sample in samples]
    figure = Figure(figsize=(10, 8), layout="constrained")
    rows, sizes = figure.subplots(2, 1, sharex=True)
    for name in _ROWS:
        rows.plot(minutes, [getattr(sample, name) for sample in samples], label=name.replace("_", " "), linewidth=1)
    for name in _BYTES:
        sizes.plot(minutes, [getattr(sample, name) / (1 << 20) for sample in samples], label=name, linewidth=1)
    rows.set_ylabel("rows")
    sizes.set_ylabel("MiB")
    sizes.set_xlabel("minutes")
    for axes in (rows, sizes):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    figure.savefig(path, dpi=100)
