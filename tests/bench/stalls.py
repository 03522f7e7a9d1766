"""Writers that keep the time of each write, and watchers of what may have held one up. Times are of the monotonic clock."""

import multiprocessing
import os
import random
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from chromad.chroma import segment

from .client import Client

# Seconds between two looks at the files of a segment, and what is added on both sides of what was seen.
_LOOK = 0.01
_MARGIN = 0.005
# Seconds between two looks at what is stolen, which the kernel counts in hundredths.
_GLANCE = 0.02
_STOLEN = 8  # the field in the line of all processors, proc_stat(5)


@dataclass(frozen=True)
class Span:
    """From when to when something went on, in seconds."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def meets(self, others: Sequence["Span"]) -> bool:
        """Whether it overlaps any of them."""
        return any(self.begin < other.end and other.begin < self.end for other in others)


def longest(spans: Sequence[Span]) -> float:
    """The longest of them in seconds, 0 when there is none."""
    return max((span.seconds for span in spans), default=0.0)


class Writer:
    """A process that sends single upserts to one collection all the time. pause: seconds between two, on average."""

    def __init__(self, port: int, collection: str, bodies: list[bytes], pause: float = 0.0) -> None:
        context = multiprocessing.get_context("spawn")
        self._ended = context.Event()
        self._answer, answer = context.Pipe(duplex=False)
        self._process = context.Process(target=_write, args=(port, collection, bodies, pause, self._ended, answer))
        self._process.start()

    def stop(self) -> list[Span]:
        """Ends it; gives the spans of all its writes."""
        self._ended.set()
        times: list[tuple[float, float]] = self._answer.recv()
        self._process.join()
        return [Span(*each) for each in times]


def _write(port: int, collection: str, bodies: list[bytes], pause: float, ended: Event, answer: Any) -> None:
    client = Client(port)
    times = []
    number = 0
    while not ended.wait(random.uniform(0, 2 * pause)):
        begin = time.monotonic()
        client.post(collection, "upsert", bodies[number % len(bodies)])
        times.append((begin, time.monotonic()))
        number += 1
    answer.send(times)


class Persists(threading.Thread):
    """Watches when the engine writes the files of a segment."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self.spans: list[Span] = []
        self._directory = directory
        self._ended = threading.Event()
        self.start()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def await_next(self) -> None:
        """Returns when one more has come to its end."""
        known = len(self.spans)
        _until(lambda: len(self.spans) > known)

    def run(self) -> None:
        begin = 0.0
        while not self._ended.wait(_LOOK):
            now = time.monotonic()
            found = segment.stats(self._directory)
            torn = segment.PICKLE in found and segment.is_torn(self._directory, found)
            if torn and not begin:
                begin = now - _LOOK
            elif begin and not torn:
                self.spans.append(Span(begin - _MARGIN, now + _MARGIN))
                begin = 0.0


class Stolen(threading.Thread):
    """Watches how much of the processors' time the hypervisor gives to others."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._seen = [(time.monotonic(), _stolen())]
        self._ended = threading.Event()
        self.start()

    def stop(self) -> None:
        self._ended.set()
        self.join()
        self._seen.append((time.monotonic(), _stolen()))

    def within(self, span: Span) -> float:
        """Seconds of all processors together that were stolen in a span, or just before and after it. After `stop`."""
        first = max(bisect_right(self._seen, span.begin, key=_when) - 1, 0)
        last = min(bisect_left(self._seen, span.end, key=_when), len(self._seen) - 1)
        return self._seen[last][1] - self._seen[first][1]

    def run(self) -> None:
        while not self._ended.wait(_GLANCE):
            self._seen.append((time.monotonic(), _stolen()))


def _when(seen: tuple[float, float]) -> float:
    return seen[0]


def _stolen() -> float:
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[_STOLEN]) / os.sysconf("SC_CLK_TCK")


def _until(condition: Callable[[], bool], limit: float = 600.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the segment was not persisted in time")
        time.sleep(0.01)
