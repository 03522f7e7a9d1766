"""Back from a SIGKILL in the middle of a persist of a large collection: seconds from the start to READY, warm."""

import os
import signal
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from chromad.chroma import segment, sqlite

from .client import Client, upserts
from .figure import Figure
from .options import Options
from .servers import Chromad

_RECORDS = 100_000
_BATCH = 100
# Records that are written between a checkpoint and the kill: a persist's worth, and many.
_FEW, _MANY = 1_000, 10_000
_LIMIT = 5.0
_SETTINGS = {"checkpoint": {"interval": "1d", "after_log": "1T"}}


def measure(options: Options) -> list[Figure]:
    """Kills soon after a checkpoint and long after one, in turn.

    What the replay takes is how much longer the collection takes to warm than after a clean stop.
    """
    clean = Figure("start to ready after a clean stop (s)")
    warm = Figure("warming after a clean stop (s)")
    figures = [clean, warm]
    kills = []
    for count in (options.part(_FEW), options.part(_MANY)):
        title = f"kill in a persist, {count:,} rows after a checkpoint: "
        kill = [Figure(f"{title}{what}") for what in ("rows replayed", "start to ready (s)", "replay (s)")]
        kill.append(Figure(f"{title}ready without the replay (s)", at_most=_LIMIT))
        kills.append((count, kill))
        figures += kill
    with tempfile.TemporaryDirectory(dir=options.directory) as root:
        server = Chromad(Path(root), _SETTINGS)
        with server:
            collection = Client(server.port).create("large")
            _write(server, collection, options.part(_RECORDS), 500)
        for _ in range(options.rounds):
            server.start()
            clean.ours.append(server.seconds)
            warm.ours.append(_warming(server))
            for count, (rows, ready, replay, rest) in kills:
                server.ask("checkpoint")
                _write(server, collection, count, _BATCH)
                rows.ours.append(_kill_within_persist(server, collection))
                server.start()
                _check(server, collection, options.part(_RECORDS))
                ready.ours.append(server.seconds)
                replay.ours.append(_warming(server) - warm.ours[-1])
                rest.ours.append(ready.ours[-1] - replay.ours[-1])
            server.stop()
    return figures


def _warming(server: Chromad) -> float:
    """Seconds that the last start spent on warming."""
    [begin, *_] = [when for text, when in server.stages if text.startswith("STATUS=warming")]
    return server.stages[-1][1] - begin


def _write(server: Chromad, collection: str, count: int, size: int) -> None:
    client = Client(server.port)
    numbers = np.random.default_rng()
    for start in range(0, count, 10_000):
        keys = [f"large-{key}" for key in range(start, min(start + 10_000, count))]
        for body in upserts(keys, size, numbers):
            client.post(collection, "upsert", body)


def _kill_within_persist(server: Chromad, collection: str) -> int:
    """Writes on until the segment is being persisted, and kills all; gives the rows of the log after its checkpoint."""
    [found] = [each for each in sqlite.collections(server.data) if each.id == collection]
    directory = server.data / found.segment
    [engine] = server.children()
    writer = os.fork()
    if writer == 0:
        try:
            while True:
                _write(server, collection, _BATCH, _BATCH)
        finally:
            os._exit(0)
    try:
        deadline = time.monotonic() + 60
        while not _stopped_within_persist(engine, directory):
            if time.monotonic() > deadline:
                raise SystemExit("the engine was never seen persisting")
        server.kill()
    finally:
        os.waitpid(writer, 0)
    [checkpoint] = (server.checkpoints / found.segment).iterdir()
    with closing(sqlite3.connect(server.data / sqlite.FILE)) as connection:
        [(rows,)] = connection.execute(
            "SELECT count(*) FROM embeddings_queue WHERE topic = ? AND seq_id > ?", (found.topic, int(checkpoint.name))
        )
    return int(rows)


def _stopped_within_persist(engine: int, directory: Path) -> bool:
    if not segment.is_torn(directory, segment.stats(directory)):
        return False
    os.kill(engine, signal.SIGSTOP)
    if segment.is_torn(directory, segment.stats(directory)):
        return True
    os.kill(engine, signal.SIGCONT)
    return False


def _check(server: Chromad, collection: str, records: int) -> None:
    actions = [each["action"] for each in server.ask("status")["recovered"]]
    count = Client(server.port).count(collection)
    if actions != ["restored"] or count != records:
        raise server.failed(f"recovery did {actions}, and {count} of {records} records are there; not what is measured")
