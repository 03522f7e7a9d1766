"""The run cycle of the daemon: start, serve, reload, stop."""

import os
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from chromad import config as configuration
from chromad import versions
from chromad.backup import ledger
from chromad.checks import mounts, preflight, raise_failures
from chromad.chroma import additions, sqlite, wal
from chromad.config import Config
from chromad.control import Handler, Server
from chromad.control.messages import (
    BackupReport,
    CheckpointReport,
    DiskReport,
    EventReport,
    RecoveredReport,
    StatusReport,
)
from chromad.daemon import last_stop, warm
from chromad.daemon.checkpointer import Checkpointer
from chromad.daemon.fences import Fences
from chromad.daemon.guard import Guard
from chromad.daemon.probe import EngineProbe
from chromad.daemon.shutdown import Shutdown
from chromad.daemon.startup import Startup
from chromad.daemon.status import Status, serving
from chromad.daemon.verbs import Verbs
from chromad.engine.api import Api
from chromad.engine.process import Engine
from chromad.errors import (
    ChromadError,
    EngineError,
    TryAgain,
)
from chromad.gateway.answers import GatewayAnswers
from chromad.gateway.questions import Questions
from chromad.host import notify, signals, threads
from chromad.host.clock import Clock
from chromad.logs import events, lines
from chromad.logs.lines import log
from chromad.monitoring.telemetry import Telemetry
from chromad.store import fence, history, lock, state
from chromad.store.checkpoint import Store

# Seconds. A start that goes on asks systemd for EXTENSION more each time it shows progress.
EXTENSION = 60.0
GUARD_INTERVAL = 2.0
# With the disks full a cycle is asked for, to free the log, but not more often than this.
URGENT_INTERVAL = 60.0
REFRESH_INTERVAL = 30.0
# A client's reset makes the tables anew, with the engine's own settings.
KEEP_INTERVAL = 5.0
DEFAULT_WATCHDOG = 30.0


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
        self._probe: EngineProbe | None = None
        # Seconds of an engine's silence after which it counts as hung
        self._silence = (notify.watchdog_interval() or DEFAULT_WATCHDOG) / 2
        self._guard = Guard(config)
        self._telemetry = Telemetry(config, self._report, self._silent, self._silence, self._guard.places)
        self._engine: Engine | None = None
        self._fences = Fences(config.data_dir)
        self._gateway = GatewayAnswers(config.data_dir, lambda: self._status.state, lambda: self._fences.standing)

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then flushes. Raises ChromadError when it cannot start or go on."""
        config = self._config
        # First: what the directory below a volume is like does not matter. That of the backups keeps no start away.
        raise_failures([mounts.check(config, [config.data_dir, config.checkpoint_dir])])
        self._guard.make_room()
        raise_failures(preflight.directory(config))
        held = self._lock_directory()
        self._before = state.read(config.data_dir)
        last_stop.set_older_wal_aside(config, self._before)
        raise_failures(preflight.occupancy(config, self._engine_version))
        if not self._accept_empty:
            history.check(config, self._before, last_stop.backed_up(config))
        self._before = last_stop.without_false_mark(config.data_dir, self._before)
        self._data_id = self._before.data_id if self._before else history.lost_data_id(config) or state.new_data_id()
        self._checkpoints = Store(config.data_dir, config.checkpoint_dir, self._data_id)
        self._checkpointer = Checkpointer(config, self._checkpoints, self._data_id)
        self._engine = Engine(config, held.fd)
        control = Server(config.control_socket, self._verbs())
        with ExitStack() as at_the_end:
            control.start()
            at_the_end.callback(control.stop)
            if config.gateway.socket:
                questions = Questions(config.gateway.socket, self._gateway.answer)
                questions.start()
                at_the_end.callback(questions.stop)
            at_the_end.callback(self._telemetry.close)
            at_the_end.callback(self._engine.kill)
            self._telemetry.listen()
            self._start(self._engine)
            if not signals.stop:
                self._serve(self._engine)
            self._stop(self._engine)
        # Not after a failure: a thread may still write, so the lock goes with the process.
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
        self._status.last_stop = last_stop.tell(data_dir, self._before)
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
            RecoveredReport(collection=outcome.collection.name, action=outcome.action, reason=outcome.reason)
            for outcome in startup.outcomes
        ]

    # Serve

    def _serve(self, engine: Engine) -> None:
        self._probe = probe = EngineProbe(self._api, self._silence / 3)
        probe.start()
        self._fences.read()
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
        self._enter("serving", serving(self._status, self._config.listen, self._fences, self._guard), events.READY)
        notify.ready()
        refreshed = kept = time.monotonic()
        while not signals.stop:
            self._raise_if_unwell(engine, probe)
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
                notify.status(serving(self._status, self._config.listen, self._fences, self._guard))
            signals.wait(min(1.0, self._silence / 5))
        self._probe = None
        self._telemetry.rest()
        probe.stop()
        counts.stop()
        guard.stop()

    def _raise_if_unwell(self, engine: Engine, probe: EngineProbe) -> None:
        """Raises EngineError when the service cannot go on."""
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

    def _look_at_disks(self) -> float:
        if self._engine:
            self._engine.watch_disk()
        level = self._fences.keep(lambda: self._guard.look(self._checkpointer.needed))
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

    def _stop(self, engine: Engine) -> None:
        Shutdown(self._config, self._checkpoints, self._checkpointer, self._data_id, self._enter).run(engine)

    # For the control socket

    def _enter(self, name: str, text: str, event: events.Event | None = None) -> None:
        self._status.state = name
        notify.status(text)
        log.info("%s", text, extra=event.extra if event else None)

    def _verbs(self) -> dict[str, Handler]:
        return {
            "status": lambda _request, _progress: self._report().document(),
            "configuration": lambda _request, _progress: self._config.model_dump(mode="json"),
            **Verbs(
                self._config.data_dir, self._status, self._fences, self._checkpoints, self._checkpointer, self._engine
            ).handlers(),
        }

    def _silent(self) -> float:
        # Read once: the main thread takes it away when the service stops.
        probe = self._probe
        return probe.silent_for() if probe else 0.0

    def _report(self) -> StatusReport:
        # Each is replaced as a whole by another thread.
        config, status, fences = self._config, self._status, self._fences.standing
        kinds = (fence.OPERATOR, fence.DISK)
        return StatusReport(
            state=status.state,
            since=status.since,
            host=config.listen.host,
            port=config.listen.port,
            collections=status.collections,
            records=status.records,
            cold=status.cold,
            cold_ids=status.cold_ids,
            recovered=status.recovered,
            fences={kind: fences[kind] for kind in kinds if kind in fences},
            quarantined=sorted(fences.keys() - set(kinds)),
            disk=DiskReport(
                level=self._guard.level,
                text=self._guard.text,
                full_in=self._telemetry.full_in(),
                unreachable=self._guard.unreachable,
            ),
            log=self._telemetry.log_size,
            metrics=str(config.metrics) if config.metrics.port else None,
            checkpoint=CheckpointReport(newest=self._checkpoints.newest(), error=self._checkpointer.last_error),
            unprotected=self._checkpointer.unprotected,
            threads=threads.problems(),
            gateway=self._gateway.heard.report(),
            backup=BackupReport.model_validate(ledger.summary(config.backup_dir)),
            events=[EventReport.model_validate(each) for each in lines.recent()],
            last_stop=status.last_stop,
            data_dir=str(config.data_dir),
            pid=os.getpid(),
            engine_pid=self._engine.pid if self._engine else 0,
            clock_step=round(self._clock.step(), 1),
            environment=self._environment,
            chromad_version=versions.chromad(),
            engine_version=self._engine_version,
            supervised=notify.supervised(),
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
