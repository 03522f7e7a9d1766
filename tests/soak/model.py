"""Operations on a collection, and what a collection holds after them."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tests.bench.client import encode

# Of each document, so that it can be told apart in a file's bytes
TOKEN = "token-%016x"

_BATCH = 20


@dataclass(frozen=True)
class Record:
    """vector: little-endian 32-bit floats. version: the metadata."""

    vector: bytes
    document: str
    version: int


State = dict[str, Record]


@dataclass(frozen=True)
class Operation:
    """One request. verb: add, update, upsert or delete. Each record has the fields in `fields`; a delete has none."""

    verb: str
    records: dict[str, Record]
    fields: frozenset[str] = frozenset({"vector", "document", "version"})

    def apply(self, state: State) -> None:
        """Changes a state as the engine does: an add of an id that is there is ignored, as is an update of one that is not."""
        for key, record in self.records.items():
            if self.verb == "delete":
                state.pop(key, None)
            elif self.verb == "upsert" or (self.verb == "add" and key not in state):
                state[key] = record
            elif self.verb == "update" and key in state:
                state[key] = replace(state[key], **{name: getattr(record, name) for name in self.fields})

    def body(self) -> bytes:
        """The request as the engine takes it."""
        body: dict[str, object] = {"ids": list(self.records)}
        records = list(self.records.values())
        if self.verb != "delete":
            if "vector" in self.fields:
                body["embeddings"] = encode(np.array([np.frombuffer(each.vector, "<f4") for each in records]))
            if "document" in self.fields:
                body["documents"] = [record.document for record in records]
            if "version" in self.fields:
                body["metadatas"] = [{"version": record.version} for record in records]
        return json.dumps(body).encode()


class Script:
    """An endless mix of operations on a pool of ids of one's own, the same for the same seed."""

    def __init__(self, prefix: str, dimension: int, pool: int) -> None:
        self._random = random.Random(prefix)
        self._numbers = np.random.default_rng(self._random.randrange(1 << 30))
        self._dimension = dimension
        self._keys = [f"{prefix}-{number}" for number in range(pool)]
        self._present: set[str] = set()
        self._version = 0
        # Vectors of updates that came before the record and must not have had an effect, by key.
        self.early: dict[str, set[bytes]] = {}

    def first(self) -> list[Operation]:
        """Operations that fill half of the pool."""
        keys = self._keys[::2]
        self._present.update(keys)
        return [Operation("add", self._records(keys[start : start + 500])) for start in range(0, len(keys), 500)]

    def next(self) -> Operation:
        """One more."""
        keys = self._random.sample(self._keys, self._random.randrange(1, _BATCH))
        there = [key for key in keys if key in self._present]
        missing = [key for key in keys if key not in self._present]
        # Now and then something that has no effect.
        odd = self._random.random() < 0.05
        verb = self._random.choices(("add", "update", "upsert", "delete"), (25, 30, 25, 20))[0]
        fields = {"vector", "document", "version"}
        if verb == "upsert" or odd:
            chosen = keys
        elif verb == "add":
            chosen = missing
        else:
            chosen = there
        if not chosen:
            verb, chosen = "upsert", keys
        if verb == "update":
            fields = self._random.choice((fields, {"vector"}, {"document"}, {"document", "version"}))
        if verb == "delete":
            self._present.difference_update(chosen)
        elif verb != "update":
            self._present.update(chosen)
        records = self._records(chosen)
        if verb == "update" and "vector" in fields:
            for key in records.keys() - self._present:
                self.early.setdefault(key, set()).add(records[key].vector)
        return Operation(verb, records, frozenset(fields))

    def _records(self, keys: Sequence[str]) -> State:
        self._version += 1
        vectors = self._numbers.integers(-1024, 1024, (len(keys), self._dimension)).astype("<f4") / 1024
        return {
            key: Record(
                vector.astype("<f4").tobytes(), f"{TOKEN % self._random.getrandbits(64)} of {key}", self._version
            )
            for key, vector in zip(keys, vectors, strict=True)
        }
