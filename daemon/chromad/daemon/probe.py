"""Whether the engine answers: a thread that reads from it all the time."""

import logging
import time

from chromad.engine.api import Api
from chromad.errors import (
    EngineError,
    NotFound,
    TablesMissing,
)
from chromad.host import threads
from chromad.logs.lines import log


class EngineProbe(threads.Loop):
    """Reads from the engine all the time, and knows when it answered last."""

    def __init__(self, api: Api, interval: float) -> None:
        super().__init__("probe", self._read, first=interval, again=interval)
        self._api = api
        self._interval = interval
        self._well = True
        self._answered = time.monotonic()

    def silent_for(self) -> float:
        """Seconds since the last answer."""
        return time.monotonic() - self._answered

    def stop(self) -> None:
        # Not waiting for an answer that may not come.
        self._leave()

    def _read(self) -> float:
        try:
            self._api.read_probe(timeout=self._interval)
        except (NotFound, TablesMissing):
            # It answers, in the middle of a client's reset.
            pass
        except (OSError, EngineError) as error:
            log.log(logging.WARNING if self._well else logging.DEBUG, "the engine did not answer a read: %s", error)
            self._well = False
            # Soon again: time is running out.
            return min(0.1, self._interval / 2)
        self._answered = time.monotonic()
        self._well = True
        return self._interval
