"""What the daemon says: lines for the journal (with priority) or for a terminal (with time)."""

import logging
import os
import sys

from chromad.errors import ChromadError

log = logging.getLogger("chromad")

# syslog priorities, as sd-daemon(3) reads them from the start of a line
_PRIORITY = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def setup(level: str = "info") -> None:
    """Sends log lines to standard error, at `level` (debug, info, warning or error) and above."""
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    log.handlers = [handler]
    log.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """Changes the level of a running daemon."""
    log.setLevel(level.upper())


def report(error: ChromadError) -> None:
    """Logs an error as a fact and its hint."""
    log.error("%s", error.message)
    if error.hint:
        log.error("HINT: %s", error.hint)


def human_bytes(count: float) -> str:
    """A byte count for people: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
