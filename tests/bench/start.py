"""Start on an empty directory: seconds until it can be used, and memory of all processes together then.

Stock is ready at its first heartbeat, chromad at READY=1.
"""

import tempfile
from pathlib import Path

from .figure import Figure
from .options import Options
from .servers import Chromad, Server, Stock


def measure(options: Options) -> list[Figure]:
    """Start both sides in turn."""
    seconds = Figure("start to ready on an empty directory (s)", at_most=0.6)
    memory = Figure("memory of all processes when ready (MiB)", at_most=0.8)
    for _ in range(options.rounds):
        for kind, times, sizes in ((Stock, seconds.control, memory.control), (Chromad, seconds.ours, memory.ours)):
            with tempfile.TemporaryDirectory(dir=options.directory) as root, kind(Path(root)) as server:
                times.append(server.seconds)
                sizes.append(_resident(server))
    return [seconds, memory]


def _resident(server: Server) -> float:
    """MiB in memory of a server's processes; pages that they share count twice."""
    pids = [server.process.pid, *server.children()]
    statuses = [Path(f"/proc/{pid}/status").read_text(encoding="ascii") for pid in pids]
    return sum(int(status.split("VmRSS:")[1].split()[0]) for status in statuses) / 1024
