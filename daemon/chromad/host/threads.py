"""The daemon's threads, each with a name. None ends in silence: what goes wrong in one reaches the journal, and is kept for
status and metrics until the same goes well again; the thread goes on, or the service ends.

Whoever needs a thread takes it from here.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable

from chromad.errors import MORE_MEMORY, NO_MEMORY, ChromadError, TryAgain, from_system, printable

_AGAIN = 1.0  # seconds

log = logging.getLogger("chromad")
_FORESEEN = (ChromadError, OSError, sqlite3.Error)

_turn = threading.Lock()
# By name: what went wrong last, empty where it has gone well since.
_problems: dict[str, str] = {}
# What has failed once, and may go well the next time
_doubtful: set[str] = set()
# Those that were started, and are not to end by an exception.
_wanted: dict[str, "_Owned"] = {}


def problems() -> dict[str, str]:
    """What goes wrong in each thread, by its name; empty for those that do well."""
    with _turn:
        return {name: _problems.get(name, "") for name in sorted(_problems.keys() | _wanted.keys())}


def failed(name: str, error: Exception, *, again: bool = False) -> None:
    """Tells that something went wrong in a thread, or in a task that has a name; what is said again and again is told once.

    again: it is tried again soon, so that a locked database or the like is told when it is so twice in a row.
    """
    text = describe(error)
    with _turn:
        passing = again and isinstance(error, _FORESEEN) and name not in _doubtful and not _problems.get(name)
        _doubtful.add(name)
        known = passing or _problems.get(name) == text
        if not passing:
            _problems[name] = text
    level = logging.WARNING if isinstance(error, _FORESEEN) else logging.ERROR
    log.log(logging.DEBUG if known else level, "%s failed: %s", name, text)
    log.debug("it failed here", exc_info=error)


def went_well(name: str) -> None:
    """Takes back what `failed` has told."""
    with _turn:
        _doubtful.discard(name)
        told = bool(_problems.get(name))
        if told:
            _problems[name] = ""
    if told:
        log.info("%s: it goes well again", name)


def describe(error: Exception) -> str:
    """An error in one line, of whatever class it is."""
    if isinstance(error, _FORESEEN):
        text = (error if isinstance(error, ChromadError) else from_system(error)).message
    else:
        text = repr(error)
    return printable(text).replace("\n", " ")


def raise_if_dead() -> None:
    """Raises ChromadError when a thread has ended that should not have, whatever ended it."""
    with _turn:
        dead = [name for name, thread in _wanted.items() if thread.ident and not thread.is_alive()]
    if dead:
        raise ChromadError(
            f"the thread {dead[0]} has ended, without which the service cannot go on",
            "systemd restarts the service; see the lines before this",
        )


class _Owned(threading.Thread):
    """What all of them have in common."""

    def __init__(self, name: str) -> None:
        super().__init__(daemon=True, name=name)
        self._ended = threading.Event()

    def _enter(self) -> None:
        with _turn:
            _wanted[self.name] = self

    def start(self) -> None:
        """Starts it. Raises TryAgain where the system has no room for a thread more."""
        try:
            super().start()
        except RuntimeError:
            if self.ident:
                raise
            self._leave()
            raise TryAgain(f"the thread {self.name} could not be started: {NO_MEMORY}", MORE_MEMORY) from None

    def stop(self) -> None:
        """Ends the thread after the step that it is at, and waits for that."""
        self._leave()
        if self.is_alive():
            self.join()

    def _leave(self) -> None:
        with _turn:
            self._ended.set()
            if _wanted.get(self.name) is self:
                del _wanted[self.name]


class Loop(_Owned):
    """Calls a function again and again. What it raises is told, and it is called again all the same.

    turn: gives the seconds until it wants to be called next. first: seconds until the first call. again: seconds until the
    next call after one that failed.
    """

    def __init__(self, name: str, turn: Callable[[], float], *, first: float = 0.0, again: float = _AGAIN) -> None:
        super().__init__(name)
        self._call = turn
        self._first = first
        self._again = again

    def start(self) -> None:
        self._enter()
        super().start()

    def run(self) -> None:
        pause = self._first
        while not self._ended.wait(pause):
            pause = self.once()

    def once(self) -> float:
        """One turn, in the calling thread; gives the seconds until the next."""
        try:
            pause = self._call()
        except Exception as error:
            failed(self.name, error, again=True)
            return self._again
        went_well(self.name)
        return pause


class Task(_Owned):
    """Calls a function once. What it raises is told; `problem` says it.

    again: seconds after which it is called again where it has raised something, for work that must not end so; None: it ends.
    """

    def __init__(self, name: str, work: Callable[[], None], *, again: float | None = None) -> None:
        super().__init__(name)
        self.problem = ""
        self._work = work
        self._again = again

    def start(self) -> None:
        if self._again is not None:
            self._enter()
        super().start()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._work()
            except Exception as error:
                self.problem = describe(error)
                failed(self.name, error)
                if self._again is not None:
                    self._ended.wait(self._again)
                    continue
            else:
                self.problem = ""
                went_well(self.name)
            self._leave()
