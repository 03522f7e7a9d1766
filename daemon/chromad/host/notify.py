"""What systemd is told: sd_notify(3). Does nothing where no supervisor listens."""

import os
import time

import sdnotify

from chromad.errors import one_line

_notifier = sdnotify.SystemdNotifier()
_supervised = "NOTIFY_SOCKET" in os.environ


def supervised() -> bool:
    """Whether systemd runs this process as a notifying service."""
    return _supervised


def ready() -> None:
    _send("READY=1")


def status(text: str) -> None:
    # Each line of a message is a variable of its own, and names that clients chose may be in it.
    _send(f"STATUS={one_line(text)}")


def stopping() -> None:
    _send("STOPPING=1")


def reloading() -> None:
    """Must be followed by `ready`."""
    _send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def extend_timeout(seconds: float) -> None:
    """Start or stop may take this much longer, counted from now."""
    _send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")


def watchdog() -> None:
    _send("WATCHDOG=1")


def watchdog_interval() -> float:
    """Seconds within which systemd wants a sign of life; 0 when it does not watch this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 1_000_000


def _send(message: str) -> None:
    if _supervised:
        # sdnotify encodes as Latin-1; systemd reads UTF-8.
        _notifier.notify(message.encode(errors="replace").decode("latin-1"))
