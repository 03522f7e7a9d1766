"""Filters against stock Chroma: gets, queries and deletes by metadata and document, of one record to all.

Both servers stand side by side with the same records, filled once. Each sample is of one side and as long as its clock runs,
and the other side's follows at once, so that both meet the same weather.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
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
_SAMPLE = 0.15  # seconds
_NEVER_SLOWER = 0.95

# Gives the body of the number-th request among so many records.
Body = Callable[[int, int], dict[str, Any]]


@dataclass(frozen=True)
class _Shape:
    """One kind of request. at_least: our rate as a part of stock's."""

    name: str
    verb: str
    body: Body
    at_least: float = _NEVER_SLOWER


def measure(options: Options) -> list[Figure]:
    """Of one large collection, of a small one beside it, and of many small ones that share keys and values."""
    large = options.part(_LARGE)
    with _servers(options.directory / "large") as sides:
        for side in sides:
            side.fill("large", range(large), DIMENSION)
            side.fill("small", range(_SMALL), DIMENSION)
            side.again()
        figures = _compare(options, sides, "large", large, f"among {large:,}", _shapes(large))
        figures += _compare(options, sides, "small", _SMALL, f"of {_SMALL} beside {large:,}", _beside())
        figures += _deletes_of_many(options, sides)
    many = max(options.part(_MANY), 2)
    with _servers(options.directory / "many") as sides:
        for side in sides:
            for number in range(many):
                side.fill(f"many-{number}", range(_FEW), _NARROW)
            side.again()
        figures += _compare(options, sides, "many-1", _FEW, f"of {_FEW}, {many} like it", _beside())
    return figures


def measure_million(options: Options) -> list[Figure]:
    """The same of one collection of a million, which takes long to fill."""
    large = options.part(_MILLION)
    with _servers(options.directory / "million") as sides:
        for side in sides:
            side.fill("large", range(large), _NARROW)
            side.again()
        return _compare(options, sides, "large", large, f"among {large:,}", _shapes(large, one=20.0, dimension=_NARROW))


def _shapes(large: int, *, one: float = 5.0, dimension: int = DIMENSION) -> list[_Shape]:
    """Requests to a collection that is most of what there is."""
    near = (np.random.default_rng(1).random((1, dimension), dtype=np.float32) - 0.5).tolist()

    def query(where: Callable[[int], dict[str, Any]]) -> Body:
        return lambda number, _size: {"where": where(number), "query_embeddings": near, "n_results": 10}

    def some(number: int) -> int:
        return number * 7919 % large

    # What a round deletes, no other one asks for.
    one_by_one = count()
    by_ten = count()
    return [
        _Shape("get where an integer is of one record", "get", _where(lambda i: {"n": some(i)}), one),
        _Shape("get where a float is of one", "get", _where(lambda i: {"f": some(i) + 0.5}), one),
        _Shape("get where a string is of one", "get", _where(lambda i: {"s": f"user-{some(i)}"}), one),
        _Shape(
            "get where a list holds what is in one",
            "get",
            _where(lambda i: {"l": {"$contains": f"own-{some(i)}"}}),
            one,
        ),
        _Shape(
            "get $and of two of one", "get", _where(lambda i: {"$and": [{"n": some(i)}, {"s": f"user-{some(i)}"}]}), one
        ),
        _Shape("get where ten match", "get", _where(lambda i: {"t": some(i) // 10}), one),
        _Shape(
            "get $in of ten integers", "get", _where(lambda i: {"n": {"$in": [some(i + k) for k in range(10)]}}), 5.0
        ),
        _Shape(
            "get $in of ten strings",
            "get",
            _where(lambda i: {"s": {"$in": [f"user-{some(i + k)}" for k in range(10)]}}),
            5.0,
        ),
        _Shape("get where 0.1 % match, a boolean", "get", _where(lambda _i: {"r": True})),
        _Shape("get where 1 % match, integer", "get", _where(lambda i: {"p": i % 100})),
        _Shape("get where 1 % match, string", "get", _where(lambda i: {"c": f"class-{i % 100}"})),
        _Shape("get where 1 % match, list", "get", _where(lambda i: {"l": {"$contains": f"tag-{i % 100}"}})),
        _Shape(
            "get of a range of 1 %",
            "get",
            _where(lambda _i: {"$and": [{"n": {"$gte": large // 2}}, {"n": {"$lt": large // 2 + large // 100}}]}),
        ),
        _Shape("get where 10 % match, ids", "get", _where(lambda i: {"g": i % 10}, include=[])),
        _Shape("get where 10 % match, limit 10", "get", _where(lambda i: {"g": i % 10}, limit=10), 2.0),
        _Shape("get where half match, a boolean, limit 10", "get", _where(lambda i: {"b": i % 2 == 0}, limit=10)),
        _Shape("get where n > 90 %, limit 20", "get", _where(lambda _i: {"n": {"$gt": large * 9 // 10}}, limit=20)),
        _Shape("get where all match, ids", "get", _where(lambda _i: {"n": {"$gte": 0}}, include=[])),
        _Shape("get where all match, limit 10", "get", _where(lambda _i: {"n": {"$gte": 0}}, limit=10)),
        _Shape(
            "get $or of two of one", "get", _where(lambda i: {"$or": [{"n": some(i)}, {"s": f"user-{some(i + 1)}"}]})
        ),
        _Shape("get $ne, limit 10", "get", _where(lambda i: {"n": {"$ne": some(i)}}, limit=10)),
        _Shape("get $contains of one document", "get", _document(lambda i: f"number {some(i)} of"), 1.4),
        _Shape("get $contains of 10 %, limit 10", "get", _document(lambda i: f"kind{i % 10} ", limit=10), 1.4),
        _Shape(
            "get $not_contains, limit 10",
            "get",
            lambda i, _n: {"where_document": {"$not_contains": f"kind{i % 10} "}, "limit": 10},
        ),
        _Shape("get by ten ids", "get", lambda i, _n: {"ids": [f"id-{some(i + k)}" for k in range(10)]}),
        _Shape("get, limit 10", "get", lambda _i, _n: {"limit": 10}),
        _Shape("count", "count", lambda _i, _n: {}),
        _Shape("query", "query", lambda _i, _n: {"query_embeddings": near, "n_results": 10}),
        _Shape("query where one matches", "query", query(lambda i: {"n": some(i)})),
        _Shape("query where ten match", "query", query(lambda i: {"t": some(i) // 10})),
        _Shape("query where 1 % match", "query", query(lambda i: {"p": i % 100})),
        _Shape("query where 10 % match", "query", query(lambda i: {"g": i % 10})),
        _Shape("query where all match", "query", query(lambda _i: {"n": {"$gte": 0}})),
        _Shape("delete where one matches", "delete", lambda _i, n: {"where": {"n": n - 1 - next(one_by_one)}}, 2.0),
        _Shape("delete where ten match", "delete", lambda _i, _n: {"where": {"t": next(by_ten)}}),
    ]


def _beside() -> list[_Shape]:
    """Requests to a small collection, whose filters match much in others as well."""
    least = 0.7
    return [
        _Shape("get where one matches", "get", _where(lambda i: {"n": i % _SMALL}), least),
        _Shape("get where 1 % match", "get", _where(lambda i: {"p": i % 100}), least),
        _Shape("get where 10 % match", "get", _where(lambda i: {"g": i % 10}), least),
        _Shape("get where 10 % match, limit 10", "get", _where(lambda i: {"g": i % 10}, limit=10), least),
        _Shape("get where half match, a boolean", "get", _where(lambda i: {"b": i % 2 == 0}), least),
        _Shape("get where all match", "get", _where(lambda _i: {"n": {"$gte": 0}}), least),
        _Shape(
            "get $in of ten strings",
            "get",
            _where(lambda i: {"s": {"$in": [f"user-{(i + k) % _SMALL}" for k in range(10)]}}),
            least,
        ),
        _Shape(
            "get where a list holds what is in 1 %",
            "get",
            _where(lambda i: {"l": {"$contains": f"tag-{i % 100}"}}),
            least,
        ),
        _Shape("get $contains of 10 %", "get", _document(lambda i: f"kind{i % 10} "), least),
        _Shape("get by ten ids", "get", lambda i, _n: {"ids": [f"id-{(i + k) % _SMALL}" for k in range(10)]}),
        _Shape("get, limit 10", "get", lambda _i, _n: {"limit": 10}),
        _Shape("count", "count", lambda _i, _n: {}),
    ]


def _where(where: Callable[[int], dict[str, Any]], **more: Any) -> Body:
    return lambda number, _size: {"where": where(number), **more}


def _document(text: Callable[[int], str], **more: Any) -> Body:
    return lambda number, _size: {"where_document": {"$contains": text(number)}, **more}


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

    def fill(self, name: str, numbers: range, dimension: int) -> None:
        """Makes a collection of records that differ by their number alone, on either side."""
        self.collections[name] = self.client.create(name)
        self.put(name, numbers, dimension)

    def put(self, name: str, numbers: range, dimension: int) -> None:
        """Writes records."""
        random = np.random.default_rng(len(numbers))
        for start in range(numbers.start, numbers.stop, _BATCH):
            batch = range(start, min(start + _BATCH, numbers.stop))
            body = {
                "ids": [f"id-{number}" for number in batch],
                "embeddings": encode(random.random((len(batch), dimension), dtype=np.float32) - 0.5),
                "documents": [f"number {number} of its kind{number % 10} and no other" for number in batch],
                "metadatas": [_metadata(number) for number in batch],
            }
            self.client.post(self.collections[name], "upsert", json.dumps(body).encode())

    def again(self) -> None:
        """Restarts it and has it load all that it holds."""
        self.server.stop()
        self.server.start()
        self.client = Client(self.server.port)
        for collection in self.collections.values():
            self.client.post(collection, "get", b'{"limit": 1}')

    def send(self, collection: str, verb: str, body: bytes) -> None:
        """One request."""
        if verb == "count":
            self.client.count(self.collections[collection])
        else:
            self.client.post(self.collections[collection], verb, body)


def _metadata(number: int) -> dict[str, Any]:
    return {
        "n": number,
        "t": number // 10,
        "p": number % 100,
        "g": number % 10,
        "f": number + 0.5,
        "s": f"user-{number}",
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
    options: Options, sides: Sequence[_Side], collection: str, size: int, where: str, shapes: Sequence[_Shape]
) -> list[Figure]:
    figures = [Figure(f"{shape.name}, {where} (1/s)", at_least=shape.at_least) for shape in shapes]
    number = count()
    for turn in range(options.rounds + 1):
        for shape, figure in zip(shapes, figures, strict=True):
            # The same requests to both. More than there is time for, but of those that delete.
            bodies = [json.dumps(shape.body(next(number), size)).encode() for _ in range(20)]
            for side in sides if turn % 2 == 0 else reversed(sides):
                rate = _rate(side, collection, shape, bodies)
                # The first turn is for the caches.
                if turn:
                    (figure.ours if side.ours else figure.stock).append(rate)
    return figures


def _rate(side: _Side, collection: str, shape: _Shape, bodies: Sequence[bytes]) -> float:
    started = time.perf_counter()
    done = 0
    while done < len(bodies) or shape.verb != "delete":
        side.send(collection, shape.verb, bodies[done % len(bodies)])
        done += 1
        if shape.verb != "delete" and time.perf_counter() - started > _SAMPLE:
            break
    return done / (time.perf_counter() - started)


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
                (figure.ours if side.ours else figure.stock).append(1 / (time.perf_counter() - started))
    return [tenth, whole]
