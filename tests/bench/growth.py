"""How times grow with sizes: whether worse than linearly, and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

mpl.use("Agg")

# Sizes, each with seconds, the smallest first
Curve = Sequence[tuple[int, float]]


def per_unit(curve: Curve) -> float:
    """Seconds per unit at the largest size, as a part of those at the one before: at most 1 unless worse than in proportion."""
    *_, (middle, some), (high, most) = curve
    return (most / high) / (some / middle)


def bend(curve: Curve) -> float:
    """What a further unit costs at the largest size, as a part of what it costs at the one before: 1 for a line.

    What the smallest size takes counts as constant and is left out.
    """
    (low, least), *_, (middle, some), (high, most) = curve
    return ((most - least) / (high - low)) / (max(some - least, 1e-3) / (middle - low))


def draw(path: Path, data: Mapping[str, Curve], change: Mapping[str, Curve], titles: tuple[str, str]) -> None:
    """Writes a picture: seconds over the data on the left, over the change on the right. titles: of the two."""
    picture = Picture(figsize=(12, 5), layout="constrained")
    left, right = picture.subplots(1, 2)
    for axes, curves, title, unit in (
        (left, data, titles[0], "records"),
        (right, change, titles[1], "records changed"),
    ):
        for name, curve in curves.items():
            _plot(axes, name, curve)
        axes.set_title(title)
        axes.set_xlabel(unit)
        axes.set_ylabel("seconds")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    left.set_xscale("log")
    left.set_yscale("log")
    right.set_ylim(bottom=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=100)


def _plot(axes: Axes, name: str, curve: Curve) -> None:
    """The curve, and dashed the line through its first two sizes."""
    sizes = [size for size, _ in curve]
    [drawn] = axes.plot(sizes, [seconds for _, seconds in curve], marker="o", label=name)
    (low, least), (middle, some), *_ = curve
    slope = (some - least) / (middle - low)
    axes.plot(
        sizes,
        [least + slope * (size - low) for size in sizes],
        color=drawn.get_color(),
        linestyle="dashed",
        linewidth=1,
        alpha=0.6,
    )
