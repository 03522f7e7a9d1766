"""Recovery: bringing each vector segment into a state from which the engine's replay of the log gives what was acknowledged.

Works while no engine runs. A crash at any point of it leaves a state from which the next start decides the same
again; `chromad.json` still tells of the stop that was not clean.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chromad.chroma import log, segment, soundness, sqlite
from chromad.errors import BackupError, ChromadError
from chromad.host import files
from chromad.logs import events
from chromad.logs.lines import human_bytes
from chromad.logs.lines import log as journal
from chromad.store import fence, quarantine, state
from chromad.store.checkpoint import Checkpoint, Store

Trust = Literal["boot", "power", "unknown"]
Action = Literal["kept", "restored", "rebuilt", "quarantined"]

_STAGING = ".restoring-"
_REPLACED = ".replaced-"

_UNLIKE = "{} vectors in it are not as they were logged"

# Collections whose segment cannot be kept, and why
Doubts = list[tuple[sqlite.Collection, str]]


@dataclass(frozen=True)
class Recovered:
    """What was done with a collection's segment, and why.

    restored: from a checkpoint, the log brings the rest. rebuilt: all of it comes from the log. kept: neither was
    possible, and it is sound. quarantined: the collection refuses writes until `chromactl repair`.
    """

    collection: sqlite.Collection
    action: Action
    reason: str


class Recovery:
    """Recovers the segments of one data directory."""

    def __init__(self, data_dir: Path, quarantine_dir: Path, checkpoints: Store, tick: Callable[[], None]) -> None:
        self._data_dir = data_dir
        self._quarantine_dir = quarantine_dir
        self._checkpoints = checkpoints
        self._tick = tick

    def look(self, trust: Trust, mark: state.CleanMark | None) -> Doubts:
        """Looks at every segment while no engine runs; gives those that cannot be kept. What it changes loses nothing.

        mark: of a clean stop. Segments whose files are still as it says are kept unread. trust: what can be believed of the
        others. `boot`: the same kernel has kept all that was written. `power`: nothing but what was fsynced, so no segment
        that differs from its checkpoint. `unknown`: another program wrote them, or nobody knows when.
        """
        self._clear_up()
        return self._doubts(self._in_service(), trust, mark)

    def look_for_mended(self) -> Doubts:
        """The segments whose checkpoint has vectors that the log says, and they do not."""
        doubts = []
        for collection in self._in_service():
            checkpoint = self._checkpoints.latest(collection.segment)
            live = segment.stats(self._data_dir / collection.segment)
            if checkpoint and _is_mended(collection, checkpoint, live):
                doubts.append((collection, _UNLIKE.format(checkpoint.mended)))
        return doubts

    def mend_all(self, doubts: Doubts) -> list[Recovered]:
        """`mend` of each. Raises ChromadError when there is no room for the checkpoints that are to be put back."""
        self._check_room([collection for collection, _ in doubts])
        return [self.mend(collection, reason) for collection, reason in doubts]

    def mend(self, collection: sqlite.Collection, reason: str, *, from_log: bool = False) -> Recovered:
        """As `bring_back`, or else takes the collection out of service.

        from_log: neither the checkpoint nor the segment as it is are to be used.
        """
        outcome = self.bring_back(collection, reason, from_log=from_log)
        if outcome is None and not from_log and self._is_sound(collection):
            outcome = Recovered(collection, "kept", f"{reason}; but it is sound, and all that there is")
        if outcome is None:
            outcome = self.quarantine(collection, reason)
        told = (collection.name, collection.segment, outcome.action, outcome.reason)
        if outcome.action == "quarantined":
            journal.error("collection %s: segment %s %s: %s", *told, extra=events.QUARANTINED.extra)
        else:
            journal.warning("collection %s: segment %s %s: %s", *told, extra=events.RECOVERED.extra)
        return outcome

    def bring_back(self, collection: sqlite.Collection, reason: str, *, from_log: bool = False) -> Recovered | None:
        """Puts the checkpoint back, else has the log rebuild the segment; None where neither can. from_log: as in `mend`."""
        checkpoint = None if from_log else self._usable(collection)
        if checkpoint:
            try:
                self._put_back(collection, checkpoint)
            except BackupError as error:
                journal.warning("collection %s: %s", collection.name, error)
            else:
                return Recovered(collection, "restored", f"{reason}; checkpoint at {checkpoint.seq_id} is back")
        if self._log_rebuilds(collection):
            self._leave_to_log(collection)
            return Recovered(collection, "rebuilt", f"{reason}; the log rebuilds it")
        return None

    def quarantine(self, collection: sqlite.Collection, reason: str) -> Recovered:
        """Takes a collection out of service: its segment to quarantine, its writes refused."""
        fence.put_around(
            self._data_dir, collection, f"the collection {collection.id} is in quarantine; see chromactl repair"
        )
        if not (self._data_dir / collection.segment).exists():
            # For `repair` to find: there is nothing that could be salvaged.
            (self._data_dir / collection.segment).mkdir(mode=0o750)
        self._move_out(collection.segment)
        return Recovered(collection, "quarantined", f"{reason}; neither checkpoint nor log can bring it back")

    # Deciding

    def _in_service(self) -> list[sqlite.Collection]:
        fenced = fence.read(self._data_dir)
        return [each for each in sqlite.collections(self._data_dir, counted=False) if each.id not in fenced]

    def _doubts(self, collections: list[sqlite.Collection], trust: Trust, mark: state.CleanMark | None) -> Doubts:
        doubts: dict[str, str] = {}
        to_examine: dict[Path, sqlite.Collection] = {}
        claims: dict[Path, soundness.Claim] = {}
        with sqlite.connect(self._data_dir) as connection:
            for collection in collections:
                path = self._data_dir / collection.segment
                live = segment.stats(path)
                known = mark is not None and live == mark.segments.get(collection.segment, {})
                reason = self._doubt(connection, collection, live, None if known else trust)
                if reason:
                    doubts[collection.id] = reason
                elif reason is None:
                    to_examine[path] = collection
                    if collection.persisted is not None:
                        claims[path] = self._checkpoints.claim(connection, collection, collection.persisted, mend=False)
                self._tick()
        for path, verdict in soundness.examine(list(to_examine), self._tick, claims).items():
            if verdict.unread:
                # Nothing is known of it, and without memory, a disk or a log that can be read nothing better can be made.
                journal.error(
                    "collection %s: its segment is kept, but %s; back up what can be read, or restore",
                    to_examine[path].name,
                    verdict.problem,
                )
            elif not verdict.sound and not verdict.empty:
                doubts[to_examine[path].id] = verdict.problem
            elif verdict.unlike:
                doubts[to_examine[path].id] = _UNLIKE.format(verdict.unlike)
        return [(collection, doubts[collection.id]) for collection in collections if collection.id in doubts]

    def _doubt(
        self, connection: sqlite3.Connection, collection: sqlite.Collection, live: segment.Stats, trust: Trust | None
    ) -> str | None:
        """Why a segment cannot be kept; empty when it can, None when its content has to be looked at.

        trust: None for one that is as the mark of a clean stop says.
        """
        checkpoint = self._checkpoints.latest(collection.segment)
        if checkpoint and _is_mended(collection, checkpoint, live):
            return _UNLIKE.format(checkpoint.mended)
        if segment.PICKLE not in live and collection.persisted is not None:
            return "its files are gone"
        if trust is None:
            return ""
        if segment.PICKLE not in live:
            if checkpoint and not log.rebuilds(connection, collection):
                return "its files are gone"
            if live:
                # Of a first persist that did not come to its end, or of none. The log is all that there is, and the engine
                # makes new ones of it.
                shutil.rmtree(self._data_dir / collection.segment)
            return ""
        return self._doubt_files(connection, collection, live, trust, checkpoint)

    def _doubt_files(
        self,
        connection: sqlite3.Connection,
        collection: sqlite.Collection,
        live: segment.Stats,
        trust: Trust,
        checkpoint: Checkpoint | None,
    ) -> str | None:
        """As `_doubt`, of a segment that was persisted."""
        if trust == "boot" and segment.is_torn(self._data_dir / collection.segment, live):
            return "a persist of it was not completed"
        if checkpoint and collection.persisted == checkpoint.seq_id:
            if trust == "boot" and checkpoint.is_of(live):
                return ""
            # Files may be ahead of it, after a kill within a persist: what is put back gets the same from the log.
            same = self._checkpoints.same_content(checkpoint, self._tick)
            return "" if same else "it is not what its checkpoint was taken of"
        if trust == "power":
            if checkpoint or log.rebuilds(connection, collection):
                return "it was persisted after its checkpoint, and the power may have gone"
            return None
        exactly = log.replays_exactly(connection, collection, collection.persisted or 0)
        if not exactly and (checkpoint or trust == "boot"):
            return "its files may be ahead of what the log would be replayed from"
        return None

    # Doing

    def _clear_up(self) -> None:
        """Ends what a start that was killed had begun."""
        for path in self._data_dir.glob(f"{_STAGING}*"):
            shutil.rmtree(path)
        for path in self._data_dir.glob(f"{_REPLACED}*"):
            place = self._data_dir / path.name.removeprefix(_REPLACED)
            if place.exists():
                shutil.rmtree(path)
            else:
                path.rename(place)
        fenced = fence.read(self._data_dir).keys() - {fence.OPERATOR, fence.DISK}
        for collection in sqlite.collections(self._data_dir, counted=False) if fenced else ():
            if collection.id in fenced and (self._data_dir / collection.segment / segment.PICKLE).exists():
                self._move_out(collection.segment)

    def _check_room(self, collections: Sequence[sqlite.Collection]) -> None:
        if self._checkpoints.shares_blocks:
            return
        need = sum(checkpoint.size for checkpoint in map(self._usable, collections) if checkpoint)
        status = os.statvfs(self._data_dir)
        free = status.f_bavail * status.f_frsize
        if free < need:
            raise ChromadError(
                f"{self._data_dir} has {human_bytes(free)} free; to put the checkpoints of segments that are not sound back "
                f"takes {human_bytes(need)}",
                "free some space there; nothing was touched",
            )

    def _usable(self, collection: sqlite.Collection) -> Checkpoint | None:
        """The newest checkpoint, unless the database is older than it: then another one was put in its place."""
        checkpoint = self._checkpoints.latest(collection.segment)
        if checkpoint and checkpoint.seq_id > max(collection.written, sqlite.last_seq_id(self._data_dir)):
            journal.warning(
                "collection %s: its checkpoint at %d is of a later state than the database",
                collection.name,
                checkpoint.seq_id,
            )
            return None
        if checkpoint:
            with sqlite.connect(self._data_dir) as connection:
                if purged := log.purged_after(connection, collection, checkpoint.seq_id):
                    journal.warning(
                        "collection %s: its checkpoint at %d is too old: what wrote %d records since is no longer in the log",
                        collection.name,
                        checkpoint.seq_id,
                        purged,
                    )
                    return None
        return checkpoint

    def _put_back(self, collection: sqlite.Collection, checkpoint: Checkpoint) -> None:
        staging = self._data_dir / f"{_STAGING}{collection.segment}"
        if staging.exists():
            shutil.rmtree(staging)
        try:
            self._checkpoints.put_back(checkpoint, staging, self._tick)
            self._check_ids(collection, checkpoint, staging)
        except BaseException:
            # A full disk is not made fuller by each start that tries.
            shutil.rmtree(staging, ignore_errors=True)
            raise
        path = self._data_dir / collection.segment
        replaced = self._data_dir / f"{_REPLACED}{collection.segment}"
        if checkpoint.mended and checkpoint.is_of(segment.stats(path)):
            # The checkpoint was made of these files, and differs in what the log says better.
            path.rename(replaced)
        else:
            self._move_out(collection.segment)
        self._set_seq_id(collection, checkpoint.seq_id)
        staging.rename(path)
        files.fsync_path(self._data_dir)
        if replaced.exists():
            shutil.rmtree(replaced)

    def _check_ids(self, collection: sqlite.Collection, checkpoint: Checkpoint, staging: Path) -> None:
        """Raises BackupError when a checkpoint with the log after it has not the records of the metadata segment."""
        with sqlite.connect(self._data_dir) as connection:
            claim = self._checkpoints.claim(connection, collection, checkpoint.seq_id, mend=False)
        verdict = soundness.examine([staging], self._tick, {staging: claim})[staging]
        if verdict.problem and not verdict.unread:
            raise BackupError(f"its checkpoint is of no use: {verdict.problem}")

    def _is_sound(self, collection: sqlite.Collection) -> bool:
        path = self._data_dir / collection.segment
        found = soundness.examine([path], self._tick)[path]
        # What could not be read may be as sound as before.
        return found.sound or found.unread

    def _log_rebuilds(self, collection: sqlite.Collection) -> bool:
        with sqlite.connect(self._data_dir) as connection:
            return log.rebuilds(connection, collection)

    def _leave_to_log(self, collection: sqlite.Collection) -> None:
        path = self._data_dir / collection.segment
        if path.exists():
            quarantine.move_rebuilt(path, self._quarantine_dir, self._tick)
        self._set_seq_id(collection, None)

    def _set_seq_id(self, collection: sqlite.Collection, seq_id: int | None) -> None:
        with sqlite.connect(self._data_dir) as connection:
            sqlite.set_seq_ids(connection, {collection.segment: seq_id})

    def _move_out(self, uuid: str) -> None:
        path = self._data_dir / uuid
        if path.exists():
            target = quarantine.move(path, self._quarantine_dir, "broken", self._tick)
            journal.warning("%s is moved to %s", path, target)


def _is_untouched(collection: sqlite.Collection, checkpoint: Checkpoint, live: segment.Stats) -> bool:
    return collection.persisted == checkpoint.seq_id and checkpoint.is_of(live)


def _is_mended(collection: sqlite.Collection, checkpoint: Checkpoint, live: segment.Stats) -> bool:
    return checkpoint.mended > 0 and _is_untouched(collection, checkpoint, live)
