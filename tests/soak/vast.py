"""A large collection that is written one record at a time, and what a copy of it may hold.

Its writer goes through a list of upserts again and again: each one gives a record of a few hundred the next of several
values, so that what a copy holds tells how many writes had been done.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from chromad.chroma import sqlite

from tests.bench.client import Client, upserts
from tests.bench.servers import Chromad, Stock
from tests.bench.stalls import Persists, Span, Writer

_NAME = "vast"
_KEYS = 500
_VALUES = 8
_BATCH = 500
_SAMPLE = 10

# The bytes of a vector, and a document
_Value = tuple[bytes, str]


@dataclass(frozen=True)
class Found:
    """What a copy of the collection holds that was taken within a span: for each written record, which of its values."""

    span: Span
    values: list[int]


class Vast:
    """The collection on a server, and its writer. pause: as it has. spans: all writes, after `stop`."""

    def __init__(self, server: Chromad, records: int, pause: float = 0.0) -> None:
        self.spans: list[Span] = []
        self.records = max(records, _KEYS)
        numbers = np.random.default_rng(0)
        client = Client(server.port)
        self.collection = client.create(_NAME)
        for start in range(0, self.records, 10_000):
            keys = [_key(number) for number in range(start, min(start + 10_000, self.records))]
            for body in upserts(keys, _BATCH, numbers):
                client.post(self.collection, "upsert", body)
        written = [_key(number) for number in range(_KEYS)]
        bodies = [body for _ in range(_VALUES) for body in upserts(written, 1, numbers)]
        self._values = [_value(body) for body in bodies]
        for body in bodies[-_KEYS:]:
            client.post(self.collection, "upsert", body)
        [uuid] = [each.segment for each in sqlite.collections(server.data) if each.id == self.collection]
        self._persists = Persists(server.data / uuid)
        self._writer = Writer(server.port, self.collection, bodies, pause)

    @property
    def persists(self) -> list[Span]:
        """When the engine wrote the files of the segment."""
        return self._persists.spans

    def stop(self) -> None:
        """Ends the writer. Raises EOFError when one of its writes has failed."""
        self._persists.stop()
        self.spans = self._writer.stop()

    def look(self, server: Stock, span: Span) -> tuple[Found, list[str]]:
        """Reads a copy that was taken within a span; gives what it holds, and what is wrong whenever it was taken."""
        client = Client(server.port)
        count = client.count(self.collection)
        wrong = [] if count == self.records else [f"{_NAME}: {count} records, not {self.records}"]
        found = _read(client, self.collection)
        values = []
        for number in range(_KEYS):
            known = self._values[number::_KEYS]
            value = found.get(_key(number))
            if value in known:
                values.append(known.index(value))
            else:
                values.append(-1)
                wrong.append(f"{_key(number)} has a value that was never written")
        return Found(span, values), wrong + list(_hidden(client, self.collection, found))

    def compare(self, found: Found) -> list[str]:
        """What is wrong with a copy, when it is not what was there at some moment of its span; after `stop`."""
        least = sum(span.end <= found.span.begin for span in self.spans)
        most = sum(span.begin < found.span.end for span in self.spans)
        if any(found.values == _after(writes) for writes in range(least, most + 1)):
            return []
        return [f"{_NAME}: not as after any of the writes {least} to {most}"]


def _after(writes: int) -> list[int]:
    """Which value each record has after so many writes. Before, all have the last one."""
    return [(writes - 1 - number) // _KEYS % _VALUES for number in range(_KEYS)]


def _key(number: int) -> str:
    return f"{_NAME}-{number}"


def _value(body: bytes) -> _Value:
    document = json.loads(body)
    return base64.b64decode(document["embeddings"][0]), document["documents"][0]


def _read(client: Client, collection: str) -> dict[str, _Value]:
    keys = [_key(number) for number in range(_KEYS)]
    body = json.dumps({"ids": keys, "include": ["embeddings", "documents"]}).encode()
    answer = json.loads(client.post(collection, "get", body))
    vectors = [np.array(vector, "<f4").tobytes() for vector in answer["embeddings"]]
    return {
        key: (vector, document)
        for key, vector, document in zip(answer["ids"], vectors, answer["documents"], strict=True)
    }


def _hidden(client: Client, collection: str, found: dict[str, _Value]) -> Iterator[str]:
    """A sample must be found by its vectors; a few may hide, since the index is approximate."""
    keys = list(found)[:: max(len(found) // _SAMPLE, 1)]
    vectors = [np.frombuffer(found[key][0], "<f4").tolist() for key in keys]
    body = json.dumps({"query_embeddings": vectors, "n_results": 5, "include": []}).encode()
    answers = json.loads(client.post(collection, "query", body))["ids"] if keys else []
    hidden = [key for key, answer in zip(keys, answers, strict=True) if key not in answer]
    if len(hidden) > len(keys) // 5:
        yield f"{hidden} of {keys} are not found by their vectors"
