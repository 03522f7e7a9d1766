"""Signals. Those of the daemon: its handlers set flags only, and whoever waits is woken through a pipe. Those of other
programs: what ends them comes as one exception, at a moment that suits.

Imports little, so that `install` can come before everything that takes time: an early SIGTERM is a request to stop
like any other.
"""

import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

stop = False
reload = False
_wakeup = -1

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal that ends a program. number: of the signal. done: what was done until then, for people; empty where nobody
    has said so yet."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.done = ""

    @property
    def name(self) -> str:
        """The signal's name."""
        return signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """As a shell has it for a program that a signal has ended."""
        return 128 + self.number


class _Ending:
    """The state of `raise_on_end`. came: the first signal that ends the program. told: whether it was raised; those that
    come later are heard no more, since cleaning up has begun. holds: of `deferred`, one within the other. done: what was asked for, for people; empty
    until it is."""

    came = 0
    told = False
    holds = 0
    done = ""


def install() -> None:
    """Takes SIGTERM and SIGINT as a request to stop, SIGHUP as one to reload."""
    global _wakeup
    _wakeup, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _on_stop)
    signal.signal(signal.SIGINT, _on_stop)
    signal.signal(signal.SIGHUP, _on_reload)


def raise_on_end() -> None:
    """Has SIGINT, SIGTERM and SIGHUP raise `Interrupted` in the main thread, once. One that is ignored, as by nohup(1),
    stays so."""
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_end)


def wait(seconds: float) -> None:
    """Returns after that time, or as soon as a signal comes."""
    if select.select([_wakeup] if _wakeup >= 0 else [], [], [], seconds)[0]:
        os.read(_wakeup, 512)


@contextmanager
def deferred() -> Iterator[None]:
    """Has a signal that ends the program wait until what is within is done, such as the start of a process that must be known
    to be ended. For the main thread."""
    _Ending.holds += 1
    try:
        yield
    finally:
        _Ending.holds -= 1
        raise_pending(hold=_Ending.holds)


def has_come() -> bool:
    """Whether a signal that ends the program has come, be it raised or not. For any thread."""
    return bool(_Ending.came)


def pending() -> bool:
    """Whether a signal waits, within `deferred`."""
    return bool(_Ending.came) and not _Ending.told


def raise_pending(*, hold: int = 0) -> None:
    """Raises Interrupted when a signal waits: where one can still go back. hold: not before that is 0."""
    if pending() and not hold:
        _Ending.told = True
        raise Interrupted(_Ending.came)


def finished(done: str = "it was done all the same") -> None:
    """What was asked for is done; whoever is interrupted from now on only tells of it. done: for people."""
    _Ending.done = done


def is_finished() -> bool:
    """Whether what was asked for is done."""
    return bool(_Ending.done)


@contextmanager
def saying(done: str) -> Iterator[None]:
    """What a signal that ends the program within leaves done, for people; what is within may know better."""
    try:
        yield
    except Interrupted as interrupted:
        interrupted.done = interrupted.done or _Ending.done or done
        raise


@contextmanager
def ending() -> Iterator[None]:
    """Ends the program with one line when a signal interrupts what is within: a JSON document where --json was given."""
    try:
        yield
    except Interrupted as interrupted:
        line = f"interrupted by {interrupted.name}: {interrupted.done or _Ending.done or 'nothing was changed'}"
        # The terminal may be what has gone.
        with suppress(OSError):
            if "--json" in sys.argv:
                print(json.dumps({"error": line, "hint": "", "exit_code": interrupted.exit_code}, indent=2), flush=True)
            else:
                print(line, file=sys.stderr, flush=True)
        sys.exit(interrupted.exit_code)
    finally:
        # Python itself takes a moment to end, and does not hear of them meanwhile.
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)


def _on_end(number: int, _frame: FrameType | None) -> None:
    _Ending.came = _Ending.came or number
    raise_pending(hold=_Ending.holds)


def _on_stop(_number: int, _frame: FrameType | None) -> None:
    global stop  # noqa: PLW0603 (a signal handler has nothing else to write to)
    stop = True


def _on_reload(_number: int, _frame: FrameType | None) -> None:
    global reload  # noqa: PLW0603 (as above)
    reload = True
