"""What an operator waits for on a host with 100,000 records, and what watching it costs."""

import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

from .client import Client, upserts
from .figure import Figure
from .options import Options
from .servers import Chromad, free_port

_RECORDS = 100_000
_SCRAPES = 20


def measure(options: Options) -> list[Figure]:
    """Doctor again and again, and the daemon's memory after scrapes and looks at the page."""
    doctor = Figure("chromactl doctor (s)", at_most=2.0)
    scrape = Figure("a scrape of the metrics (s)")
    memory = Figure("memory of the daemon, with metrics and page in use (MB)", at_most=45.0)
    port = free_port()
    with tempfile.TemporaryDirectory(dir=options.directory) as root:
        server = Chromad(Path(root), {"metrics": {"port": port}})
        with server:
            client = Client(server.port)
            collection = client.create("large")
            keys = [f"key-{number}" for number in range(options.part(_RECORDS))]
            for body in upserts(keys, 500, np.random.default_rng(1)):
                client.post(collection, "upsert", body)
            for _ in range(options.rounds):
                began = time.monotonic()
                server.chromactl("doctor")
                doctor.ours.append(time.monotonic() - began)
                for path in ("metrics", "api/status", ""):
                    for _ in range(_SCRAPES):
                        began = time.monotonic()
                        urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60).read()
                        if path == "metrics":
                            scrape.ours.append(time.monotonic() - began)
                status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
                memory.ours.append(int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6)
    return [doctor, scrape, memory]
