"""The checkpointer: takes checkpoints in time, purges the log that they cover, and clears away what is left over.

Runs as a thread of the daemon. One cycle at a time; a cycle that fails is tried again, the log is kept meanwhile.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chromad import events, threads
from chromad.backup import ledger
from chromad.config import Config
from chromad.errors import TryAgain
from chromad.host import files
from chromad.output import log as journal
from chromad.store import log, quarantine, segment, sqlite
from chromad.store.checkpoint import Store
from chromad.warm import qualified

# Seconds
_POLL = 5.0
_RETRY = 60.0
# It rests for so many times as long as a look has kept a processor busy.
_REST = 20.0
_ORPHAN_GRACE = 86400.0
# Cycles in a row after which a segment that was left out for what passes by itself is told of
_PATIENCE = 3
_WAITS = "its files are ahead of the log that would be replayed into them, until its next persist"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Summary:
    """What a cycle did. taken and left: segments with a new checkpoint, and without one that should have got it.
    purged: rows of the log. seconds: how long it took."""

    taken: int
    left: int
    purged: int
    seconds: float


class Stopped(TryAgain):
    """The daemon stops; the cycle was ended between two steps."""


class Checkpointer(threads.Loop):
    """Takes checkpoints while the engine runs.

    needed: bytes that the next ones will take. last_error: of the last cycle, empty when it went well.
    broken: what the engine has written that only a restart can mend, since that puts a checkpoint back; empty as a rule.
    kept: collections, by id, whose segment a start has kept for want of anything better: another start does not mend them.
    """

    def __init__(self, config: Config, checkpoints: Store, data_id: str) -> None:
        super().__init__("checkpointer", self._look, first=_POLL, again=_POLL)
        self.config = config
        self.needed = 0
        self.last_error = ""
        self.broken = ""
        self.kept: set[str] = set()
        self._checkpoints = checkpoints
        self._data_id = data_id
        self._turn = threading.Lock()
        self._wanted = threading.Event()
        # By collection id: in how many cycles in a row it got no checkpoint, its qualified name, and why.
        self._left: dict[str, tuple[int, str, str]] = {}
        self._last = time.monotonic()
        self._looked = False
        self._counted = 0
        self._logged = 0
        self._finished = 0.0
        self._without_room: set[Path] = set()

    def _look(self) -> float:
        since = time.monotonic() - self._last
        busy = time.thread_time()
        due = self._due(since)
        # With very many collections a look takes seconds.
        pause = max(_POLL, _REST * (time.thread_time() - busy))
        if since < _RETRY if self.last_error else not due:
            return pause
        self._last = time.monotonic()
        try:
            summary = self.cycle(_ignore)
        except Stopped:
            return pause
        except Exception as error:
            # Whatever it was, the next cycle begins anew.
            journal.error("checkpoint: %s", threads.describe(error), extra=events.CHECKPOINT_FAILED.extra)
            journal.debug("it failed here", exc_info=error)
            return pause
        level = journal.info if summary.taken or summary.purged else journal.debug
        level(
            "checkpoint: %d segments in %.1f s, %d rows of the log purged",
            summary.taken,
            summary.seconds,
            summary.purged,
        )
        return pause

    @property
    def unprotected(self) -> dict[str, str]:
        """Collections whose segments get no checkpoint, and why, by `warm.qualified` name: those of the last cycles that need
        an operator at once, and those that were left out so often that it does not pass by itself."""
        return {name: reason for times, name, reason in self._left.values() if times >= _PATIENCE}

    def want(self, at_most_every: float = 0.0) -> None:
        """Asks for a cycle soon, but not within `at_most_every` seconds of the last one."""
        if time.monotonic() - self._finished > at_most_every:
            self._wanted.set()

    def cycle(self, progress: Progress, *, live: bool = True, damaged: Sequence[str] = ()) -> Summary:
        """Takes all checkpoints that are due, then purges and clears away. Raises what went wrong.

        damaged: segments whose checkpoint is not what it was; it is moved to quarantine, and a new one is due.
        """
        try:
            summary = self._cycle(progress, live, damaged)
        except Stopped:
            raise
        except Exception as error:
            self.last_error = threads.describe(error)
            raise
        self.last_error = ""
        return summary

    def _cycle(self, progress: Progress, live: bool, damaged: Sequence[str]) -> Summary:
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
            there = sqlite.collections(data_dir, counted=False)
            self._note([each for each in due if each.id not in taken], there)
            self.kept -= taken.keys()
            for collection in due:
                # An engine that found the disk full in a persist goes on to write incomplete files.
                mends = collection.id not in self.kept and self._checkpoints.latest(collection.segment)
                if collection.id in self._checkpoints.unsound and mends:
                    self.broken = self.broken or str(data_dir / collection.segment)
            # Not by what was there before: its checkpoints are all of collections that were entered by now.
            self._checkpoints.drop_others({collection.segment for collection in there})
            purged = self._purge(there, progress, live)
            if live:
                self._clear_away()
            self.needed = self._need(self._checkpoints.stale(there))
        self._finished = time.monotonic()
        return Summary(len(taken), len(self._left), purged, time.monotonic() - started)

    def _note(self, left: list[sqlite.Collection], there: list[sqlite.Collection]) -> None:
        """Notes why these collections got no checkpoint, and in how many cycles in a row, if they are still there."""
        present = {each.id for each in there}
        found = {}
        for collection in left:
            if collection.id in present:
                reason = self._checkpoints.left.get(collection.id)
                times = self._left.get(collection.id, (0, "", ""))[0] + 1
                found[collection.id] = (_PATIENCE if reason else times, qualified(collection), reason or _WAITS)
        self._left = found

    def _due(self, since: float) -> bool:
        with sqlite.connect(self.config.data_dir) as connection:
            # Deleting the collection with the newest rows makes SQLite give their seq ids again.
            newest = log.newest(connection)
            size, self._counted = log.size_after(connection, min(self._counted, newest))
            collections = sqlite.read_collections(connection, counted=False)
        self._logged += size
        stale = self._checkpoints.stale(collections)
        self.needed = self._need(stale)
        if not self._looked:
            # The start has tried to take first checkpoints.
            self._looked = True
            self._note([each for each in stale if each.id in self._checkpoints.left], stale)
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
            # One of a later state than the segment is of another database, and holds nothing of this one's log.
            if checkpoint and checkpoint.seq_id <= (collection.persisted or 0):
                limits = [checkpoint.seq_id, collection.written, *([] if backed_up is None else [backed_up])]
                covered[collection.topic] = min(limits)

        def go_on(count: int) -> bool:
            progress("log", count, 0)
            return not (live and self._ended.is_set())

        return log.purge(self.config.data_dir, covered, go_on)

    def _clear_away(self) -> None:
        data_dir, quarantine_dir = self.config.data_dir, self.config.quarantine_dir
        found = segment.directories(data_dir)
        # In this order: a collection is entered before its directory is made.
        known = sqlite.segments(data_dir)
        for path in found:
            if path.name not in known:
                self._move_orphan(path)
        for path in quarantine.remove_orphans(quarantine_dir, _ORPHAN_GRACE):
            journal.info("%s is removed", path)
        for place in (data_dir, self.config.checkpoint_dir):
            quarantine.sweep(place)
        for place in (data_dir, self.config.checkpoint_dir, quarantine_dir):
            files.remove_drafts(place)

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
        if self._ended.is_set():
            raise Stopped("the service stops", "the last checkpoints are taken while it does")


def _ignore(_phase: str, _done: int, _total: int) -> None:
    pass
