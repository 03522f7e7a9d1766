"""The engine's log, as it comes through a pipe: event by event.

The engine writes an event at once (tracing-subscriber's fmt layer), and a pipe in packet mode (O_DIRECT, pipe(2)) keeps what
comes of one write(2) together, in packets of at most PIPE_BUF bytes. So whatever clients have the engine repeat, newlines
included, a packet that does not come after a full one is the beginning of an event, and its first line is the engine's own.
"""

import fcntl
import os
import select
from collections.abc import Iterator
from contextlib import suppress

_CAPACITY = 1 << 20  # bytes, of which each packet takes a page
# An event, or a part of one; and whether it is known to be the beginning of one
Event = tuple[str, bool]


def pipe() -> tuple[int, int]:
    """Descriptors to read from, and for the engine to write to."""
    reading, writing = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
    # A user who has many large ones gets a small one, for which the engine waits a little sooner.
    with suppress(OSError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _CAPACITY)
    return reading, writing


class Events(Iterator[Event]):
    """What comes through a pipe, until nobody has its other end any more. Where `next` raises MemoryError, it can be asked again."""

    def __init__(self, reading: int) -> None:
        """reading: is closed with the end."""
        self._reading = reading
        self._buffer = bytearray(select.PIPE_BUF)
        self._goes_on = False
        self._length = 0

    def __next__(self) -> Event:
        # Kept where what comes then raises something
        self._length = self._length or os.readv(self._reading, [self._buffer])
        if not self._length:
            os.close(self._reading)
            raise StopIteration
        event = self._buffer[: self._length].decode(errors="replace"), not self._goes_on
        self._goes_on = self._length == select.PIPE_BUF
        self._length = 0
        return event
