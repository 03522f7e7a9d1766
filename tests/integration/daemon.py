"""One running chromad: its process, what it logs, and what it tells systemd."""

import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chromad.control import ask
from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT

from tests.integration.account import alive, until
from tests.integration.clients import connected
from tests.integration.notify import NotifySocket

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


class Daemon:
    """A daemon that was started; `log` is all that it has written so far."""

    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, notify: NotifySocket, control: Path, port: int
    ) -> None:
        self.process = process
        self.notify = notify
        self.port = port
        self._log = log
        self._control = control
        self._open = ExitStack()
        self._open.callback(notify.close)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def engine_pid(self) -> int:
        """The engine's pid, 0 where there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return int((children.read_text(encoding="ascii").split() or ["0"])[0])
        except FileNotFoundError:
            return 0

    def proc_status(self) -> str:
        """proc_pid_status(5), empty when it has ended."""
        try:
            return Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return ""

    def ready(self) -> "Daemon":
        """Waits for READY=1."""
        until(lambda: "READY=1" in self.notify.lines or self.process.poll() is not None, f"READY=1\n{self.log}")
        assert self.process.poll() is None, self.log
        return self

    def status(self) -> dict[str, Any]:
        """What the control socket says."""
        answer: dict[str, Any] | None = ask(self._control, "status")
        assert answer is not None, self.log
        return answer

    def wait_for_log(self, text: str) -> None:
        until(lambda: text in self.log, f"{text!r} in the log")

    def wait_until_fed(self, times: int) -> None:
        """Waits until the supervisor's watchdog was fed so many times more."""
        goal = self.notify.lines.count("WATCHDOG=1") + times
        until(lambda: self.notify.lines.count("WATCHDOG=1") >= goal or self.process.poll() is not None, "WATCHDOG=1")
        assert self.process.poll() is None, self.log

    def client(self, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE) -> "ClientAPI":
        """A new official client, which is closed by `clear`."""
        return self._open.enter_context(connected(self.port, tenant, database))

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, timeout: float = 60.0) -> int:
        """Waits for the end and gives the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:.0f} s:\n{self.log}") from None

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stops it and asserts that this was a clean stop."""
        self.send(number)
        assert self.ended() == 0, self.log

    def clear(self) -> None:
        """Ends what is left of it, and closes what the tests have open for it."""
        self._open.close()
        engine = self.engine_pid
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if engine:
            try:
                os.kill(engine, signal.SIGKILL)
            except ProcessLookupError:
                return
            until(lambda: not alive(engine), f"the end of the engine {engine}")
