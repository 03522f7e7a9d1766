"""What others see of the daemon over HTTP: it gathers figures, remembers them for a day, and gives them to the listener."""

import json
import sqlite3
import time
from collections.abc import Callable
from importlib.resources import files

from chromad.backup import ledger
from chromad.chroma import log as chroma_log
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.control.messages import LogReport, StatusReport
from chromad.errors import BackupError
from chromad.host import threads
from chromad.logs.lines import log
from chromad.monitoring.history import INTERVAL, History
from chromad.monitoring.metrics import Exporter, View
from chromad.monitoring.web import Answer, Listener

_FIRST = 5.0  # seconds
_NEWEST = 20_000  # rows
_POINTS = 180
_BACKUPS = 60
_SERIES = ("data", "checkpoints", "backups", "log", "records")


class Telemetry:
    """One listener and what it tells. config: the present one, replaced at a reload.

    report: gives what chromactl status shows. silent: seconds since the engine answered. limit: with more of
    them, it is not alive. disks: gives what `Guard.places` does, of a guard that looks at the disks.
    """

    def __init__(
        self,
        config: Config,
        report: Callable[[], StatusReport],
        silent: Callable[[], float],
        limit: float,
        disks: Callable[[], dict[str, dict[str, float]]],
    ) -> None:
        self.config = config
        self._limit = limit
        self._report = report
        self._disks = disks
        self._silent = silent
        self._started = time.time()
        self._history = History(_SERIES)
        self._database: dict[str, int] = {}
        self._exporter = Exporter(self._look)
        self._page = files("chromad.monitoring").joinpath("page.html").read_text(encoding="utf-8")
        # Not when clients have waited for the start, and ask their first questions.
        self._sampler = threads.Loop("telemetry", self._sample, first=_FIRST, again=_FIRST)
        self._listener = (
            Listener(
                config.metrics,
                {
                    "/": self._home,
                    "/api/status": self._status,
                    "/metrics": self._metrics,
                    "/healthz": self._alive,
                    "/readyz": self._ready,
                },
            )
            if config.metrics.port
            else None
        )

    def listen(self) -> None:
        """Answers from now on, unless that is switched off. Raises TryAgain when the address is taken."""
        if self._listener:
            self._listener.start()
            log.info("metrics and page on http://%s", self.config.metrics)

    def gather(self) -> None:
        """Begins to look at the database, which until now a start may have had for itself."""
        self._sampler.start()

    def rest(self) -> None:
        """Ends that, so that a stop has the database for itself."""
        self._sampler.stop()

    def close(self) -> None:
        """Answers no more."""
        if self._listener:
            self._listener.stop()

    @property
    def log_size(self) -> LogReport | None:
        """None before it was counted."""
        if not self._database:
            return None
        return LogReport(bytes=self._database["log_bytes"], rows=self._database["log_rows"])

    def full_in(self) -> float | None:
        """Seconds until the disk guard will have to refuse writes, at the growth of the last day."""
        limit = self.config.disk.fence_percent / 100
        found = [self._history.reaches(place, limit) for place in ("data", "checkpoints")]
        return min((each for each in found if each is not None), default=None)

    # Gathering

    def _sample(self) -> float:
        if sqlite.exists(self.config.data_dir) and sqlite.has_tables(self.config.data_dir):
            self._count()
        if self._database:
            disks = self._disks()
            used = {place: disks[place]["used_ratio"] if place in disks else 0.0 for place in _SERIES[:3]}
            sizes = {"log": self._database["log_bytes"], "records": self._report().records}
            self._history.add({**used, **sizes})
        # Soon again until there is something to tell.
        return INTERVAL if self._database else _FIRST

    def _count(self) -> None:
        with sqlite.connect(self.config.data_dir, busy_timeout=1.0) as connection:
            rows = chroma_log.count(connection)
            # All of a large log is not read each minute: its newest rows tell how large the others are.
            after = chroma_log.newest(connection) - _NEWEST
            newest = chroma_log.count(connection, after)
            size, _ = chroma_log.size_after(connection, after)
            pages, free, page = sqlite.pages(connection)
        self._database = {
            "log_bytes": size * rows // max(newest, 1),
            "log_rows": rows,
            "database_bytes": pages * page,
            "database_free_bytes": free * page,
        }

    def _look(self) -> View:
        config = self.config
        return View(
            self._report(),
            self._disks(),
            config.disk.warn_percent,
            config.disk.fence_percent,
            config.checkpoint.interval,
            self._database,
            self._silent(),
            self._started,
            sqlite3.sqlite_version,
            config.gateway.socket is not None,
        )

    # Answering

    def _home(self) -> Answer:
        return Answer(200, "text/html; charset=utf-8", self._page.encode())

    def _metrics(self) -> Answer:
        return Answer(200, "text/plain; version=0.0.4; charset=utf-8", self._exporter.render())

    def _status(self) -> Answer:
        config = self.config
        try:
            known = ledger.read(config.backup_dir)
        except BackupError:
            known = ledger.Ledger()
        status = self._report()
        told = status.document()
        shown = (
            "state",
            "since",
            "collections",
            "records",
            "fences",
            "quarantined",
            "recovered",
            "cold",
            "disk",
            "log",
            "threads",
            "unprotected",
            "gateway",
        )
        document = {
            **{key: told[key] for key in (*shown, "checkpoint", "backup", "events", "last_stop", "host", "port")},
            "versions": {"chromad": status.chromad_version, "engine": status.engine_version},
            "now": time.time(),
            "silent": round(self._silent(), 1),
            "disks": self._disks(),
            "thresholds": {"warn": config.disk.warn_percent / 100, "fence": config.disk.fence_percent / 100},
            "history": self._history.series(_POINTS),
            "taken": [
                {"created": each.created, "proven": each.proven, "added": each.added, "seconds": each.seconds}
                for each in known.taken[-_BACKUPS:]
            ],
            "drills": [{"ended": each.ended, "problem": each.problem} for each in known.drills[-_BACKUPS:]],
        }
        return Answer(200, "application/json", json.dumps(document, allow_nan=False).encode())

    def _alive(self) -> Answer:
        silent = self._silent()
        if silent > self._limit:
            return Answer.text(503, f"the engine has not answered a read for {silent:.0f} s")
        return Answer.text(200, "alive")

    def _ready(self) -> Answer:
        state = self._report().state
        if state != "serving":
            return Answer.text(503, state)
        return self._alive() if self._silent() > self._limit else Answer.text(200, "ready")
