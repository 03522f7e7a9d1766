"""The checkpointer: takes checkpoints in time, purges the log that they cover, and clears away what is left over.

Runs as a thread of the daemon. One cycle at a time; a cycle that fails is tried again, the log is kept meanwhile.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chromad import events
from chromad.backup import ledger
from chromad.config import Config
from chromad.errors import ChromadError, from_system
from chromad.output import log as journal
from chromad.store import log, quarantine, segment, sqlite
from chromad.store.checkpoint import Store

# Seconds
_POLL = 5.0
_RETRY = 60.0
_ORPHAN_GRACE = 86400.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Summary:
    """What a cycle did. taken and left: segments with a new checkpoint, and without one that should have got it.
    purged: rows of the log. seconds: how long it took."""

    taken: int
    left: int
    purged: int
    seconds: float


class Stopped(Exception):
    """The daemon stops; the cycle was ended between two steps."""


class Checkpointer(threading.Thread):
    """Takes checkpoints while the engine runs.

    needed: bytes that the next ones will take. last_error: of the last cycle, empty when it went well.
    broken: what the engine has written that only a restart can mend, since that puts a checkpoint back; empty as a rule.
    """

    def __init__(self, config: Config, checkpoints: Store, data_id: str) -> None:
        super().__init__(daemon=True, name="checkpointer")
        self.config = config
        self.needed = 0
        self.last_error = ""
        self.broken = ""
        self._checkpoints = checkpoints
        self._data_id = data_id
        self._turn = threading.Lock()
        self._stopping = threading.Event()
        self._wanted = threading.Event()
        self._counted = 0
        self._logged = 0
        self._ended = 0.0
        self._without_room: set[Path] = set()

    def run(self) -> None:
        last = time.monotonic()
        while not self._stopping.wait(_POLL):
            since = time.monotonic() - last
            try:
                due = self._due(since)
                if not due or (self.last_error and since < _RETRY):
                    continue
                last = time.monotonic()
                summary = self.cycle(_ignore)
            except Stopped:
                return
            except (ChromadError, OSError, sqlite3.Error) as error:
                told = error if isinstance(error, ChromadError) else from_system(error)
                self.last_error = told.message
                journal.error("checkpoint: %s", told.message, extra=events.CHECKPOINT_FAILED.extra)
            else:
                level = journal.info if summary.taken or summary.purged else journal.debug
                level(
                    "checkpoint: %d segments in %.1f s, %d rows of the log purged",
                    summary.taken,
                    summary.seconds,
                    summary.purged,
                )

    def want(self, at_most_every: float = 0.0) -> None:
        """Asks for a cycle soon, but not within `at_most_every` seconds of the last one."""
        if time.monotonic() - self._ended > at_most_every:
            self._wanted.set()

    def stop(self) -> None:
        """Ends the thread; a cycle in progress ends at its next step."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def cycle(self, progress: Progress, *, live: bool = True, damaged: Sequence[str] = ()) -> Summary:
        """Takes all checkpoints that are due, then purges and clears away. Raises what went wrong.

        damaged: segments whose checkpoint is not what it was; it is moved to quarantine, and a new one is due.
        """
        started = time.monotonic()
        with self._turn:
            self._wanted.clear()
            self._logged = 0
            data_dir = self.config.data_dir
            for uuid in damaged:
                self._checkpoints.set_aside(uuid, self.config.quarantine_dir)
            collections = sqlite.collections(data_dir, counted=False)
            due = self._checkpoints.stale(collections)

            def count(done: int) -> None:
                if live:
                    self._go_on()
                progress("checkpoints", done, len(due))

            taken = self._checkpoints.take(due, live=live, progress=count) if due else {}
            for collection in due:
                # An engine that found the disk full in a persist goes on to write incomplete files.
                if collection.id in self._checkpoints.unsound and self._checkpoints.latest(collection.segment):
                    self.broken = self.broken or str(data_dir / collection.segment)
            self._checkpoints.drop_others({collection.segment for collection in collections})
            purged = self._purge(collections, progress, live)
            if live:
                self._clear_away()
            self.last_error = ""
            self.needed = self._need(self._checkpoints.stale(sqlite.collections(data_dir, counted=False)))
        self._ended = time.monotonic()
        return Summary(len(taken), len(due) - len(taken), purged, time.monotonic() - started)

    def _due(self, since: float) -> bool:
        with sqlite.connect(self.config.data_dir) as connection:
            size, self._counted = log.size_after(connection, self._counted)
            collections = sqlite.read_collections(connection, counted=False)
        self._logged += size
        self.needed = self._need(self._checkpoints.stale(collections))
        for collection in collections:
            # A torn segment that was read makes the engine write such files.
            self.broken = self.broken or segment.monster(self.config.data_dir / collection.segment)
        checkpoint = self.config.checkpoint
        status = os.statvfs(self.config.data_dir)
        # A log that grows fast must not fill the disk before its time has come.
        bound = min(checkpoint.after_log, status.f_bavail * status.f_frsize // 4)
        return self._wanted.is_set() or since >= checkpoint.interval or self._logged >= bound

    def _need(self, stale: list[sqlite.Collection]) -> int:
        if self._checkpoints.shares_blocks:
            return 0
        return sum(segment.allocated(self.config.data_dir / collection.segment) for collection in stale)

    def _purge(self, collections: list[sqlite.Collection], progress: Progress, live: bool) -> int:
        backed_up = ledger.covers(self.config.backup_dir, self._data_id)
        covered: dict[str, int] = {}
        for collection in collections:
            checkpoint = self._checkpoints.latest(collection.segment)
            if checkpoint:
                limits = [checkpoint.seq_id, collection.written, *([] if backed_up is None else [backed_up])]
                covered[collection.topic] = min(limits)

        def go_on(count: int) -> bool:
            progress("log", count, 0)
            return not (live and self._stopping.is_set())

        return log.purge(self.config.data_dir, covered, go_on)

    def _clear_away(self) -> None:
        data_dir, quarantine_dir = self.config.data_dir, self.config.quarantine_dir
        known = sqlite.segments(data_dir)
        for path in segment.directories(data_dir):
            if path.name not in known:
                self._move_orphan(path)
        for path in quarantine.remove_orphans(quarantine_dir, _ORPHAN_GRACE):
            journal.info("%s is removed", path)
        for place in (data_dir, self.config.checkpoint_dir):
            quarantine.sweep(place)

    def _move_orphan(self, path: Path) -> None:
        try:
            target = quarantine.move_orphan(path, self.config.quarantine_dir, self._go_on)
        except quarantine.NoRoom as error:
            # It harms nobody where it is. Each cycle tries again, which costs a look at the free space.
            if path not in self._without_room:
                journal.warning("%s. HINT: %s", error.message, error.hint)
            self._without_room.add(path)
        else:
            self._without_room.discard(path)
            journal.info("%s, of a deleted collection, is moved to %s", path, target)

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise Stopped


def _ignore(_phase: str, _done: int, _total: int) -> None:
    pass
