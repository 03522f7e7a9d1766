"""Stock Chroma and chromad as processes on directories of their own, for benchmarks and soaks."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from chromad.control import ask

from .groups import Group

_BIN = Path(sys.executable).parent
_START_LIMIT = 600.0
_STOP_LIMIT = 120.0
# As in chromadb-backup.service
_LOW_PRIORITY = ("chrt", "--idle", "0", "ionice", "-c", "2", "-n", "7")


class ChromactlFailed(Exception):
    """chromactl did not exit with 0; the text says what it said."""


class Server(ABC):
    """A server on `root`/data; the context starts it, waits until it is ready, and stops it.

    port: where it listens. seconds: from the start of the process until it was ready.
    """

    name = ""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.port = free_port()
        self.seconds = 0.0
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when it is ready."""
        self.data.mkdir(mode=0o750, parents=True, exist_ok=True)
        started = time.perf_counter()
        with open(self.root / f"{self.name}.log", "ab") as output:
            self.process = subprocess.Popen(
                self._command(), env={**os.environ, **self._environment()}, stdout=output, stderr=output
            )
        while not self._ready():
            if self.process.poll() is not None or time.perf_counter() - started > _START_LIMIT:
                self.kill()
                raise self.failed("it did not get ready")
            time.sleep(0.001)
        self.seconds = time.perf_counter() - started

    def failed(self, what: str) -> SystemExit:
        """Ends the run, with what went wrong and the server's last words."""
        words = (self.root / f"{self.name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return SystemExit("\n".join([f"{self.name}: {what}", *words[-20:]]))

    def stop(self) -> None:
        """Lets it end as on SIGTERM, where it still runs."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(_STOP_LIMIT)

    def kill(self) -> None:
        """Ends all its processes at once."""
        for pid in (*self.children(), self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def children(self) -> list[int]:
        """The pids of its child processes."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text(encoding="ascii").split()]

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _ready(self) -> bool: ...

    def _environment(self) -> Mapping[str, str]:
        return {}


class Stock(Server):
    """`chroma run` as it comes; ready at the first heartbeat."""

    name = "stock"

    def _command(self) -> list[str]:
        chroma = str(_BIN / "chroma")
        return [chroma, "run", "--path", str(self.data), "--host", "127.0.0.1", "--port", str(self.port)]

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/api/v2/heartbeat")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


class Chromad(Server):
    """chromad, ready at READY=1. settings: sections of chromad.yml that differ from the default. groups: where the service
    runs and where chromactl does, as their units.

    stages: what it told systemd while it started, and when on the monotonic clock.
    """

    name = "chromad"

    def __init__(
        self, root: Path, settings: Mapping[str, Any] | None = None, groups: tuple[Group, Group] | None = None
    ) -> None:
        super().__init__(root)
        self.checkpoints = root / "checkpoints"
        self.quarantine = root / "quarantine"
        self.repository = root / "repository"
        self._control = root / "chromad.sock"
        self._notify = root / "notify"
        self.stages: list[tuple[str, float]] = []
        self._settings = settings or {}
        self._groups = groups
        self._notifications: socket.socket | None = None

    def ask(self, verb: str) -> dict[str, Any]:
        """Has the running daemon do something, and waits for it."""
        answer: dict[str, Any] | None = ask(self._control, verb, progress=lambda *_: None)
        if answer is None:
            raise self.failed("nobody answers at its control socket")
        return answer

    def chromactl(self, *words: str) -> str:
        """Runs chromactl to its end, with the priority that the timers' units give it; gives what it prints.

        Makes the key and the repository before the first backup. Raises ChromactlFailed.
        """
        if words[0] == "backup" and not self.repository.exists():
            self.chromactl("backups", "init")
        command = [*_LOW_PRIORITY, str(_BIN / "chromactl"), "--config", str(self.root / "chromad.yml"), *words]
        if self._groups:
            command = self._groups[1].within(command)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # doctor says so when there are warnings, such as those that this host earns.
        if done.returncode > int(words[0] == "doctor"):
            raise ChromactlFailed(
                f"chromactl {' '.join(words)} exits with {done.returncode}: {(done.stderr or done.stdout).strip()}"
            )
        return done.stdout

    def start(self) -> None:
        document = {
            "data_dir": str(self.data),
            "listen": {"port": self.port},
            "control_socket": str(self._control),
            "metrics": {"port": 0},
            "backup": {"repository": str(self.repository), "password_file": str(self.root / "backup.key")},
            "allow_root": True,
            **self._settings,
        }
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "chromad.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
        self._notify.unlink(missing_ok=True)
        self.stages = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as self._notifications:
            self._notifications.bind(str(self._notify))
            self._notifications.setblocking(False)
            super().start()

    def _command(self) -> list[str]:
        command = [str(_BIN / "chromad"), "--config", str(self.root / "chromad.yml")]
        return self._groups[0].within(command) if self._groups else command

    def _environment(self) -> Mapping[str, str]:
        return {"NOTIFY_SOCKET": str(self._notify)}

    def _ready(self) -> bool:
        assert self._notifications
        try:
            while True:
                text = self._notifications.recv(4096).decode()
                self.stages.append((text, time.monotonic()))
                if text == "READY=1":
                    return True
        except BlockingIOError:
            return False


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
