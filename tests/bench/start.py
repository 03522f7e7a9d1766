"""Start on an empty directory: seconds until it can be used, and memory of all processes together then.

Stock is ready at its first heartbeat, chromad at READY=1.
"""

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_BIN = Path(sys.executable).parent
_LIMIT = 30.0


@dataclass
class Figure:
    """name with its unit; one value a round for each side; limit: of the medians' ratio."""

    name: str
    limit: float
    stock: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)


def measure(rounds: int) -> list[Figure]:
    """Start both sides in turn, `rounds` times."""
    seconds = Figure("start to ready on an empty directory (s)", 0.6)
    memory = Figure("memory of all processes when ready (MiB)", 0.8)
    for _ in range(rounds):
        for run, times, sizes in ((_stock, seconds.stock, memory.stock), (_ours, seconds.ours, memory.ours)):
            with tempfile.TemporaryDirectory() as directory:
                taken, size = run(Path(directory))
            times.append(taken)
            sizes.append(size)
    return [seconds, memory]


def _stock(directory: Path) -> tuple[float, float]:
    port = _free_port()

    def ready() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/api/v2/heartbeat")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    command = [
        str(_BIN / "chroma"),
        "run",
        "--path",
        str(directory / "data"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    return _run(command, dict(os.environ), ready)


def _ours(directory: Path) -> tuple[float, float]:
    data = directory / "data"
    data.mkdir(mode=0o750)
    config = directory / "chromad.yml"
    config.write_text(
        f"data_dir: {data}\nlisten: {{port: {_free_port()}}}\ncontrol_socket: {directory}/chromad.sock\n"
        f"backup: {{directory: {directory}/backups}}\nallow_root: true\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(directory / "notify"))
        notifications.setblocking(False)

        def ready() -> bool:
            try:
                return notifications.recv(4096) == b"READY=1"
            except BlockingIOError:
                return False

        environment = {**os.environ, "NOTIFY_SOCKET": str(directory / "notify")}
        return _run([str(_BIN / "chromad"), "--config", str(config)], environment, ready)


def _run(command: list[str], environment: dict[str, str], ready: Callable[[], bool]) -> tuple[float, float]:
    started = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not ready():
                if process.poll() is not None or time.perf_counter() - started > _LIMIT:
                    raise SystemExit(f"{command[0]} did not get ready")
                time.sleep(0.001)
            taken = time.perf_counter() - started
            return taken, _resident(process.pid)
        finally:
            process.terminate()


def _resident(pid: int) -> float:
    """MiB in memory of a process and its children; pages that they share count twice."""
    status = Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(status.split()[0]) / 1024 + sum(_resident(int(child)) for child in children)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
