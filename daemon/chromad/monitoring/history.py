"""How disks, log and records went in the last day, and when a disk will be full at that rate."""

import threading
import time
from array import array
from collections import deque
from collections.abc import Mapping, Sequence

INTERVAL = 60.0  # seconds between two samples
_KEPT = 24 * 60
_ENOUGH = 10  # samples, before anything is foretold
_FARTHEST = 90 * 86400.0  # seconds


class History:
    """Samples of some figures, the oldest first; those of more than a day ago are forgotten. For several threads."""

    def __init__(self, names: Sequence[str]) -> None:
        # A sample is there with all of its figures, or not at all.
        self._turn = threading.Lock()
        self._times: deque[float] = deque(maxlen=_KEPT)
        self._series = {name: deque[float](maxlen=_KEPT) for name in names}

    def add(self, values: Mapping[str, float], now: float | None = None) -> None:
        """now: seconds since the epoch. Every name has to have a value."""
        with self._turn:
            self._times.append(time.time() if now is None else now)
            for name, series in self._series.items():
                series.append(values[name])

    def series(self, points: int) -> dict[str, list[float]]:
        """At most so many points of each figure, evenly chosen, the newest among them; `time` says when they were."""
        with self._turn:
            found = {"time": array("d", self._times)} | {
                name: array("d", series) for name, series in self._series.items()
            }
        count = len(found["time"])
        step = max(1, -(-count // points))
        chosen = range((count - 1) % step, count, step) if count else range(0)
        return {name: [round(series[at], 4) for at in chosen] for name, series in found.items()}

    def reaches(self, name: str, limit: float) -> float | None:
        """Seconds until a figure that grows reaches a limit, by the straight line through its samples; None where it does
        not grow, that is farther away than 90 days, or there are too few samples to say."""
        with self._turn:
            times, values = array("d", self._times), array("d", self._series[name])
        count = len(times)
        if count < _ENOUGH:
            return None
        middle, mean = sum(times) / count, sum(values) / count
        spread = sum((at - middle) ** 2 for at in times)
        slope = sum((at - middle) * (value - mean) for at, value in zip(times, values, strict=True)) / spread
        if slope <= 0:
            return None
        left = max(0.0, (limit - values[-1]) / slope)
        return left if left < _FARTHEST else None
