"""Writes and queries against stock Chroma: rates of one client, both servers in turn.

Both get the same bodies from the same client on fresh directories. Stock purges its log, as it does by default;
chromad keeps its own until a checkpoint and a backup cover it.
"""

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from .client import Client, queries, upserts
from .figure import Figure
from .options import Options
from .servers import Chromad, Server, Stock

_SINGLE = 1000
_BATCHES = 50
_QUERIES = 1000
_LARGE = 100_000
_SMALL = 300


def measure(options: Options) -> list[Figure]:
    """Rates per second, a round being a whole run on fresh directories, or on two that are filled once."""
    return [*_fresh(options), _beside(options)]


def _fresh(options: Options) -> list[Figure]:
    single = Figure("single upserts (1/s)", at_least=1.15)
    batch = Figure("upserts of 100 records (1/s)", at_least=1.0)
    query = Figure("queries among 5,000 records (1/s)", at_least=0.98)
    for number, kind in _turns(options.rounds):
        numbers = np.random.default_rng(number)
        one_by_one = upserts([f"one-{key}" for key in range(options.part(_SINGLE))], 1, numbers)
        in_batches = upserts([f"many-{key}" for key in range(options.part(_BATCHES) * 100)], 100, numbers)
        asked = queries(options.part(_QUERIES), numbers)
        with tempfile.TemporaryDirectory(dir=options.directory) as root, kind(Path(root)) as server:
            client = Client(server.port)
            first, second = client.create("single"), client.create("batches")
            for figure, collection, verb, bodies in (
                (single, first, "upsert", one_by_one),
                (batch, second, "upsert", in_batches),
                (query, second, "query", asked),
            ):
                _side(figure, server).append(_rate(client, collection, verb, bodies))
    return [single, batch, query]


def _beside(options: Options) -> Figure:
    """Single upserts into a small collection beside one with a long log."""
    large = options.part(_LARGE)
    figure = Figure(f"single upserts beside a log of {large:,} rows (1/s)", at_least=1.0)
    keys = [f"small-{key}" for key in range(_SMALL)]
    places = {kind: options.directory / f"beside-{kind.name}" for kind in (Stock, Chromad)}
    for kind, place in places.items():
        _fill(kind(place), large, keys)
    for number, kind in _turns(options.rounds):
        bodies = upserts(keys, 1, np.random.default_rng(number))
        with kind(places[kind]) as server:
            client = Client(server.port)
            ids = json.loads((server.root / "ids.json").read_text(encoding="ascii"))
            for collection in ids:
                # Load both, as chromad has already done.
                client.post(collection, "query", queries(1, np.random.default_rng(0))[0])
            _side(figure, server).append(_rate(client, ids[1], "upsert", bodies))
        _check_log(server, large)
    for place in places.values():
        shutil.rmtree(place)
    return figure


def _fill(server: Server, large: int, keys: list[str]) -> None:
    numbers = np.random.default_rng(0)
    with server:
        client = Client(server.port)
        ids = [client.create("large"), client.create("small")]
        if isinstance(server, Chromad):
            # From here on the log waits for the next backup.
            server.chromactl("backup")
        for start in range(0, large, 10_000):
            names = [f"large-{key}" for key in range(start, min(start + 10_000, large))]
            for body in upserts(names, 500, numbers):
                client.post(ids[0], "upsert", body)
        for body in upserts(keys, 100, numbers):
            client.post(ids[1], "upsert", body)
    (server.root / "ids.json").write_text(json.dumps(ids), encoding="ascii")


def _check_log(server: Server, large: int) -> None:
    with closing(sqlite3.connect(server.data / "chroma.sqlite3")) as connection:
        [(rows,)] = connection.execute("SELECT count(*) FROM embeddings_queue").fetchall()
    if (rows > large) != isinstance(server, Chromad):
        raise SystemExit(f"{server.name} has a log of {rows} rows; that is not what is to be compared")


def _turns(rounds: int) -> Iterator[tuple[int, type[Stock | Chromad]]]:
    """The number of the round and whose turn it is; who begins changes, and each finds a disk at rest."""
    for number in range(rounds):
        kinds: list[type[Stock | Chromad]] = [Stock, Chromad]
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            os.sync()
            yield number, kind


def _side(figure: Figure, server: Server) -> list[float]:
    return figure.ours if isinstance(server, Chromad) else figure.control


def _rate(client: Client, collection: str, verb: str, bodies: list[bytes]) -> float:
    started = time.perf_counter()
    for body in bodies:
        client.post(collection, verb, body)
    return len(bodies) / (time.perf_counter() - started)
