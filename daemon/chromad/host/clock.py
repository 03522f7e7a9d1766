"""How far the clock was set, since this process asked first."""

import time


class Clock:
    """Compares the time of day with the time since boot, which nobody sets."""

    def __init__(self) -> None:
        self._offset = _offset()

    def step(self) -> float:
        """Seconds that the clock was set forward (or back, below 0) since."""
        return _offset() - self._offset


def _offset() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
