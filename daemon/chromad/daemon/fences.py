"""The fences that stand, known to all threads of the daemon."""

import threading
from collections.abc import Callable
from pathlib import Path

from chromad.logs import events
from chromad.logs.lines import log
from chromad.store import fence


class Fences:
    """standing: kind (or collection id) and reason, replaced as a whole.

    What one thread lifts, another one must not take for dropped by a reset, and put back: one at a time changes them.
    """

    def __init__(self, data_dir: Path) -> None:
        self.standing: dict[str, str] = {}
        self._data_dir = data_dir
        self._turn = threading.Lock()

    @property
    def quarantined(self) -> set[str]:
        """The ids of the collections that are fenced since their segment is not there."""
        return self.standing.keys() - {fence.OPERATOR, fence.DISK}

    def read(self) -> None:
        """Takes over what is in the database."""
        self.standing = fence.read(self._data_dir)

    def keep(self, look: Callable[[], str]) -> str:
        """Puts back what a client's reset has dropped, and forgets collections that are no more; gives what `look` gives, which
        may put or lift the fence of the disks."""
        with self._turn:
            if self.quarantined:
                fence.forget_deleted(self._data_dir)
            for kind in fence.restore(self._data_dir, self.standing):
                log.warning("the %s fence was dropped by a reset, and is back", kind)
            level = look()
            self.read()
        return level

    def put(self, reason: str) -> None:
        """The operator's. Raises ConfigurationError for a reason that is none."""
        with self._turn:
            fence.put(self._data_dir, fence.OPERATOR, reason)
            self.read()
        log.warning("writes are fenced by the operator: %s", reason, extra=events.FENCED.extra)

    def lift(self) -> None:
        """The operator's, if it stands."""
        with self._turn:
            if fence.lift(self._data_dir, fence.OPERATOR):
                log.info("the operator has lifted the fence", extra=events.UNFENCED.extra)
            self.read()
