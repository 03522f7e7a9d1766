"""The engine: Chroma's server as a child process."""

import json
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import IO

from chromad.chroma import additions, sqlite
from chromad.config import Config
from chromad.engine import apart, events, room, sandbox, texts
from chromad.engine.api import Api
from chromad.engine.events import Event
from chromad.engine.witness import Witness
from chromad.errors import ChromadError, EngineError, PermissionProblem, one_line
from chromad.host import signals, threads
from chromad.logs.lines import log

# Seconds for which one transaction has kept all others out: without writing anything, and in all; and between two looks
_KEPT_OUT, _GROWS, _LOOK = 30.0, 300.0, 0.2
_LEVELS = {"WARN": logging.WARNING, "ERROR": logging.ERROR, "INFO": logging.INFO}
_START_LIMIT = 600.0  # seconds
_HEARD = 5.0  # seconds for the last words of an engine, after which the disk may be looked at
_RUST_LOG = {"debug": "info", "info": "warn", "warning": "warn", "error": "error"}


class Engine:
    """Starts, watches and stops one engine process.

    scratch: it serves nobody but us, who ask it for what may not be there: a refusal is no more than an answer.
    """

    def __init__(self, config: Config, lock_fd: int, *, scratch: bool = False) -> None:
        self._config = config
        self.lock_fd = lock_fd
        self._scratch = scratch
        self._door: apart.Door | None = None
        self._ending = False
        self._process: subprocess.Popen[str] | sandbox.SandboxedProcess | None = None
        self._pumps: list[threads.Task] = []
        # What it was found with, for which it was ended by us
        self.ended_for = ""
        self._witness = Witness(config.data_dir)
        # Failed requests since somebody has looked, and who does
        self._turn = threading.Lock()
        self._doubts: set[texts.FailedWrite] = set()
        self._watch: threads.Task | None = None
        # For so many of ours
        self._waiting = 0

    def start(self) -> None:
        """Starts the process; it does not answer yet. Raises PermissionProblem for root, who has to permit that."""
        if os.geteuid() == 0 and not self._config.allow_root:
            raise PermissionProblem(
                "the engine does not run as root", "give the data to the service's user, or set allow_root: true"
            )
        try:
            additions.inform_planner(self._config.data_dir)
        except ChromadError as error:
            # The engine has its own words for a database that it cannot open.
            log.debug("SQLite's planner is not told what makes filters fast: %s", error.message)
        self.ended_for, self._ending = "", False
        self._process, log_of_engine = self._start()
        assert self._process.stderr
        # One that serves nobody acknowledges nothing, and what it says comes line by line.
        listen = _ignore if self._scratch else self._listen
        pump = partial(_pump_traces, log_of_engine, listen, self._ends_unheard, scratch=self._scratch)
        # An engine whose output nobody reads comes to a stop.
        self._pumps = [
            threads.Task("engine output", pump, again=1.0),
            threads.Task("engine errors", partial(_pump_errors, self._process.stderr, self._ends_unheard), again=1.0),
        ]
        for task in self._pumps:
            task.start()

    def _start(self) -> "tuple[subprocess.Popen[str] | sandbox.SandboxedProcess, Iterable[Event]]":
        """Gives the process, and what comes on its standard output."""
        # Chroma reads CHROMA_* over its configuration file, so it gets none of ours.
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "RUST_LOG": f"{_RUST_LOG[self._config.log_level]},{texts.REQUESTS}",
            "NO_COLOR": "1",
        }
        with ExitStack() as stack:
            settings = os.memfd_create("engine.yml")
            stack.callback(os.close, settings)
            os.write(settings, json.dumps(self._settings()).encode())
            if self._scratch:
                self._door = apart.Door()
                stack.callback(os.close, self._door.theirs)
            door = self._door.theirs if self._door else None
            # The directory stays locked as long as the engine lives.
            descriptors = tuple(each for each in (settings, self.lock_fd, door) if each is not None)
            if self._scratch and sandbox.wanted():
                sandboxed = sandbox.SandboxedProcess(environment, descriptors)
                return sandboxed, ((line, True) for line in sandboxed.stdout)
            reading, writing = events.pipe()
            stack.callback(os.close, writing)
            try:
                process = subprocess.Popen(
                    room.command(settings, door),
                    stdin=subprocess.DEVNULL,
                    stdout=writing,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    env=environment,
                    pass_fds=descriptors,
                    # Ctrl-C in a terminal reaches the daemon alone.
                    start_new_session=True,
                )
            except BaseException:
                os.close(reading)
                raise
            return process, events.Events(reading)

    def connect(self, timeout: float) -> socket.socket:
        """Return a connection to a scratch engine. timeout: seconds for each of its steps. Raises OSError."""
        assert self._door
        return self._door.connect(self._config.listen.port, timeout)

    @property
    def is_apart(self) -> bool:
        """Whether nobody else on the host reaches it, as far as that was seen: with the first connection."""
        return self._door is not None and self._door.is_apart

    @property
    def pid(self) -> int:
        """The process's id, 0 before it was started."""
        return self._process.pid if self._process else 0

    def exit_reason(self) -> str | None:
        """How the process ended, None while it runs."""
        code = self._process.poll() if self._process else None
        if code is None:
            return None
        if self._lost:
            return "the sandbox of the engine, a unit of systemd's, did not start, or was ended"
        if self.ended_for:
            return f"the engine found {self.ended_for} in the middle of a transaction, and was ended"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else "real-time"
            return f"the engine was ended by signal {-code} ({name})"
        return f"the engine exited with status {code}"

    @property
    def ended_well(self) -> bool:
        """Whether the process has ended by itself on request. SIGTERM ends it at once only before it serves anything."""
        return self._process is None or self._process.returncode in (0, -signal.SIGTERM)

    def raise_if_dead(self) -> None:
        """Raises EngineError when the process has ended."""
        reason = self.exit_reason()
        if reason and self._lost:
            raise EngineError(reason, "what systemd-run has to say is above; see journalctl -n 50, then try again")
        if reason:
            raise EngineError(reason, "its last words, if any, are above")

    def wait_until_it_answers(self, api: Api, tick: Callable[[], None], stopping: Callable[[], bool]) -> None:
        """Returns when the process that was started answers, or when `stopping` says so; calls `tick` meanwhile.

        Raises EngineError when it ends or does not answer in time.
        """
        deadline = time.monotonic() + _START_LIMIT
        while not stopping():
            self.raise_if_dead()
            try:
                api.heartbeat()
            except (OSError, EngineError):
                self._raise_if_unreachable()
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"the engine did not answer within {_START_LIMIT:.0f} s of its start", "see its lines above"
                    ) from None
                tick()
                signals.wait(0.005)
            else:
                return

    def _raise_if_unreachable(self) -> None:
        """Nobody reaches an engine whose process at the door has ended; that ends with the engine as well."""
        if not self._door or not self._door.is_gone or self._process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_HEARD)
        self.raise_if_dead()
        raise EngineError(
            "the process that leads to the engine was ended", "free memory, if that is what was short; then try again"
        )

    def stop(self, limit: float, tick: Callable[[], None]) -> bool:
        """Lets requests in flight finish and the process end; calls `tick` a few times a second meanwhile.

        limit: seconds. False when the process still runs then.
        """
        if self._process is None:
            return True
        self._ending = True
        if self._process.poll() is None:
            self._process.terminate()
        deadline = time.monotonic() + limit
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                return False
            try:
                self._process.wait(0.2)
            except subprocess.TimeoutExpired:
                tick()
        self._join()
        return True

    def kill(self) -> None:
        """Ends the process at once, and hears what it had said. The log in SQLite is durable, its vector files may be torn."""
        self._ending = True
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._join()

    @property
    def _lost(self) -> bool:
        return isinstance(self._process, sandbox.SandboxedProcess) and self._process.lost

    def _ends_unheard(self) -> bool:
        """Whether what it says is nobody's concern: it is our own, and is being ended, or we are and have left its answers."""
        return self._scratch and (self._ending or signals.has_come())

    def _listen(self, event: Event) -> None:
        """Ends an engine that may not keep what it acknowledges from now on.

        SQLite undoes a transaction that finds no room, no memory, or a disk that fails. The engine's pool of connections does
        not know of that: it may keep a later one open for good, and put into it what it acknowledges. Where the engine does not
        say why a write failed, or a client may have had it say so, the disk is looked at, and whether writers are kept out.
        """
        text, genuine = event
        failed = texts.failed_write(text)
        if failed is None:
            return
        if genuine and failed in texts.UNDOING.values():
            self._end(failed.value)
            return
        # By another thread: a slow disk takes its time, and the engine waits for whoever does not read its log.
        with self._turn:
            self._doubts.add(failed)
            if self._watch is None or not self._watch.is_alive():
                watch = threads.Task("watch of a doubtful engine", self._look_into_doubts)
                watch.start()
                self._watch = watch

    def _look_into_doubts(self) -> None:
        """Until there are none any more, and writers are not kept out."""
        try:
            self._look_at_disk()
            with sqlite.progress(self._config.data_dir) as progress:
                transaction = _Transaction(progress)
                while True:
                    kept_out = self._runs() and not self._waiting and sqlite.is_write_locked(self._config.data_dir)
                    if not kept_out:
                        transaction = _Transaction(progress)
                    elif transaction.stays():
                        self._end("a transaction that it kept open")
                    if self._is_over(kept_out):
                        return
                    self._look_at_disk()
        except Exception:
            while not self._is_over(kept_out=False):
                self._look_at_disk()
            raise

    def _is_over(self, kept_out: bool) -> bool:
        """Whether nothing has failed for a moment; then whatever fails next is looked into by another thread. A client may have it
        fail again and again, and each look puts files on disk."""
        time.sleep(_LOOK)
        with self._turn:
            over = not (kept_out or self._doubts)
            if over:
                self._watch = None
        return over

    def _look_at_disk(self) -> None:
        with self._turn:
            doubts = set(self._doubts)
            self._doubts.clear()
        trouble = self._witness.trouble() if doubts else ""
        # Whoever only reads on a full disk is to be served as long as that lasts.
        if trouble and (doubts, trouble) != ({texts.FailedWrite.READ}, texts.FailedWrite.FULL.value):
            self._end(trouble)

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self, found: str) -> None:
        process = self._process
        # Also where it was ended by us before all was heard that it had said.
        if process and (process.poll() is None or self._ending):
            self.ended_for = found
            process.kill()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Somebody of ours writes to the database for long, and the engine has to wait: that is no reason to end it."""
        with self._turn:
            self._waiting += 1
        try:
            yield
        finally:
            with self._turn:
                self._waiting -= 1

    def watch_disk(self) -> None:
        """Sees failures of the disk from here on. To be called when the engine has its database open, and again and again: it may
        close it, and then has another WAL."""
        self._witness.begin()

    def _join(self) -> None:
        for thread in self._pumps:
            if thread.is_alive():
                thread.join(_HEARD)
        # Begun by the others
        if watch := self._watch:
            watch.join(_HEARD)
        if self._door:
            self._door.close()

    def _settings(self) -> dict[str, object]:
        config = self._config
        host = config.listen.host
        return {
            "persist_path": str(config.data_dir),
            "listen_address": f"[{host}]" if ":" in host else host,
            "port": config.listen.port,
            "max_payload_size_bytes": config.engine.max_payload_size,
            "cors_allow_origins": config.engine.cors_allow_origins,
            "allow_reset": config.engine.allow_reset,
            "stdout_tracing": True,
        }


class _Transaction:
    """One that keeps all others out from now on. Large writes of clients do that for a while, and may leave no moment between one and
    the next; they write, and come to an end."""

    def __init__(self, progress: Callable[[], tuple[int, int]]) -> None:
        """progress: see `sqlite.progress`."""
        self._progress = progress
        self._began = self._wrote = time.monotonic()
        self._before = progress()

    def stays(self) -> bool:
        """Whether there is still none but this one, for too long. To be asked again and again."""
        now, found = time.monotonic(), self._progress()
        if found != self._before:
            self._wrote = now
        if found[0] != self._before[0]:
            self._began = now
        self._before = found
        return now - self._wrote > _KEPT_OUT or now - self._began > _GROWS


def _ignore(_event: Event) -> None:
    pass


def _pump_traces(
    stream: Iterable[Event],
    listen: Callable[[Event], None] = _ignore,
    unheard: Callable[[], bool] = lambda: False,
    *,
    scratch: bool = False,
) -> None:
    for event in stream:
        listen(event)
        text, genuine = event
        # Everything else on standard output is the banner, or says where in the source a trace comes from.
        if genuine and (found := texts.trace(text)):
            level, message = found
            expected = unheard() or (scratch and texts.is_failed_answer(message))
            log.log(logging.DEBUG if expected else _LEVELS.get(level, logging.DEBUG), "engine: %s", one_line(message))


def _pump_errors(stream: IO[str], unheard: Callable[[], bool] = lambda: False) -> None:
    # The engine first echoes its configuration between two lines of "=".
    rulers = 0
    for line in stream:
        text = line.strip()
        if rulers < 2 and text == "==========":
            rulers += 1
        elif rulers != 1 and text:
            log.log(logging.DEBUG if unheard() else logging.ERROR, "engine: %s", one_line(text))
