"""The run cycle of the daemon: start, serve, reload, stop."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chromad import config as configuration
from chromad import versions
from chromad.backup import ledger
from chromad.checks import mounts, preflight, raise_failures
from chromad.chroma import additions, segment, sqlite, wal
from chromad.chroma import log as chroma_log
from chromad.config import Config
from chromad.control import Progress, Server
from chromad.daemon import overview, warm
from chromad.daemon.checkpointer import Checkpointer
from chromad.daemon.guard import Guard
from chromad.daemon.startup import Startup
from chromad.engine.api import Api
from chromad.engine.process import Engine
from chromad.errors import (
    BackupError,
    ChromadError,
    ConfigurationError,
    EngineError,
    NotFound,
    TablesMissing,
    TryAgain,
)
from chromad.host import files, notify, signals, threads
from chromad.host.clock import Clock
from chromad.logs import events, lines
from chromad.logs.lines import log
from chromad.monitoring.telemetry import Telemetry
from chromad.store import compact, fence, history, lock, state
from chromad.store.checkpoint import Store

# Seconds. A stop that goes on asks systemd for EXTENSION more each time it shows progress.
EXTENSION = 60.0
DRAIN_LIMIT = 60.0
GUARD_INTERVAL = 2.0
# With the disks full a cycle is asked for, to free the log, but not more often than this.
URGENT_INTERVAL = 60.0
REFRESH_INTERVAL = 30.0
# A client's reset makes the tables anew, with the engine's own settings.
KEEP_INTERVAL = 5.0
DEFAULT_WATCHDOG = 30.0


@dataclass
class Status:
    """What `chromactl status` shows; the main thread writes, the control socket reads."""

    state: str = "starting"
    since: str = ""
    last_stop: str = ""
    collections: int = 0
    records: int = 0
    cold: dict[str, str] = field(default_factory=dict)
    cold_ids: list[str] = field(default_factory=list)
    recovered: list[dict[str, str]] = field(default_factory=list)


class Daemon:
    """One run of chromad on one data directory."""

    def __init__(self, config: Config, path: Path, *, accept_empty: bool = False) -> None:
        """path: of the configuration. accept_empty: permission to serve a directory that is not the one that checkpoints and
        backups beside it belong to."""
        self._config = config
        self._path = path
        self._accept_empty = accept_empty
        self._api = Api(config.listen)
        self._engine_version = versions.engine()
        self._status = Status()
        self._clock = Clock()
        # Where a link may point elsewhere by and by.
        self._environment = str(Path(sys.prefix).resolve())
        self._probe: _Probe | None = None
        # Seconds of an engine's silence after which it counts as hung
        self._silence = (notify.watchdog_interval() or DEFAULT_WATCHDOG) / 2
        self._guard = Guard(config)
        self._telemetry = Telemetry(config, self._describe, self._silent, self._silence, self._guard.places)
        self._engine: Engine | None = None
        self._fences: dict[str, str] = {}
        # What one thread lifts, another one must not take for dropped by a reset, and put back.
        self._fencing = threading.Lock()

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then flushes. Raises ChromadError when it cannot start or go on."""
        config = self._config
        # First: what the directory below a volume is like does not matter. That of the backups keeps no start away.
        raise_failures([mounts.check(config, [config.data_dir, config.checkpoint_dir])])
        self._guard.make_room()
        raise_failures(preflight.directory(config))
        held = self._lock_directory()
        try:
            self._before = state.read(config.data_dir)
            _set_older_wal_aside(config, self._before)
            raise_failures(preflight.occupancy(config, self._engine_version))
            if not self._accept_empty:
                history.check(config, self._before, _backed_up(config))
            self._before = _without_false_mark(config.data_dir, self._before)
            self._data_id = (
                self._before.data_id if self._before else history.lost_data_id(config) or state.new_data_id()
            )
            self._checkpoints = Store(config.data_dir, config.checkpoint_dir, self._data_id)
            self._checkpointer = Checkpointer(config, self._checkpoints, self._data_id)
            self._engine = Engine(config, held.fd)
            control = Server(config.control_socket, self._verbs())
            control.start()
            try:
                self._telemetry.listen()
                self._start(self._engine)
                if not signals.stop:
                    self._serve(self._engine)
                self._shut_down(self._engine)
            finally:
                self._engine.kill()
                self._telemetry.close()
                control.stop()
        finally:
            held.release()

    def _lock_directory(self) -> lock.Lock:
        held = lock.directory_lock(self._config.data_dir)
        try:
            held.acquire()
        except TryAgain:
            if not lock.directory_holder_lives(self._config.data_dir):
                # An engine that outlives its daemon keeps the lock: name the one that is there.
                raise_failures([preflight.foreign(self._config)])
            raise
        return held

    # Start

    def _start(self, engine: Engine) -> None:
        data_dir = self._config.data_dir
        self._enter("starting", f"starting Chroma {self._engine_version} on {data_dir}")
        self._note_last_stop(self._before)
        self._checkpoints.prepare()
        wal.use(data_dir)
        additions.keep_log(data_dir, lambda: notify.extend_timeout(EXTENSION))
        startup = Startup(self._config, engine, self._checkpoints, self._enter)
        startup.recover(self._before)
        # Not before: a recovery that is cut short is to be done again, and by what was known of the last stop.
        history.accept(self._config.checkpoint_dir, self._data_id)
        state.write(data_dir, state.unclean(self._data_id, self._engine_version))
        startup.serve()
        self._checkpointer.kept = {each.collection.id for each in startup.outcomes if each.action != "quarantined"}
        self._status.cold = startup.cold
        # An engine that was stopped before it served has made no tables yet.
        found = sqlite.collections(data_dir, counted=False) if startup.cold else []
        self._status.cold_ids = [each.id for each in found if warm.qualified(each) in startup.cold]
        self._status.recovered = [
            {"collection": outcome.collection.name, "action": outcome.action, "reason": outcome.reason}
            for outcome in startup.outcomes
        ]

    def _note_last_stop(self, before: state.State | None) -> None:
        data_dir = self._config.data_dir
        if before is None:
            self._status.last_stop = "none"
            log.info("%s: first start of chromad on this directory", data_dir)
        elif before.clean:
            self._status.last_stop = "clean"
            log.info("%s: the last run stopped cleanly (Chroma %s)", data_dir, before.engine_version)
        else:
            self._status.last_stop = "unclean"
            same = before.boot_id and before.boot_id == state.boot_id()
            where = "in this boot" if same else "in another boot, as after a power cut"
            log.warning("%s: the last run did not stop cleanly, %s", data_dir, where, extra=events.UNCLEAN_STOP.extra)

    # Serve

    def _serve(self, engine: Engine) -> None:
        self._probe = probe = _Probe(self._api, self._silence / 3)
        probe.start()
        self._fences = fence.read(self._config.data_dir)
        guard = threads.Loop("disk guard", self._look_at_disks, first=GUARD_INTERVAL, again=GUARD_INTERVAL)
        counts = threads.Loop("counts", self._refresh_counts, first=REFRESH_INTERVAL, again=KEEP_INTERVAL)
        guard.once()
        guard.start()
        self._checkpointer.start()
        self._telemetry.gather()
        if self._status.recovered:
            self._checkpointer.want()
        counts.once()
        counts.start()
        self._status.since = _now()
        self._enter("serving", self._serving_text(), events.READY)
        notify.ready()
        refreshed = kept = time.monotonic()
        while not signals.stop:
            engine.raise_if_dead()
            threads.raise_if_dead()
            silent = probe.silent_for()
            if silent > self._silence:
                raise EngineError(
                    f"the engine has not answered a read for {silent:.0f} s; ending it",
                    "systemd restarts the service; look for what stopped it",
                )
            if self._checkpointer.broken:
                raise EngineError(
                    f"the engine has written {self._checkpointer.broken} so that it cannot be read again; ending it",
                    "systemd restarts the service, which puts the segment's checkpoint back",
                )
            notify.watchdog()
            if signals.reload:
                signals.reload = False
                self._apply_configuration()
            if self._config.engine.allow_reset and time.monotonic() - kept > KEEP_INTERVAL:
                kept = time.monotonic()
                try:
                    additions.keep_log(self._config.data_dir, serving=True)
                except ChromadError as error:
                    log.debug("in the middle of a client's reset: %s", error.message)
            if time.monotonic() - refreshed > REFRESH_INTERVAL:
                refreshed = time.monotonic()
                notify.status(self._serving_text())
            signals.wait(min(1.0, self._silence / 5))
        self._probe = None
        self._telemetry.rest()
        probe.stop()
        counts.stop()
        guard.stop()

    def _serving_text(self) -> str:
        status = self._status
        text = f"serving {status.collections} collections, {status.records} records on {self._config.listen}"
        if status.cold:
            text += f", {len(status.cold)} left cold"
        quarantined = len(self._fences.keys() - {fence.OPERATOR, fence.DISK})
        if quarantined:
            text += f", {quarantined} in quarantine"
        for kind in (fence.OPERATOR, fence.DISK):
            if kind in self._fences:
                text += f"; {self._fences[kind]}"
        if self._guard.level == "warn":
            text += f"; {self._guard.text}"
        for problem in self._guard.unreachable.values():
            text += f"; {problem}"
        return text

    def _look_at_disks(self) -> float:
        data_dir = self._config.data_dir
        with self._fencing:
            if self._fences.keys() - {fence.OPERATOR, fence.DISK}:
                fence.forget_deleted(data_dir)
            for kind in fence.restore(data_dir, self._fences):
                log.warning("the %s fence was dropped by a reset, and is back", kind)
            level = self._guard.look(self._checkpointer.needed)
            self._fences = fence.read(data_dir)
        if level == "fence":
            self._checkpointer.want(URGENT_INTERVAL)
        return GUARD_INTERVAL

    def _refresh_counts(self) -> float:
        found = sqlite.collections(self._config.data_dir)
        self._status.collections = len(found)
        self._status.records = sum(collection.records for collection in found)
        return REFRESH_INTERVAL

    def _apply_configuration(self) -> None:
        notify.reloading()
        try:
            new = configuration.load(self._path)
        except ChromadError as error:
            log.error("reload: nothing changed: %s", error.message)
        else:
            changed = configuration.differences(self._config, new)
            runtime = [key for key in changed if configuration.is_runtime(key)]
            restart = [key for key in changed if not configuration.is_runtime(key)]
            lines.set_level(new.log_level)
            taken_over = {key: getattr(new, key) for key in ("log_level", "backup", "checkpoint", "disk")}
            self._config = self._config.model_copy(update=taken_over)
            self._checkpointer.config = self._guard.config = self._telemetry.config = self._config
            log.info("reload: %s", f"applied {', '.join(runtime)}" if runtime else "no runtime key changed")
            if restart:
                log.warning("reload: needs a restart: %s", ", ".join(restart))
        notify.ready()

    # Stop

    def _shut_down(self, engine: Engine) -> None:
        notify.stopping()
        self._enter("stopping", "stopping: requests in flight finish")
        self._checkpointer.stop()
        if engine.stop(DRAIN_LIMIT, self._tick_stopping):
            ended_well = engine.ended_well
        else:
            ended_well = self._end_between_writes(engine)
        data_dir = self._config.data_dir
        if sqlite.exists(data_dir):
            self._enter("stopping", "stopping: flushing to disk")
            self._flush(data_dir)
        if not ended_well:
            raise EngineError(
                f"{engine.exit_reason()}; this stop does not count as clean", "what was acknowledged is in the log"
            )
        torn = self._last_checkpoints() if sqlite.exists(data_dir) and sqlite.has_tables(data_dir) else []
        lost = [each.segment for each in torn if not self._is_covered(each)]
        if lost:
            raise EngineError(
                f"segments are not whole: {', '.join(lost)}; this stop does not count as clean",
                "neither checkpoint nor log can bring them back: chromactl repair",
            )
        for each in torn:
            log.warning("collection %s: its segment is not whole; the next start makes it anew", each.name)
        state.write(data_dir, state.clean(self._data_id, self._engine_version, self._mark({each.id for each in torn})))
        log.info("stopped cleanly", extra=events.CLEAN_STOP.extra)
        notify.status("stopped cleanly")

    def _mark(self, torn: set[str]) -> state.Mark:
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
        with segment.hold_still(self._config.data_dir, self._tick_stopping) as still:
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
                self._tick_stopping()
        for path in sqlite.files(data_dir):
            files.fsync_path(path)
            self._tick_stopping()
        files.fsync_path(data_dir)
        log.info("flushed %d segment files and the database in %.2f s", count, time.monotonic() - started)

    def _last_checkpoints(self) -> list[sqlite.Collection]:
        """Takes the checkpoints that are due; gives the collections whose segment is not whole."""
        data_dir = self._config.data_dir
        self._enter("stopping", "stopping: taking checkpoints")
        try:
            self._checkpointer.cycle(lambda _phase, _done, _total: self._tick_stopping(), live=False)
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

    def _tick_stopping(self) -> None:
        notify.extend_timeout(EXTENSION)

    # For the control socket

    def _enter(self, name: str, text: str, event: events.Event | None = None) -> None:
        self._status.state = name
        notify.status(text)
        log.info("%s", text, extra=event.extra if event else None)

    def _verbs(self) -> dict[str, Callable[[dict[str, Any], Progress], dict[str, Any]]]:
        return {
            "status": lambda _request, _progress: self._describe(),
            "configuration": lambda _request, _progress: self._config.model_dump(mode="json"),
            "collections": self._list_collections,
            "checkpoint": self._take_checkpoints,
            "compact": self._compact,
            "fence": self._put_fence,
            "unfence": self._lift_fence,
        }

    def _list_collections(self, _request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        self._need_serving()
        return overview.describe(self._config.data_dir, self._checkpoints)

    def _take_checkpoints(self, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        self._need_serving()
        damaged = request.get("damaged", [])
        if not isinstance(damaged, list) or not all(isinstance(each, str) for each in damaged):
            raise ConfigurationError("damaged is not a list of segments", "chromactl checkpoint")
        return asdict(self._checkpointer.cycle(progress, damaged=damaged))

    def _compact(self, _request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        self._need_serving()
        purged = self._checkpointer.cycle(progress).purged
        before, after = compact.run(self._config.data_dir, progress)
        return {"before": before, "after": after, "purged": purged}

    def _put_fence(self, request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        reason = request.get("reason")
        if not isinstance(reason, str):
            raise ConfigurationError("a fence needs a reason", "chromactl fence --reason TEXT")
        self._need_serving()
        with self._fencing:
            fence.put(self._config.data_dir, fence.OPERATOR, reason)
            self._fences = fence.read(self._config.data_dir)
        log.warning("writes are fenced by the operator: %s", reason, extra=events.FENCED.extra)
        return {"fences": self._fences}

    def _lift_fence(self, _request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        self._need_serving()
        with self._fencing:
            if fence.lift(self._config.data_dir, fence.OPERATOR):
                log.info("the operator has lifted the fence", extra=events.UNFENCED.extra)
            self._fences = fence.read(self._config.data_dir)
        return {"fences": self._fences}

    def _silent(self) -> float:
        # Read once: the main thread takes it away when the service stops.
        probe = self._probe
        return probe.silent_for() if probe else 0.0

    def _need_serving(self) -> None:
        if self._status.state != "serving":
            raise TryAgain(f"the service is {self._status.state}", "wait until chromactl status says serving")

    def _describe(self) -> dict[str, Any]:
        # Each is replaced as a whole by another thread.
        config, status, fences = self._config, self._status, self._fences
        return {
            "state": status.state,
            "since": status.since,
            "host": config.listen.host,
            "port": config.listen.port,
            "collections": status.collections,
            "records": status.records,
            "cold": status.cold,
            "cold_ids": status.cold_ids,
            "recovered": status.recovered,
            "fences": {kind: fences[kind] for kind in (fence.OPERATOR, fence.DISK) if kind in fences},
            "quarantined": sorted(fences.keys() - {fence.OPERATOR, fence.DISK}),
            "disk": {
                "level": self._guard.level,
                "text": self._guard.text,
                "full_in": self._telemetry.full_in(),
                "unreachable": self._guard.unreachable,
            },
            "log": self._telemetry.log_size,
            "metrics": str(config.metrics) if config.metrics.port else None,
            "checkpoint": {"newest": self._checkpoints.newest(), "error": self._checkpointer.last_error},
            "unprotected": self._checkpointer.unprotected,
            "threads": threads.problems(),
            "backup": ledger.summary(config.backup_dir),
            "events": lines.recent(),
            "last_stop": status.last_stop,
            "data_dir": str(config.data_dir),
            "pid": os.getpid(),
            "engine_pid": self._engine.pid if self._engine else 0,
            "clock_step": round(self._clock.step(), 1),
            "environment": self._environment,
            "chromad_version": versions.chromad(),
            "engine_version": self._engine_version,
            "supervised": notify.supervised(),
        }


def _backed_up(config: Config) -> str:
    """The history that the last backup was of; empty when there was none, or nobody can tell."""
    try:
        return ledger.read(config.backup_dir).data_id
    except (BackupError, OSError):
        return ""


def _set_older_wal_aside(config: Config, before: state.State | None) -> None:
    """A clean stop has emptied the WAL. One that lies beside the very database that the stop left was written by somebody else
    since, or is of an earlier time: SQLite would put its pages over newer ones, as it does not know which file a WAL is of."""
    if before is None or not before.clean or before.mark is None or not wal.holds_something(config.data_dir):
        return
    if before.mark.database == segment.database_stats(config.data_dir) and wal.goes_back(config.data_dir):
        aside = wal.set_aside(config.data_dir)
        log.error("the WAL beside %s is older than it, and is renamed to %s", config.data_dir / sqlite.FILE, aside)


def _without_false_mark(data_dir: Path, before: state.State | None) -> state.State | None:
    """The state as it can be believed: another database than the one that the mark is of says nothing of any segment."""
    if before is None or before.mark is None or before.mark.database == segment.database_stats(data_dir):
        return before
    log.warning("%s is not the one that the last stop left; no segment is trusted unread", sqlite.FILE)
    return replace(before, mark=None)


class _Probe(threads.Loop):
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
