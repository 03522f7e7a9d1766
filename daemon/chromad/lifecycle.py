"""The run cycle of the daemon: start, serve, reload, stop."""

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chromad import config as configuration
from chromad import notify, output, signals, versions, warm
from chromad.api import Api
from chromad.checks import preflight, raise_failures
from chromad.config import Config
from chromad.control import Server
from chromad.engine import Engine
from chromad.errors import ChromadError, EngineError, TryAgain
from chromad.output import log
from chromad.store import lock, segment, sqlite, state

# Seconds. A step that goes on asks systemd for EXTENSION more each time it shows progress.
EXTENSION = 60.0
START_LIMIT = 600.0
DRAIN_LIMIT = 60.0
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


class Daemon:
    """One run of chromad on one data directory."""

    def __init__(self, config: Config, path: Path) -> None:
        self._config = config
        self._path = path
        self._api = Api(config.listen)
        self._engine_version = versions.engine()
        self._status = Status()
        self._engine: Engine | None = None

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then flushes. Raises ChromadError when it cannot start or go on."""
        config = self._config
        raise_failures(preflight.directory(config))
        held = self._lock_directory()
        try:
            raise_failures(preflight.occupancy(config, self._engine_version))
            self._engine = Engine(config, held.fd)
            control = Server(config.control_socket, {"status": self._describe})
            control.start()
            try:
                self._start(self._engine)
                if not signals.stop:
                    self._serve(self._engine)
                self._shut_down(self._engine)
            finally:
                self._engine.kill()
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
                raise_failures([preflight.foreign(self._config.data_dir)])
            raise
        return held

    # Start

    def _start(self, engine: Engine) -> None:
        data_dir = self._config.data_dir
        self._enter("starting", f"starting Chroma {self._engine_version} on {data_dir}")
        self._note_last_stop(state.read(data_dir))
        state.write(data_dir, state.new(self._engine_version, clean=False))
        sqlite.use_wal(data_dir)
        sqlite.keep_log(data_dir)
        engine.start()
        self._await_engine(engine)
        if signals.stop:
            return
        sqlite.check_schema(data_dir)
        sqlite.keep_log(data_dir)
        self._warm(engine)

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
            log.warning("%s: the last run did not stop cleanly, %s", data_dir, where)

    def _await_engine(self, engine: Engine) -> None:
        deadline = time.monotonic() + START_LIMIT
        while not signals.stop:
            engine.raise_if_dead()
            try:
                self._api.heartbeat()
            except (OSError, EngineError):
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"the engine did not answer within {START_LIMIT:.0f} s of its start", "see its lines above"
                    ) from None
                notify.extend_timeout(EXTENSION)
                signals.wait(0.005)
            else:
                return

    def _warm(self, engine: Engine) -> None:
        plan = warm.plan(self._config, sqlite.collections(self._config.data_dir))
        cold = dict(plan.cold)
        if plan.warm:
            total = len(plan.warm)
            self._enter("warming", f"warming {total} collections")
            done = 0

            def work() -> None:
                nonlocal done
                for progress in warm.run(self._api, plan.warm, self._config.warm.timeout, lambda: signals.stop):
                    done = progress.done
                    cold.update(progress.cold)

            worker = threading.Thread(target=work, daemon=True)
            worker.start()
            while worker.is_alive() and not signals.stop:
                engine.raise_if_dead()
                notify.extend_timeout(EXTENSION)
                if done < total:
                    notify.status(f"warming {done + 1}/{total}: {warm.qualified(plan.warm[done])}")
                worker.join(0.02)
            engine.raise_if_dead()
        if cold:
            log.warning("left cold: %s", "; ".join(f"{name} ({why})" for name, why in cold.items()))
        self._status.cold = cold

    # Serve

    def _serve(self, engine: Engine) -> None:
        watchdog = notify.watchdog_interval() or DEFAULT_WATCHDOG
        probe = _Probe(self._api, watchdog / 6)
        probe.start()
        self._refresh_counts()
        self._status.since = _now()
        self._enter("serving", self._serving_text())
        notify.ready()
        refreshed = kept = time.monotonic()
        while not signals.stop:
            engine.raise_if_dead()
            silent = probe.silent_for()
            if silent > watchdog / 2:
                raise EngineError(
                    f"the engine has not answered a read for {silent:.0f} s; ending it",
                    "systemd restarts the service; look for what stopped it",
                )
            notify.watchdog()
            if signals.reload:
                signals.reload = False
                self._apply_configuration()
            if self._config.engine.allow_reset and time.monotonic() - kept > KEEP_INTERVAL:
                kept = time.monotonic()
                sqlite.keep_log(self._config.data_dir)
            if time.monotonic() - refreshed > REFRESH_INTERVAL:
                refreshed = time.monotonic()
                self._refresh_counts()
                notify.status(self._serving_text())
            signals.wait(min(1.0, watchdog / 10))
        probe.stop()

    def _serving_text(self) -> str:
        cold = f", {len(self._status.cold)} left cold" if self._status.cold else ""
        return f"serving {self._status.collections} collections, {self._status.records} records on {self._config.listen}{cold}"

    def _refresh_counts(self) -> None:
        try:
            found = sqlite.collections(self._config.data_dir)
        except ChromadError as error:
            log.debug("counting records: %s", error)
            return
        self._status.collections = len(found)
        self._status.records = sum(collection.records for collection in found)

    def _apply_configuration(self) -> None:
        notify.reloading()
        try:
            new = configuration.load(self._path)
        except ChromadError as error:
            log.error("reload: nothing changed: %s", error.message)
        else:
            changed = configuration.differences(self._config, new)
            runtime = [key for key in changed if key in configuration.RUNTIME_KEYS]
            restart = [key for key in changed if key not in configuration.RUNTIME_KEYS]
            output.set_level(new.log_level)
            self._config = self._config.model_copy(update={"log_level": new.log_level, "backup": new.backup})
            log.info("reload: %s", f"applied {', '.join(runtime)}" if runtime else "no runtime key changed")
            if restart:
                log.warning("reload: needs a restart: %s", ", ".join(restart))
        notify.ready()

    # Stop

    def _shut_down(self, engine: Engine) -> None:
        notify.stopping()
        self._enter("stopping", "stopping: requests in flight finish")
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
        state.write(data_dir, state.new(self._engine_version, clean=True))
        log.info("stopped cleanly")
        notify.status("stopped cleanly")

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
        if not sqlite.truncate_wal(data_dir):
            log.warning("another connection keeps SQLite's WAL from being emptied; it is fsynced as it is")
        count = 0
        for directory in segment.directories(data_dir):
            for _ in segment.sync(directory):
                count += 1
                self._tick_stopping()
        for path in sqlite.files(data_dir):
            state.fsync_path(path)
            self._tick_stopping()
        state.fsync_path(data_dir)
        log.info("flushed %d segment files and the database in %.2f s", count, time.monotonic() - started)

    def _tick_stopping(self) -> None:
        notify.extend_timeout(EXTENSION)

    # For the control socket

    def _enter(self, name: str, text: str) -> None:
        self._status.state = name
        notify.status(text)
        log.info("%s", text)

    def _describe(self) -> dict[str, Any]:
        config, status = self._config, self._status
        return {
            "state": status.state,
            "since": status.since,
            "host": config.listen.host,
            "port": config.listen.port,
            "collections": status.collections,
            "records": status.records,
            "cold": status.cold,
            "last_stop": status.last_stop,
            "data_dir": str(config.data_dir),
            "pid": os.getpid(),
            "engine_pid": self._engine.pid if self._engine else 0,
            "chromad_version": versions.chromad(),
            "engine_version": self._engine_version,
            "supervised": notify.supervised(),
        }


class _Probe(threading.Thread):
    """Reads from the engine all the time, and knows when it answered last."""

    def __init__(self, api: Api, interval: float) -> None:
        super().__init__(daemon=True)
        self._api = api
        self._interval = interval
        self._ended = threading.Event()
        self._answered = time.monotonic()

    def silent_for(self) -> float:
        """Seconds since the last answer."""
        return time.monotonic() - self._answered

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        pause = self._interval
        while not self._ended.wait(pause):
            try:
                self._api.read_probe(timeout=self._interval)
            except (OSError, EngineError) as error:
                first = pause == self._interval
                log.log(logging.WARNING if first else logging.DEBUG, "the engine did not answer a read: %s", error)
                # Soon again: time is running out, and during a client's reset there are no tables for a moment.
                pause = min(0.1, self._interval / 2)
            else:
                self._answered = time.monotonic()
                pause = self._interval


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
