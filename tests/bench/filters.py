"""Filters against stock Chroma: gets, queries and deletes by metadata and document, of one record to all.

Both servers stand side by side with the same records, filled once, and get the same requests, some of a kind in turn. A rate is that of a
client that sends one after the other: the inverse of the median time of a request.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from .client import DIMENSION, Client, encode
from .figure import Figure
from .options import Options
from .servers import Chromad, Server, Stock

_LARGE = 100_000
_SMALL = 300
_MANY, _FEW = 200, 500
_DOOMED = 2000
_MILLION = 1_000_000
_NARROW = 32
_BATCH = 1000
# For a collection that nobody searches well: each persist writes all ids anew, and links between vectors take most of the time.
_ROUGH = {"sync_threshold": 100_000, "batch_size": 1000, "ef_construction": 8, "max_neighbors": 4}
_SAMPLE = 0.3  # seconds of stock's requests of a kind, in each round
_DELETES = 20
_NEVER_SLOWER = 0.95

# Gives the condition, or the body, of the number-th request.
Where = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class _Shape:
    """One kind of request. at_least: our rate as a part of stock's. plain: for records of few values as well."""

    name: str
    verb: str
    body: Where
    at_least: float = _NEVER_SLOWER
    plain: bool = False


def measure(options: Options) -> list[Figure]:
    """Of one large collection, of a small one beside it, and of many small ones that share keys and values."""
    large = options.part(_LARGE)
    with _servers(options.directory / "large") as sides:
        for side in sides:
            side.fill("large", range(large), DIMENSION)
            side.fill("small", range(_SMALL), DIMENSION)
            side.again()
        figures = _compare(options, sides, "large", f"among {large:,}", _shapes(large))
        figures += _compare(options, sides, "small", f"of {_SMALL} beside {large:,}", _beside())
        figures += _deletes_of_many(options, sides)
    many = max(options.part(_MANY), 2)
    with _servers(options.directory / "many") as sides:
        for side in sides:
            for number in range(many):
                side.fill(f"many-{number}", range(_FEW), _NARROW)
            side.again()
        figures += _compare(options, sides, "many-1", f"of {_FEW}, {many} like it", _beside())
    return figures


def measure_million(options: Options) -> list[Figure]:
    """Some of it in one collection of a million with few values, which takes long to fill."""
    large = options.part(_MILLION)
    shapes = [shape for shape in _shapes(large, one=20.0, dimension=_NARROW) if shape.plain]
    with _servers(options.directory / "million") as sides:
        with ThreadPoolExecutor() as both:
            list(both.map(lambda side: side.fill("large", range(large), _NARROW, plain=True), sides))
        for side in sides:
            side.again()
        return _compare(options, sides, "large", f"among {large:,}", shapes)


def _shapes(large: int, *, one: float = 5.0, dimension: int = DIMENSION) -> list[_Shape]:
    """Requests to a collection that is most of what there is."""
    near = (np.random.default_rng(1).random((1, dimension), dtype=np.float32) - 0.5).tolist()
    nearest = {"query_embeddings": near, "n_results": 10}
    half, ninety = large // 2, large * 9 // 10

    def some(number: int) -> int:
        return number * 7919 % large

    def query(name: str, where: Where, *, plain: bool = False) -> _Shape:
        return _Shape(name, "query", lambda i: {"where": where(i), **nearest}, plain=plain)

    def delete(name: str, where: Where, at_least: float = _NEVER_SLOWER) -> _Shape:
        return _Shape(name, "delete", lambda i: {"where": where(i)}, at_least)

    # What is deleted is not asked for again.
    one_by_one, by_ten = count(1), count()
    return [
        _get("get where an integer is of one record", lambda i: {"n": some(i)}, one, plain=True),
        _get("get where a float is of one", lambda i: {"f": some(i) + 0.5}, 5.0),
        _get("get where a string is of one", lambda i: {"s": f"user-{some(i)}"}, 5.0, plain=True),
        _get("get where a list holds what is in one", lambda i: {"l": {"$contains": f"own-{some(i)}"}}, 5.0),
        _get("get $and of two of one", lambda i: {"$and": [{"n": some(i)}, {"s": f"user-{some(i)}"}]}, 5.0, plain=True),
        _get("get where ten match", lambda i: {"t": some(i) // 10}, 2.0),
        _get("get $in of ten integers", lambda i: {"n": {"$in": [some(i + k) for k in range(10)]}}, 5.0, plain=True),
        _get("get $in of ten strings", lambda i: {"s": {"$in": [f"user-{some(i + k)}" for k in range(10)]}}, 5.0),
        _get("get where 0.1 % match, a boolean", lambda _i: {"r": True}),
        _get("get where 1 % match, integer", lambda i: {"p": i % 100}),
        _get("get where 1 % match, string", lambda i: {"c": f"class-{i % 100}"}),
        _get("get where 1 % match, list", lambda i: {"l": {"$contains": f"tag-{i % 100}"}}),
        _get(
            "get of a range of 1 %", lambda _i: {"$and": [{"n": {"$gte": half}}, {"n": {"$lt": half + large // 100}}]}
        ),
        _get("get where 10 % match, ids", lambda i: {"g": i % 10}, include=[]),
        _get("get where 10 % match, limit 10", lambda i: {"g": i % 10}, 2.0, plain=True, limit=10),
        _get("get where half match, a boolean, limit 10", lambda i: {"b": i % 2 == 0}, limit=10),
        _get("get where n > 90 %, limit 20", lambda _i: {"n": {"$gt": ninety}}, plain=True, limit=20),
        _get("get where all match, ids", lambda _i: {"n": {"$gte": 0}}, include=[]),
        _get("get where all match, limit 10", lambda _i: {"n": {"$gte": 0}}, plain=True, limit=10),
        _get("get $or of two of one", lambda i: {"$or": [{"n": some(i)}, {"s": f"user-{some(i + 1)}"}]}, plain=True),
        _get("get $ne, limit 10", lambda i: {"n": {"$ne": some(i)}}, plain=True, limit=10),
        _document("get $contains of one document", lambda i: {"$contains": f"number {some(i)} of"}, 1.4),
        _document("get $contains of 10 %, limit 10", lambda i: {"$contains": f"kind{i % 10} "}, 1.4, limit=10),
        _document("get $not_contains, limit 10", lambda i: {"$not_contains": f"kind{i % 10} "}, limit=10),
        _Shape("get by ten ids", "get", lambda i: {"ids": [f"id-{some(i + k)}" for k in range(10)]}, plain=True),
        _Shape("get, limit 10", "get", lambda _i: {"limit": 10}, plain=True),
        _Shape("count", "count", lambda _i: {}, plain=True),
        _Shape("query", "query", lambda _i: nearest, plain=True),
        query("query where one matches", lambda i: {"n": some(i)}, plain=True),
        query("query where ten match", lambda i: {"t": some(i) // 10}),
        query("query where 1 % match", lambda i: {"p": i % 100}, plain=True),
        query("query where 10 % match", lambda i: {"g": i % 10}),
        query("query where all match", lambda _i: {"n": {"$gte": 0}}),
        delete("delete where one matches", lambda _i: {"n": large - next(one_by_one)}, 2.0),
        delete("delete where ten match", lambda _i: {"t": next(by_ten)}),
    ]


def _beside() -> list[_Shape]:
    """Requests to a small collection, whose filters match much in others as well."""
    least = 0.7
    return [
        _get("get where one matches", lambda i: {"n": i % _SMALL}, least),
        _get("get where 1 % match", lambda i: {"p": i % 100}, least),
        _get("get where 10 % match", lambda i: {"g": i % 10}, least),
        _get("get where 10 % match, limit 10", lambda i: {"g": i % 10}, least, limit=10),
        _get("get where half match, a boolean", lambda i: {"b": i % 2 == 0}, least),
        _get("get where all match", lambda _i: {"n": {"$gte": 0}}, least),
        _get(
            "get $in of ten strings", lambda i: {"s": {"$in": [f"user-{(i + k) % _SMALL}" for k in range(10)]}}, least
        ),
        _get("get where a list holds what is in 1 %", lambda i: {"l": {"$contains": f"tag-{i % 100}"}}, least),
        # No index tells which documents match, and each that does elsewhere costs a look at its record. Seen: 0.65 and 0.78.
        _document("get $contains of 10 %", lambda i: {"$contains": f"kind{i % 10} "}, 0.5),
        _Shape("get by ten ids", "get", lambda i: {"ids": [f"id-{(i + k) % _SMALL}" for k in range(10)]}),
        _Shape("get, limit 10", "get", lambda _i: {"limit": 10}),
        _Shape("count", "count", lambda _i: {}),
    ]


def _get(name: str, where: Where, at_least: float = _NEVER_SLOWER, *, plain: bool = False, **more: Any) -> _Shape:
    return _Shape(name, "get", lambda i: {"where": where(i), **more}, at_least, plain)


def _document(name: str, where: Where, at_least: float = _NEVER_SLOWER, **more: Any) -> _Shape:
    return _Shape(name, "get", lambda i: {"where_document": where(i), **more}, at_least)


class _Side:
    """One server and what it holds."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = Client(server.port)
        self.collections: dict[str, str] = {}

    @property
    def ours(self) -> bool:
        """Whether it is chromad."""
        return isinstance(self.server, Chromad)

    def fill(self, name: str, numbers: range, dimension: int, *, plain: bool = False) -> None:
        """Makes a collection of records that are the same on either side. plain: of few values, without a document."""
        self.collections[name] = self.client.create(name, **(_ROUGH if plain else {}))
        self.put(name, numbers, dimension, plain=plain)

    def put(self, name: str, numbers: range, dimension: int, *, plain: bool = False) -> None:
        """Writes records."""
        random = np.random.default_rng(len(numbers))
        for start in range(numbers.start, numbers.stop, _BATCH):
            batch = range(start, min(start + _BATCH, numbers.stop))
            body = {
                "ids": [f"id-{number}" for number in batch],
                "embeddings": encode(random.random((len(batch), dimension), dtype=np.float32) - 0.5),
                "metadatas": [_few(number) if plain else _metadata(number) for number in batch],
            }
            if not plain:
                body["documents"] = [f"number {number} of its kind{number % 10} and no other" for number in batch]
            self.client.post(self.collections[name], "upsert", json.dumps(body).encode())

    def again(self) -> None:
        """Restarts it and has it load all that it holds."""
        self.server.stop()
        self.server.start()
        self.client = Client(self.server.port)
        for collection in self.collections.values():
            self.client.post(collection, "get", b'{"limit": 1}')

    def times(self, collection: str, verb: str, bodies: Sequence[bytes]) -> list[float]:
        """Sends requests one after the other, and gives the seconds that each took."""
        taken = []
        for body in bodies:
            started = time.perf_counter()
            self.send(collection, verb, body)
            taken.append(time.perf_counter() - started)
        return taken

    def send(self, collection: str, verb: str, body: bytes) -> None:
        """One request."""
        if verb == "count":
            self.client.count(self.collections[collection])
        else:
            self.client.post(self.collections[collection], verb, body)


def _few(number: int) -> dict[str, Any]:
    return {"n": number, "p": number % 100, "g": number % 10, "s": f"user-{number}"}


def _metadata(number: int) -> dict[str, Any]:
    return {
        **_few(number),
        "t": number // 10,
        "f": number + 0.5,
        "c": f"class-{number % 100}",
        "b": number % 2 == 0,
        "r": number % 1000 == 0,
        "l": [f"own-{number}", f"tag-{number % 100}"],
    }


@contextmanager
def _servers(root: Path) -> Iterator[list[_Side]]:
    with ExitStack() as stack:
        yield [_Side(stack.enter_context(kind(root / kind.name))) for kind in (Stock, Chromad)]


def _compare(
    options: Options, sides: Sequence[_Side], collection: str, where: str, shapes: Sequence[_Shape]
) -> list[Figure]:
    figures = [Figure(f"{shape.name}, {where} (1/s)", at_least=shape.at_least) for shape in shapes]
    sizes = [_DELETES] * len(shapes)
    number = count()
    for turn in range(options.rounds + 1):
        for place, (shape, figure) in enumerate(zip(shapes, figures, strict=True)):
            bodies = [json.dumps(shape.body(next(number))).encode() for _ in range(sizes[place])]
            taken = {
                side.ours: statistics.median(side.times(collection, shape.verb, bodies))
                for side in (sides if turn % 2 == 0 else reversed(sides))
            }
            if turn:
                figure.ours.append(1 / taken[True])
                figure.control.append(1 / taken[False])
            elif shape.verb != "delete":
                # The first turn is for the caches, and says how many of these take stock a moment.
                sizes[place] = max(3, int(_SAMPLE / taken[False]))
    return figures


def _deletes_of_many(options: Options, sides: Sequence[_Side]) -> list[Figure]:
    """Of a part and of all of a collection that is filled anew each time, beside the large one."""
    tenth = Figure(f"delete where 10 % of {_DOOMED:,} match (1/s)", at_least=_NEVER_SLOWER)
    whole = Figure(f"delete where all of {_DOOMED:,} match (1/s)", at_least=_NEVER_SLOWER)
    for side in sides:
        side.fill("doomed", range(0), DIMENSION)
    for turn in range(options.rounds):
        for side in sides if turn % 2 == 0 else reversed(sides):
            side.put("doomed", range(_DOOMED), DIMENSION)
            for figure, where in ((tenth, {"g": 3}), (whole, {"n": {"$gte": 0}})):
                started = time.perf_counter()
                side.send("doomed", "delete", json.dumps({"where": where}).encode())
                (figure.ours if side.ours else figure.control).append(1 / (time.perf_counter() - started))
    return [tenth, whole]
