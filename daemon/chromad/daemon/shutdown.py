"""The stop: requests in flight finish, everything is on disk, the last checkpoints are taken, and the clean mark says so."""

import time
from collections.abc import Callable
from pathlib import Path

from chromad import versions
from chromad.chroma import log as chroma_log
from chromad.chroma import segment, sqlite, wal
from chromad.config import Config
from chromad.daemon.checkpointer import Checkpointer
from chromad.engine.process import Engine
from chromad.errors import (
    EngineError,
)
from chromad.host import files, notify, threads
from chromad.logs import events
from chromad.logs.lines import log
from chromad.store import state
from chromad.store.checkpoint import Store

# Seconds. A stop that goes on asks systemd for EXTENSION more each time it shows progress.
EXTENSION = 60.0
DRAIN_LIMIT = 60.0


class Shutdown:
    """One stop. data_id: for the clean mark. enter: says where the stop is."""

    def __init__(
        self,
        config: Config,
        checkpoints: Store,
        checkpointer: Checkpointer,
        data_id: str,
        enter: Callable[[str, str], None],
    ) -> None:
        self._config = config
        self._checkpointer = checkpointer
        self._checkpoints = checkpoints
        self._data_id = data_id
        self._enter = enter

    def run(self, engine: Engine) -> None:
        """Drains and ends the engine, puts all on disk, takes the last checkpoints and leaves the clean mark. Raises EngineError for
        a stop that does not count as clean."""
        notify.stopping()
        self._enter("stopping", "stopping: requests in flight finish")
        self._checkpointer.stop()
        ended_well = engine.ended_well if engine.stop(DRAIN_LIMIT, _tick) else self._end_between_writes(engine)
        data_dir = self._config.data_dir
        if sqlite.exists(data_dir):
            self._enter("stopping", "stopping: flushing to disk")
            self._flush(data_dir)
        if not ended_well:
            raise EngineError(
                f"{engine.exit_reason()}; this stop does not count as clean", "what was acknowledged is in the log"
            )
        torn = self.last_checkpoints() if sqlite.exists(data_dir) and sqlite.has_tables(data_dir) else []
        lost = [each.segment for each in torn if not self._is_covered(each)]
        if lost:
            raise EngineError(
                f"segments are not whole: {', '.join(lost)}; this stop does not count as clean",
                "neither checkpoint nor log can bring them back: chromactl repair",
            )
        for each in torn:
            log.warning("collection %s: its segment is not whole; the next start makes it anew", each.name)
        state.write(data_dir, state.clean(self._data_id, versions.engine(), self.mark({each.id for each in torn})))
        log.info("stopped cleanly", extra=events.CLEAN_STOP.extra)
        notify.status("stopped cleanly")

    def mark(self, torn: set[str]) -> state.CleanMark:
        """What this stop leaves, without the segments that are not whole, or that nobody could look at. torn: of collections."""
        data_dir = self._config.data_dir
        doubtful = torn | self._checkpoints.left.keys()
        found = (
            sqlite.collections(data_dir, counted=False)
            if sqlite.exists(data_dir) and sqlite.has_tables(data_dir)
            else []
        )
        left_out = {each.segment for each in found if each.id in doubtful or not self._was_looked_at(each)}
        return state.mark(data_dir, left_out)

    def _was_looked_at(self, collection: sqlite.Collection) -> bool:
        live = segment.stats(self._config.data_dir / collection.segment)
        checkpoint = self._checkpoints.latest(collection.segment)
        return segment.PICKLE not in live or (checkpoint is not None and checkpoint.is_of(live))

    def _end_between_writes(self, engine: Engine) -> bool:
        """Kills an engine whose clients do not let it go, at a moment when it writes nothing; False if there was none."""
        log.warning(
            "requests are still in flight %.0f s after SIGTERM; ending the engine between two writes", DRAIN_LIMIT
        )
        with segment.hold_still(self._config.data_dir, _tick) as still:
            engine.kill()
        return still

    def _flush(self, data_dir: Path) -> None:
        started = time.monotonic()
        if not wal.truncate(data_dir):
            log.warning("another connection keeps SQLite's WAL from being emptied; it is fsynced as it is")
        count = 0
        for directory in segment.directories(data_dir):
            for _ in segment.sync(directory):
                count += 1
                _tick()
        for path in sqlite.files(data_dir):
            files.fsync_path(path)
            _tick()
        files.fsync_path(data_dir)
        log.info("flushed %d segment files and the database in %.2f s", count, time.monotonic() - started)

    def last_checkpoints(self) -> list[sqlite.Collection]:
        """Takes the checkpoints that are due; gives the collections whose segment is not whole."""
        data_dir = self._config.data_dir
        self._enter("stopping", "stopping: taking checkpoints")
        try:
            self._checkpointer.cycle(lambda _phase, _done, _total: _tick(), live=False)
        except Exception as error:
            # Whatever it was, what is not whole is found below, and by the next start.
            log.error("checkpoint: %s", threads.describe(error))
        torn = []
        for collection in sqlite.collections(data_dir, counted=False):
            path = data_dir / collection.segment
            live = segment.stats(path)
            checkpoint = self._checkpoints.latest(collection.segment)
            if segment.PICKLE not in live or (checkpoint and checkpoint.is_of(live)):
                continue
            if collection.id in self._checkpoints.unsound or segment.is_torn(path, live):
                torn.append(collection)
        return torn

    def _is_covered(self, collection: sqlite.Collection) -> bool:
        """Whether the next start can do without a collection's segment as it is."""
        if self._checkpoints.latest(collection.segment):
            return True
        with sqlite.connect(self._config.data_dir) as connection:
            return chroma_log.rebuilds(connection, collection)


def _tick() -> None:
    notify.extend_timeout(EXTENSION)
