"""What the daemon says: lines for the journal (with priority) or for a terminal (with time)."""

import fcntl
import logging
import os
import socket
import struct
import sys
import termios
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from chromad.errors import ChromadError, contained
from chromad.logs.events import ENDED, Event

log = logging.getLogger("chromad")

# syslog priorities, as sd-daemon(3) reads them from the start of a line
_PRIORITY = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
_RECENT = 20
# Seconds that journald gets to see who has sent an event: it forgets the unit of a process that has ended.
_SEEN = 0.1


class _Formatter(logging.Formatter):
    """Names that clients chose are in many lines: no control character of theirs gets out, and no newline begins a line that
    looks like one of ours."""

    def format(self, record: logging.LogRecord) -> str:
        return contained(super().format(record))


class _JournalFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


class _JournalHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Sends events as entries with fields, everything else as lines."""

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if not isinstance(event, Event) or not send(event, record.levelno, record.getMessage(), "chromad"):
            super().emit(record)


class _Recent(logging.Handler):
    """Keeps the last events and warnings, for those who ask."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: deque[dict[str, str]] = deque(maxlen=_RECENT)

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if event or record.levelno >= logging.WARNING:
            when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")
            level = record.levelname.lower()
            name = event.name if event else ""
            self.entries.append({"time": when, "level": level, "event": name, "text": contained(record.getMessage())})


_recent = _Recent()


def recent() -> list[dict[str, str]]:
    """The last events and warnings, the oldest first: `time` (UTC), `level`, `event` (its name, or empty) and `text`."""
    return list(_recent.entries)


def send(event: Event, level: int, text: str, identifier: str, path: Path | bytes = JOURNAL_SOCKET) -> bool:
    """Tells journald of an event (https://systemd.io/JOURNAL_NATIVE_PROTOCOL); False where it cannot.

    level: of the logging module. identifier: the program's name.
    """
    fields = {
        "MESSAGE": contained(text),
        "PRIORITY": str(_PRIORITY.get(level, 6)),
        "SYSLOG_IDENTIFIER": identifier,
        "MESSAGE_ID": event.id,
        "CHROMAD_EVENT": event.name,
    }
    entry = b"".join(_field(name, value.encode(errors="replace")) for name, value in fields.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        try:
            connection.sendto(entry, path if isinstance(path, bytes) else str(path))
        except OSError:
            return False
        deadline = time.monotonic() + _SEEN
        while _unread(connection) and time.monotonic() < deadline:
            time.sleep(0.001)
    return True


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"


def _unread(connection: socket.socket) -> bool:
    return bool(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])


def setup(level: str = "info") -> None:
    """Sends log lines to standard error, at `level` (debug, info, warning or error) and above."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler = _JournalHandler(sys.stderr)
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    log.handlers = [handler, _recent]
    log.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """Changes the level of a running daemon."""
    log.setLevel(level.upper())


def report(error: ChromadError) -> None:
    """Logs an error, which ends the service, as a fact and its hint."""
    log.error("%s", error.message, extra=ENDED.extra)
    if error.hint:
        log.error("HINT: %s", error.hint)


def human_bytes(count: float) -> str:
    """A byte count for people: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
