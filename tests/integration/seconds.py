"""Seconds to restore to."""

import time
from datetime import UTC, datetime


def done() -> int:
    """Waits until a second has ended, so that nothing more is done in it; gives it (Unix time)."""
    time.sleep(1 - time.time() % 1 + 0.02)
    return int(time.time()) - 1


def iso(second: int) -> str:
    """As `restore --at` takes it."""
    return datetime.fromtimestamp(second, UTC).isoformat()
