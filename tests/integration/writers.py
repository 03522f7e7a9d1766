"""Clients that write at the same time, and remember what the server has acknowledged."""

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.integration import records
from tests.integration.daemon import Daemon
from tests.integration.records import Record

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

Seen = dict[str, dict[str, int]]


@dataclass
class History:
    """The states of one record in the order in which they were sent, the last acknowledged one by its index."""

    states: list[Record | None] = field(default_factory=lambda: [None])
    acknowledged: int = 0


class Writer(threading.Thread):
    """Adds, updates, upserts and deletes records of its own until it is stopped or the server is gone."""

    def __init__(self, collection: "Collection", prefix: str, dimension: int) -> None:
        super().__init__(daemon=True)
        self.collection = collection
        self.histories: dict[str, History] = {}
        self.error: Exception | None = None
        self._prefix = prefix
        self._dimension = dimension
        self._random = random.Random(prefix)
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        while not self._ended.is_set():
            batch = self._batch()
            with self._lock:
                for key, state in batch.items():
                    self.histories.setdefault(key, History()).states.append(state)
            try:
                self._send(batch)
            except Exception as error:
                self.error = error
                return
            with self._lock:
                for key in batch:
                    self.histories[key].acknowledged = len(self.histories[key].states) - 1

    def acknowledged(self) -> dict[str, int]:
        """By record, which of its states was acknowledged last."""
        with self._lock:
            return {key: history.acknowledged for key, history in self.histories.items()}

    def _batch(self) -> dict[str, Record | None]:
        present = [key for key, history in self.histories.items() if history.states[-1]]
        if len(present) > 20 and self._random.random() < 0.2:
            return dict.fromkeys(self._random.sample(present, 5))
        again = self._random.sample(sorted(self.histories), min(5, len(self.histories)))
        new = [f"{self._prefix}-{len(self.histories) + number}" for number in range(self._random.randrange(1, 10))]
        return {key: records.make(key, self._version(key), self._dimension) for key in (*again, *new)}

    def _version(self, key: str) -> int:
        return len(self.histories[key].states) if key in self.histories else 1

    def _send(self, batch: Mapping[str, Record | None]) -> None:
        kept = {key: record for key, record in batch.items() if record}
        if kept:
            records.upsert(self.collection, kept)
        else:
            self.collection.delete(ids=list(batch))


class Writers:
    """Several writers over several collections."""

    def __init__(self, daemon: Daemon, thresholds: Mapping[str, int], each: int, dimension: int = 8) -> None:
        """thresholds: sync_threshold by name of collection. each: writers per collection."""
        self.names = list(thresholds)
        self._all: list[Writer] = []
        for name, threshold in thresholds.items():
            records.create(daemon.client(), name, threshold)
            for number in range(each):
                collection = daemon.client().get_collection(name, embedding_function=None)
                self._all.append(Writer(collection, f"{name}-{number}", dimension))

    def start(self) -> None:
        for writer in self._all:
            writer.start()

    def written(self) -> int:
        """How many writes of a record have been acknowledged by now, over all writers."""
        return sum(count for seen in self.acknowledged().values() for count in seen.values())

    def stop(self) -> None:
        """Lets them finish what they have begun; fails when the server had refused something."""
        for writer in self._all:
            writer.stop()
        self.join()
        assert not self.errors()

    def join(self) -> None:
        for writer in self._all:
            writer.join(60)
            assert not writer.is_alive()

    def errors(self) -> list[Exception]:
        """What ended the writers that did not end by themselves."""
        return [writer.error for writer in self._all if writer.error]

    def acknowledged(self) -> Seen:
        """By collection and record, which of its states was acknowledged last."""
        seen: Seen = {name: {} for name in self.names}
        for writer in self._all:
            seen[writer.collection.name] |= writer.acknowledged()
        return seen

    def assert_kept(self, daemon: Daemon, since: Seen) -> None:
        """Each record is in the state that `since` says or in one that was sent after it; nothing else is there."""
        client = daemon.client()
        sent: dict[str, dict[str, History]] = {name: {} for name in self.names}
        for writer in self._all:
            sent[writer.collection.name] |= writer.histories
        for name in self.names:
            collection = client.get_collection(name, embedding_function=None)
            found = records.read(collection)
            assert collection.count() == len(found)
            assert found.keys() <= sent[name].keys()
            wrong = [
                (key, since[name].get(key, 0), found.get(key), history.states)
                for key, history in sent[name].items()
                if found.get(key) not in history.states[since[name].get(key, 0) :]
            ]
            assert not wrong, f"{len(wrong)} of {len(sent[name])} differ in {name}, such as {wrong[0]}"
            records.assert_found(collection, found)
