"""A process of the service user that exchanges what a verb touches, again and again, while the verb runs."""

import ctypes
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import places
from .layout import ASIDE, RUN, become_service

_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100
# Seconds that a racer which takes its time leaves each of the two in place, at most
_BAD, _GOOD = 0.0005, 0.004


@dataclass(frozen=True)
class Target:
    """place: a path to exchange; or a directory, where `new`: whatever appears in it is exchanged. kind: for what."""

    place: Path
    kind: str
    new: bool = False

    def __str__(self) -> str:
        return f"{self.place}{'/*' if self.new else ''} with {self.kind}"


class Racer:
    """Runs from `start` to `stop`. gently: takes its time, so that a verb gets far. delay: seconds before it begins."""

    def __init__(self, targets: Sequence[Target], *, gently: bool, delay: float, seed: int) -> None:
        self._targets = targets
        self._gently = gently
        self._delay = delay
        self._seed = seed
        self._pid = 0
        self._pipe = -1

    def start(self) -> None:
        """In a process of its own, which is the service user's."""
        self._pipe, writer = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(writer)
            return
        told = ""
        try:
            become_service()
            os.setsid()
            told = str(self._race())
        except Exception as error:
            told = repr(error)
        finally:
            os.write(writer, told.encode())
            os._exit(0)

    def stop(self) -> int:
        """Ends it; gives how often it has exchanged something."""
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)
        with open(self._pipe, encoding="utf-8") as told:
            text = told.read()
        # Empty where it was ended before it began
        if text and not text.isdecimal():
            raise RuntimeError(f"the racer failed: {text}")
        return int(text or 0)

    def _race(self) -> int:
        ended: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
        rng = random.Random(self._seed)
        # /run/chromadb is there while the service runs.
        there = [each for each in self._targets if _aside(each.place).is_dir()]
        hands = [_Hand(each, _aside(each.place) / f"racer-{number}") for number, each in enumerate(there)]
        time.sleep(self._delay)
        count = 0
        while not ended:
            for hand in hands:
                count += hand.exchange()
            if self._gently:
                time.sleep(rng.uniform(0, _BAD))
                for hand in hands:
                    count += hand.exchange()
                time.sleep(rng.uniform(0, _GOOD))
        for hand in hands:
            hand.put_back()
        return count


def _aside(place: Path) -> Path:
    """On the same file system."""
    return RUN if RUN in place.parents else ASIDE


class _Hand:
    """What is exchanged for one target; the bait lies beside the service's directories, in one of the service user's."""

    def __init__(self, target: Target, bait: Path) -> None:
        self._target = target
        self._bait = bait
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._seen = self._names() if target.new else set()
        self._place = os.fsencode(target.place)
        self._odd = False
        self._held = b""
        self._make()

    def _make(self) -> None:
        if os.path.lexists(self._bait):
            if not self._bait.is_symlink() and self._bait.is_dir():
                shutil.rmtree(self._bait, ignore_errors=True)
            else:
                self._bait.unlink()
        kind = self._target.kind
        if kind == "link-loop":
            self._bait.symlink_to(self._target.place)
        else:
            places.KINDS[kind](self._bait)

    def _names(self) -> set[str]:
        try:
            return set(os.listdir(self._target.place))
        except OSError:
            return set()

    def exchange(self) -> int:
        """Once, if there is something to exchange; gives how often."""
        if self._target.new:
            return self._exchange_new()
        if self._call(self._place):
            self._odd = not self._odd
            return 1
        # It is not there: a link for a moment
        if self._target.kind.startswith("link-") and not self._odd:
            with suppress(OSError):
                os.symlink(os.readlink(self._bait), self._target.place)
                if os.path.islink(self._target.place):
                    os.unlink(self._target.place)
                return 1
        return 0

    def _exchange_new(self) -> int:
        if self._held:
            back, self._held = self._call(self._held), b""
            if not back:
                # It is gone, and what was in its place is the bait now.
                with suppress(OSError):
                    self._make()
            return int(back)
        for name in self._names() - self._seen:
            path = os.fsencode(self._target.place / name)
            if self._call(path):
                self._held = path
                return 1
        return 0

    def put_back(self) -> None:
        """What was there is there."""
        if self._odd or self._held:
            self._call(self._held or self._place)

    def _call(self, path: bytes) -> bool:
        return bool(self._libc.renameat2(_AT_FDCWD, os.fsencode(self._bait), _AT_FDCWD, path, _EXCHANGE) == 0)


def kinds(place: Path) -> list[str]:
    """What a place is exchanged for."""
    if place.is_dir():
        return ["link-closed", "link-mirror", "link-absent", "plain"]
    return ["link-file", "link-readable", "link-absent", "link-loop", "pipe", "directory"]
