"""Signals of the daemon. The handlers set flags only; whoever waits is woken through a pipe. And Ctrl-C of other programs.

Imports little, so that `install` can come before everything that takes time: an early SIGTERM is a request to stop
like any other.
"""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

stop = False
reload = False
_wakeup = -1


def install() -> None:
    """Takes SIGTERM and SIGINT as a request to stop, SIGHUP as one to reload."""
    global _wakeup
    _wakeup, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _on_stop)
    signal.signal(signal.SIGINT, _on_stop)
    signal.signal(signal.SIGHUP, _on_reload)


def wait(seconds: float) -> None:
    """Returns after that time, or as soon as a signal comes."""
    if select.select([_wakeup] if _wakeup >= 0 else [], [], [], seconds)[0]:
        os.read(_wakeup, 512)


@contextmanager
def no_interrupt() -> Iterator[None]:
    """Has SIGINT wait until what is within is done, such as the start of a process that must be known to be ended. For the
    main thread."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        yield
        return
    came: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _number, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(signal.SIGINT, came[0])


def _on_stop(_number: int, _frame: FrameType | None) -> None:
    global stop  # noqa: PLW0603 (a signal handler has nothing else to write to)
    stop = True


def _on_reload(_number: int, _frame: FrameType | None) -> None:
    global reload  # noqa: PLW0603 (as above)
    reload = True
