"""What the gateway costs: the same requests to the same engine, directly and through HAProxy with TLS and a token, in turn."""

import hashlib
import json
import multiprocessing
import os
import sqlite3
import ssl
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from chromad.chroma import sqlite

from tests.integration.gateway import Gateway

from .client import Client, queries, upserts
from .figure import Figure
from .options import Options
from .servers import Chromad

_RECORDS = 5000
_QUERIES = 1000
_CLIENTS = 8
_SECONDS = 5.0
_BULKS, _IN_BULK = 20, 500
_FEW = 10
_TOKENS, _COLLECTIONS = 10_000, 100_000
_COUNTS = 2000
# What one token may do by default would be what is measured.
_LIMITS = {"chromadb_gateway_requests_per_second": 100_000, "chromadb_gateway_bytes_per_second": "10G"}


@dataclass(frozen=True)
class _Way:
    """How an engine is reached. certificate: of the gateway; none: the engine's own port, without TLS. tokens: taken in turn."""

    port: int
    certificate: Path | None = None
    tokens: tuple[str, ...] = ("",)

    def client(self, token: int = 0) -> Client:
        tls = ssl.create_default_context(cafile=self.certificate) if self.certificate else None
        return Client(self.port, tls=tls, token=self.tokens[token])


def measure(options: Options) -> list[Figure]:
    """A query, eight clients that query, bulk adds; memory; and what many tokens and collections change."""
    with _behind(options.directory / "gateway", 1, lambda _: None) as (direct, through, gateway):
        with ProcessPoolExecutor(_CLIENTS, multiprocessing.get_context("spawn")) as clients:
            figures = [*_single(options, direct, through), _together(options, clients, direct, through)]
        figures.append(_bulk(options, direct, through))
        memory = Figure("memory of the gateway after these (MB)", ours=[_megabytes(gateway)], at_most=40.0)
    return [*figures, memory, *_many(options)]


def _single(options: Options, direct: _Way, through: _Way) -> list[Figure]:
    """One client; each body is sent both ways, one after the other, and who begins changes."""
    more = Figure("a query takes longer by (ms)", at_most=0.3)
    whole = Figure("a query among 5,000 records, one client (ms)")
    client = direct.client()
    collection = client.create("single")
    for body in upserts([f"key-{key}" for key in range(_RECORDS)], 500, np.random.default_rng(0)):
        client.post(collection, "upsert", body)
    sides = (direct.client(), through.client())
    for number in range(options.rounds):
        times: tuple[list[float], list[float]] = ([], [])
        for index, body in enumerate(queries(options.part(_QUERIES), np.random.default_rng(number))):
            for side in (0, 1) if index % 2 else (1, 0):
                began = time.perf_counter()
                sides[side].post(collection, "query", body)
                times[side].append(1000 * (time.perf_counter() - began))
        without, with_it = map(statistics.median, times)
        whole.control.append(without)
        whole.ours.append(with_it)
        more.ours.append(with_it - without)
    return [whole, more]


def _together(options: Options, clients: Executor, direct: _Way, through: _Way) -> Figure:
    """Eight processes that ask without any pause."""
    figure = Figure(f"queries of {_CLIENTS} clients (1/s)", at_least=0.90)
    found = direct.client().send("GET", "/single", None)
    collection = str(json.loads(found)["id"])
    bodies = queries(200, np.random.default_rng(1))
    for number in range(-1, options.rounds):
        for way in (direct, through) if number % 2 else (through, direct):
            asked = [clients.submit(_ask, way, collection, bodies, _SECONDS) for _ in range(_CLIENTS)]
            rate = sum(each.result() for each in asked)
            if number >= 0:  # Before the first one, the processes start.
                (figure.ours if way is through else figure.control).append(rate)
    return figure


def _ask(way: _Way, collection: str, bodies: list[bytes], seconds: float) -> float:
    client = way.client()
    client.post(collection, "query", bodies[0])
    began, count = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds:
        client.post(collection, "query", bodies[count % len(bodies)])
        count += 1
    return count / took


def _bulk(options: Options, direct: _Way, through: _Way) -> Figure:
    """Bodies of a megabyte, to the one and to the other of two collections that are alike."""
    figure = Figure(f"adds of {_IN_BULK} records (1/s)", at_least=0.97)
    for number in range(options.rounds):
        sides = [(way, way.client(), direct.client().create(f"bulk-{number}-{way.port}")) for way in (direct, through)]
        keys = [f"key-{key}" for key in range(options.part(_BULKS) * _IN_BULK)]
        times = {way: 0.0 for way, _, _ in sides}
        os.sync()
        for index, body in enumerate(upserts(keys, _IN_BULK, np.random.default_rng(number))):
            for way, client, collection in sides if index % 2 else reversed(sides):
                began = time.perf_counter()
                client.post(collection, "add", body)
                times[way] += time.perf_counter() - began
        for way, side in ((through, figure.ours), (direct, figure.control)):
            side.append(options.part(_BULKS) / times[way])
            direct.client().drop(f"bulk-{number}-{way.port}")
    return figure


def _many(options: Options) -> list[Figure]:
    """The cheapest request, to each collection and with each token in turn, on a host with ten of both and one with many."""
    collections, tokens = options.part(_COLLECTIONS), options.part(_TOKENS)
    title = f"{tokens:,} tokens and {collections:,} collections"
    figure = Figure(f"a count with {title}, beside {_FEW} (part of the direct one)", at_most=1.05)
    memory = Figure(f"memory of the gateway with {title} (MB)", at_most=40.0)
    with (
        _behind(options.directory / "few", _FEW, lambda data: _multiply(data, _FEW)) as few,
        _behind(options.directory / "many", tokens, lambda data: _multiply(data, collections)) as many,
    ):
        hosts = [(host, host[1].client().ids()) for host in (few, many)]
        # Every collection's owner is known then, and every token was used.
        for (_, through, _), ids in hosts:
            _touch(through, ids)
        memory.ours.append(_megabytes(many[2]))
        for number in range(options.rounds):
            picks = np.random.default_rng(number)
            medians = [_counts(picks, options.part(_COUNTS), host[0], host[1], ids) for host, ids in hosts]
            (few_direct, few_through), (many_direct, many_through) = medians
            figure.control.append(few_through / few_direct)
            figure.ours.append(many_through / many_direct)
    return [figure, memory]


def _counts(picks: np.random.Generator, count: int, direct: _Way, through: _Way, ids: list[str]) -> tuple[float, float]:
    """Median milliseconds of a count, directly and through the gateway."""
    sides = (direct.client(), through.client())
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(count):
        collection = ids[picks.integers(len(ids))]
        sides[1].use(through.tokens[picks.integers(len(through.tokens))])
        for side in (0, 1) if index % 2 else (1, 0):
            began = time.perf_counter()
            sides[side].count(collection)
            times[side].append(1000 * (time.perf_counter() - began))
    return statistics.median(times[0]), statistics.median(times[1])


def _touch(way: _Way, ids: list[str]) -> None:
    client = way.client()
    for number in range(max(len(ids), len(way.tokens))):
        client.use(way.tokens[number % len(way.tokens)])
        client.count(ids[number % len(ids)])


@contextmanager
def _behind(root: Path, tokens: int, prepare: Callable[[Path], None]) -> Iterator[tuple[_Way, _Way, Gateway]]:
    """A service and its gateway with so many tokens. prepare: what is done to its data before it starts."""
    answers = root / "answers" / "gateway.sock"
    answers.parent.mkdir(parents=True)
    server = Chromad(root, {"gateway": {"socket": str(answers)}, "warm": {"collections": "none"}})
    with server:
        Client(server.port).create("first")
    prepare(server.data)
    with server:
        gateway = Gateway(server.port, answers, _LIMITS)
        try:
            texts = tuple(f"chr_{number:043}" for number in range(tokens))
            lines = [
                f"{hashlib.sha256(each.encode()).hexdigest().upper()} token-{number}|rw|*/*|0|*\n"
                for number, each in enumerate(texts)
            ]
            gateway.map.write_text("".join(lines), encoding="ascii")
            gateway.start()
            yield _Way(server.port), _Way(gateway.port, gateway.certificate, texts), gateway
        finally:
            gateway.stop()


def _multiply(data: Path, count: int) -> None:
    """Makes as many of the only collection, without the engine, which would take a quarter of an hour for 100,000."""
    with closing(sqlite3.connect(data / sqlite.FILE)) as connection, connection:
        [[first]] = connection.execute("SELECT id FROM collections").fetchall()
        for number in range(1, count):
            identifier = str(uuid.UUID(int=number, version=4))
            connection.execute(
                "INSERT INTO collections (id, name, dimension, database_id, config_json_str, schema_str)"
                " SELECT ?, ?, dimension, database_id, config_json_str, schema_str FROM collections WHERE id = ?",
                (identifier, f"copy-{number}", first),
            )
            connection.execute(
                "INSERT INTO segments (id, type, scope, collection)"
                " SELECT lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-a'"
                " || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))), type, scope, ? FROM segments WHERE collection = ?",
                (identifier, first),
            )


def _megabytes(gateway: Gateway) -> float:
    """What HAProxy's processes have of the memory, pages that they share counted once."""
    assert gateway.process
    kilobytes = 0
    for pid in (gateway.process.pid, *gateway.workers):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        kilobytes += int(rollup.split("\nPss:")[1].split()[0])
    return kilobytes * 1024 / 1e6
