"""Clients that write all the time, and what must be there after each of their operations."""

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.client import Client

from .model import Operation, Script, State


@dataclass(frozen=True)
class Window:
    """A writer's records at one time, and its operations in a span after it.

    early: vectors of updates that came before the record. Chroma itself sets a vector back to one of them at times, crash
    or not, when it applies its log a second time (see tests/crash/model.py).
    """

    prefix: str
    state: State
    sent: list[Operation]
    early: Mapping[str, frozenset[bytes]] = field(default_factory=dict)

    def states(self) -> Iterator[State]:
        """The state, then that after each operation."""
        state = dict(self.state)
        yield state
        for operation in self.sent:
            state = dict(state)
            operation.apply(state)
            yield state


@dataclass(frozen=True)
class Kind:
    """A collection: its name, the numbers of a vector, after how many records it is persisted, how many ids each of its
    writers has."""

    name: str
    dimension: int
    threshold: int
    pool: int
    writers: int = 1


# Small ones that are persisted all the time, and one that takes longer to copy than to be persisted again.
KINDS = (
    Kind("often", 16, 20, 300, 2),
    Kind("sometimes", 64, 150, 1000, 2),
    Kind("default", 384, 1000, 2000),
    Kind("rarely", 8, 3000, 500),
    Kind("large", 256, 50, 6000, 2),
)


class Writer(threading.Thread):
    """Sends operations on ids of its own, one after the other: what is there is always what a first part of them gives.

    pause: seconds between two of them, on average.
    """

    def __init__(self, port: int, collection: str, prefix: str, kind: Kind, pause: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.collection = collection
        self.prefix = prefix
        self.kind = kind
        self.count = 0
        self.error: Exception | None = None
        self.filled = threading.Event()
        self._pause = pause
        self._random = random.Random(prefix)
        self._script = Script(prefix, kind.dimension, kind.pool)
        self._client = Client(port)
        self._lock = threading.Lock()
        self._settled: State = {}
        self._sent: list[Operation] = []
        self._acknowledged = 0
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            for operation in self._operations():
                with self._lock:
                    self._sent.append(operation)
                self._client.post(self.collection, operation.verb, operation.body())
                with self._lock:
                    self._acknowledged += 1
                self.count += 1
        except Exception as error:
            self.error = error
        finally:
            self.filled.set()

    def stop(self) -> None:
        """Returns when its last operation is acknowledged. Raises what has ended it before."""
        self._ended.set()
        self.join()
        if self.error:
            raise self.error

    def settle(self) -> None:
        """What is acknowledged now must be there from here on."""
        with self._lock:
            for operation in self._sent[: self._acknowledged]:
                operation.apply(self._settled)
            del self._sent[: self._acknowledged]
            self._acknowledged = 0

    def window(self) -> "Window":
        """What may have been there at some time since `settle`."""
        with self._lock:
            early = {key: frozenset(vectors) for key, vectors in list(self._script.early.items())}
            return Window(self.prefix, dict(self._settled), list(self._sent), early)

    def _operations(self) -> Iterator[Operation]:
        yield from self._script.first()
        self.filled.set()
        while not self._ended.wait(self._random.uniform(0, 2 * self._pause)):
            yield self._script.next()


def start(port: int, kinds: Sequence[Kind] = KINDS, pause: float = 0.0) -> list[Writer]:
    """Makes the collections, starts their writers, and returns when half of their ids are there. pause: see `Writer`."""
    client = Client(port)
    writers = []
    for kind in kinds:
        collection = client.create(kind.name, kind.threshold)
        writers += [Writer(port, collection, f"{kind.name}-{number}", kind, pause) for number in range(kind.writers)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.filled.wait()
    return writers
