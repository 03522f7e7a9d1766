"""Random collections: settings, ids, and batches of adds, updates, upserts and deletes, all from one seed."""

import random
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.segments import engine, pieces
from tests.segments.engine import Vector

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection


@dataclass
class Workload:
    """A collection, and what it must hold.

    random: where the next step comes from. largest: records of a batch. given: ids made so far. kinds: weights of the kinds
    of steps; a churn adds records and deletes them at once.
    """

    name: str
    random: random.Random
    dimension: int
    space: str
    neighbors: int
    threshold: int
    style: str
    largest: int
    vectors: dict[str, Vector] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    given: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: {"add": 4, "update": 2, "upsert": 2, "delete": 2, "churn": 1})

    def step(self, collection: "Collection") -> None:
        """Does one random batch in the collection and here."""
        kind = self.random.choices(list(self.kinds), list(self.kinds.values()))[0]
        if kind == "update" and not self.vectors:
            kind = "add"
        if kind == "delete" and len(self.vectors) < 4:
            kind = "upsert"
        count = self.random.choice([1, self.random.randint(1, 9), self.random.randint(1, self.largest)])
        self._do(collection, kind, count)

    def _do(self, collection: "Collection", kind: str, count: int) -> None:
        left = 0 if kind == "update" else 2
        old = self.random.sample(sorted(self.vectors), max(0, min(count, len(self.vectors) - left)))
        if kind == "churn":
            fleeting = self._new(count)
            collection.add(ids=fleeting, embeddings=np.array([self._vector() for _ in fleeting]))
            collection.delete(ids=fleeting)
            return
        if kind == "delete":
            collection.delete(ids=old)
            for key in old:
                del self.vectors[key]
            self.deleted += old
            return
        if kind == "update":
            written = old
        elif kind == "add":
            written = self._new(count)
        else:
            written = old[: count // 2] + self._new(count - count // 2)
        vectors = np.array([self._vector() for _ in written], dtype=np.float32)
        getattr(collection, kind)(ids=written, embeddings=vectors)
        self.vectors.update(zip(written, vectors, strict=True))

    def _new(self, count: int) -> list[str]:
        again = [key for key in self.deleted[-count // 3 :] if key not in self.vectors] if count > 2 else []
        self.deleted = [key for key in self.deleted if key not in again]
        return list(dict.fromkeys(again + [self._id() for _ in range(count - len(again))]))

    def _id(self) -> str:
        self.given += 1
        if self.style == "uuid":
            return str(uuid.UUID(int=self.random.getrandbits(128)))
        if self.style == "unicode":
            return f"{self.random.choice('äß€🙂中')}{self.given}"
        if self.style == "long":
            return f"{self.given}-" + "x" * self.random.choice([1, 100, 300, 5000])
        return f"id-{self.given}"

    def _vector(self) -> Vector:
        numbers = np.random.default_rng(self.random.getrandbits(64))
        if self.random.random() < 0.02:
            return np.zeros(self.dimension, dtype=np.float32)
        return numbers.standard_normal(self.dimension, dtype=np.float32)


def make(seed: int, name: str = "workload") -> Workload:
    """The workload of a seed, before its first step."""
    numbers = random.Random(seed)
    return Workload(
        name,
        numbers,
        dimension=numbers.choice([1, 2, 3, 8, 17, 64, 128, 384]),
        space=numbers.choice(["l2", "cosine", "ip"]),
        neighbors=numbers.choice([2, 3, 4, 8, 16, 16, 32, 64]),
        threshold=numbers.choice([2, 3, 10, 30, 100, 100, 1000]),
        style=numbers.choice(["uuid", "plain", "unicode", "long"]),
        largest=numbers.choice([5, 40, 40, 120, 300]),
    )


def open_or_create(data: Path, workload: Workload) -> "Collection":
    """The workload's collection, made when it is new."""
    found = engine.client(data)
    if workload.given:
        return found.get_collection(workload.name, embedding_function=None)
    return engine.create(
        found, workload.name, threshold=workload.threshold, neighbors=workload.neighbors, space=workload.space
    )


def phase(data: Path, workload: Workload, steps: int) -> tuple[Workload, int]:
    """Some steps in one life of the engine, the segment being examined after each of them. To be called by `engine.run`.

    Gives the workload as it is then, and how often there was something to examine. Raises Damage on a false alarm.
    """
    collection = open_or_create(data, workload)
    examined = 0
    for _ in range(steps):
        workload.step(collection)
        examined += pieces.examine(engine.segment(data, workload.name), workload.random).live > 0
    return workload, examined
