"""What clients have written, and what must be there after a crash.

Each client owns its ids, so what was acknowledged to it says exactly what the server must hold. A request without an
answer may have happened or not, but only as a whole: the engine appends a request to its log in one transaction.
"""

import base64
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Record:
    """vector: 32-bit floats as they lie in memory."""

    vector: bytes
    document: str
    metadata: Mapping[str, int | str]
    uri: str = ""


@dataclass(frozen=True)
class Recipe:
    """A collection to write to. threshold: its sync_threshold. size: records to hold, about. largest: of its batches."""

    name: str
    dimension: int
    threshold: int
    size: int
    largest: int


# A record before and after; None where there is none.
Change = tuple[Record | None, Record | None]


@dataclass(frozen=True)
class Request:
    """path: below the collection. changes: by id."""

    path: str
    body: dict[str, object]
    changes: Mapping[str, Change]


@dataclass
class Differences:
    """Ids that are not as they must be; wrong: with what differs, those of requests that happened by half included.

    set_back: with the vector of an update that came before the record and must not have had an effect. That is a fault
    of Chroma 1.5.9 which needs no crash: a read makes the engine apply its log from the last persist once more, and
    then the update finds the record.
    """

    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    risen: list[str] = field(default_factory=list)
    set_back: list[str] = field(default_factory=list)


class Client:
    """Makes requests for one collection and keeps what they must lead to.

    records: what the server holds if no request is open. open: sent, outcome unknown; their ids stay out of further
    requests until `settle`.
    """

    def __init__(self, recipe: Recipe, prefix: str) -> None:
        self.recipe = recipe
        self.prefix = prefix
        self.records: dict[str, Record] = {}
        self.open: list[Request] = []
        self._made = 0
        self._requests = 0
        self._gone: list[str] = []
        # The vectors of updates of ids that were not there.
        self._early: dict[str, bytes] = {}
        self._set_back: set[str] = set()
        self._next: list[Callable[[], Request]] = []
        self.seed("")

    def seed(self, text: str) -> None:
        """Makes the requests from here on depend on this text and on what is there."""
        self._random = random.Random(f"{self.prefix} {text}")
        self._numbers = np.random.default_rng(list(f"{self.prefix} {text}".encode()))
        self._next.clear()

    def fill(self) -> Request:
        """Adds a large batch of new records."""
        return self._add(self._new(min(500, self.recipe.size - len(self.records))))

    def add(self, size: int) -> Request:
        """Adds some new records."""
        return self._add(self._new(size))

    def delete(self, size: int) -> Request:
        """Deletes some records."""
        return self._delete(size)

    def move(self, size: int) -> Request:
        """Gives some records other vectors."""
        return self._update_vector(size)

    def request(self, *, large: bool = False) -> Request:
        """The next request. large: as many records as the collection takes at once."""
        following = self._next.pop() if self._next else None
        if following and not self.open:
            return following()
        size = (
            self.recipe.largest
            if large
            else min(self.recipe.largest, self._random.choice((1, 1, 1, 2, 5, 10, 40, 200)))
        )
        full = len(self.records) > self.recipe.size
        kinds = {
            self._add_some: 1 if full else 5,
            self._upsert: 2 if full else 4,
            self._update: 4,
            self._update_vector: 3,
            self._update_absent: 1 if full else 2,
            self._delete: 8 if full else 2,
            self._delete_where: 6 if full else 1,
        }
        kind = self._random.choices(list(kinds), list(kinds.values()))[0]
        return kind(size)

    def acknowledge(self, request: Request) -> None:
        """The request has happened."""
        self.open.remove(request)
        self._apply(request)

    def settle(self, found: Mapping[str, Record]) -> Differences:
        """Compares with what the server holds of this client, and takes over how open requests have ended."""
        differences = Differences()
        found = self._without_set_back(found, differences)
        doubtful = set()
        for request in self.open:
            ids = [key for key, (before, after) in request.changes.items() if before != after]
            if all(found.get(key) == request.changes[key][1] for key in ids):
                self._apply(request)
            elif not all(found.get(key) == request.changes[key][0] for key in ids):
                doubtful.update(ids)
                for key in ids:
                    before, after = (_difference(side, found.get(key)) for side in request.changes[key])
                    differences.wrong.append(f"{key}: before an open {request.path} {before}, after it {after}")
        self.open.clear()
        return self._compare(found, differences, doubtful)

    def compare(self, found: Mapping[str, Record]) -> Differences:
        """As `settle`, but looks only at ids without an open request, and leaves those as they are."""
        differences = Differences()
        return self._compare(self._without_set_back(found, differences), differences, self._frozen())

    def _compare(self, found: Mapping[str, Record], differences: Differences, leave_out: set[str]) -> Differences:
        expected = self.records.keys() - leave_out
        present = found.keys() - leave_out
        differences.lost = sorted(expected - present)
        differences.risen = sorted(present - expected)
        for key in sorted(present & expected):
            if self.records[key] != found[key]:
                differences.wrong.append(f"{key}: {_difference(self.records[key], found[key])}")
        return differences

    def owns(self, key: str) -> bool:
        return key.startswith(f"{self.prefix}-")

    # Requests

    def _add_some(self, size: int) -> Request:
        # Adding what is there changes nothing; what was deleted may come back.
        again = self._sample(self._free(self.records), size // 5)
        back = self._sample(self._free(self._gone), size // 2)
        return self._add([*again, *dict.fromkeys(back), *self._new(size)])

    def _add(self, keys: list[str]) -> Request:
        keys = list(dict.fromkeys(keys))
        made = self._make(keys)
        changes: dict[str, Change] = {key: (self.records.get(key), self.records.get(key) or made[key]) for key in keys}
        return Request("add", _columns(made), changes)

    def _upsert(self, size: int) -> Request:
        keys = [*self._sample(self._free(self.records), size), *self._sample(self._free(self._gone), size // 5)]
        keys = list(dict.fromkeys([*keys, *self._new(size // 2)])) or self._new(1)
        made = self._make(keys)
        changes: dict[str, Change] = {
            key: (self.records.get(key), _merged(self.records.get(key), made[key])) for key in keys
        }
        return Request("upsert", _columns(made), changes)

    def _update(self, size: int) -> Request:
        """Metadata, documents or both; vectors stay."""
        keys = self._sample(self._free(self.records), size)
        if not keys:
            return self._add(self._new(size))
        made = self._make(keys)
        body: dict[str, object] = {"ids": keys}
        with_metadata, with_document = self._random.choice(((True, False), (False, True), (True, True)))
        drop_note = with_metadata and self._random.random() < 0.5
        changes: dict[str, Change] = {}
        for key in keys:
            before = self.records[key]
            metadata = dict(before.metadata)
            if with_metadata:
                metadata |= made[key].metadata
                if drop_note:
                    metadata.pop("note", None)
            document = made[key].document if with_document else before.document
            changes[key] = (before, replace(before, document=document, metadata=metadata))
        if with_metadata:
            gone: dict[str, int | str | None] = {"note": None} if drop_note else {}
            body["metadatas"] = [{**made[key].metadata, **gone} for key in keys]
        if with_document:
            body["documents"] = [made[key].document for key in keys]
        return Request("update", body, changes)

    def _update_vector(self, size: int) -> Request:
        keys = self._sample(self._free(self.records), size)
        if not keys:
            return self._add(self._new(size))
        made = self._make(keys)
        changes: dict[str, Change] = {}
        for key in keys:
            before = self.records[key]
            changes[key] = (before, replace(before, vector=made[key].vector))
        return Request("update", {"ids": keys, "embeddings": _vectors(made)}, changes)

    def _update_absent(self, size: int) -> Request:
        """Updates of ids that are not there change nothing; in the log they stand before the adds that come next."""
        absent = [*self._sample(self._free(self._gone), size // 2), *self._new(max(1, size // 2))]
        absent = list(dict.fromkeys(absent))
        self._next.append(lambda: self._add(absent))
        made = self._make(absent)
        body = _columns(made)
        if self._random.random() < 0.7:
            del body["embeddings"]
        else:
            self._early |= {key: record.vector for key, record in made.items()}
        return Request("update", body, dict.fromkeys(absent, (None, None)))

    def _delete(self, size: int) -> Request:
        keys = self._sample(self._free(self.records), size)
        if not keys:
            return self._add(self._new(size))
        return Request("delete", {"ids": keys}, {key: (self.records[key], None) for key in keys})

    def _delete_where(self, size: int) -> Request:
        free = self._free(self.records)
        if not free:
            return self._add(self._new(size))
        group = self.records[self._random.choice(free)].metadata["group"]
        keys = [key for key, record in self.records.items() if record.metadata["group"] == group]
        if set(keys) & self._frozen():
            return self._delete(size)
        return Request("delete", {"where": {"group": group}}, {key: (self.records[key], None) for key in keys})

    def _apply(self, request: Request) -> None:
        for key, (before, after) in request.changes.items():
            if before and (after is None or after.vector != before.vector):
                self._early.pop(key, None)
            if after is None:
                if before is not None:
                    del self.records[key]
                    self._gone.append(key)
            else:
                self.records[key] = after
        del self._gone[:-500]
        self._gone = [key for key in self._gone if key not in self.records]

    def _without_set_back(self, found: Mapping[str, Record], differences: Differences) -> Mapping[str, Record]:
        """What would have been found without that fault; notes where it showed for the first time.

        A segment that is rebuilt from the log has the right vector again.
        """
        sent = {key: after for request in self.open for key, (_, after) in request.changes.items()}
        found = dict(found)
        for key, vector in self._early.items():
            right = self.records.get(key) or sent.get(key)
            if right and key in found and found[key].vector == vector != right.vector:
                found[key] = replace(found[key], vector=right.vector)
                if key not in self._set_back:
                    self._set_back.add(key)
                    differences.set_back.append(key)
        return found

    def _frozen(self) -> set[str]:
        return {key for request in self.open for key in request.changes}

    def _free(self, keys: Iterable[str]) -> list[str]:
        frozen = self._frozen()
        return [key for key in keys if key not in frozen]

    def _sample(self, keys: list[str], size: int) -> list[str]:
        return self._random.sample(keys, min(size, len(keys)))

    def _new(self, size: int) -> list[str]:
        self._made += size
        return [f"{self.prefix}-{number}" for number in range(self._made - size, self._made)]

    def _make(self, keys: list[str]) -> dict[str, Record]:
        self._requests += 1
        vectors = self._numbers.standard_normal((len(keys), self.recipe.dimension), dtype=np.float32)
        made = {}
        for key, vector in zip(keys, vectors, strict=True):
            text = f"{key}, written by request {self._requests}: {self._random.getrandbits(64):x}"
            metadata: dict[str, int | str] = {"request": self._requests, "group": f"{self.prefix}/{self._requests}"}
            if self._random.random() < 0.5:
                metadata["note"] = f"note {self._random.getrandbits(16)}"
            made[key] = Record(vector.tobytes(), text, metadata, f"memory:{key}/{self._requests}")
        return made


def _merged(before: Record | None, written: Record) -> Record:
    """What an upsert leads to: it replaces vector, document and uri, and merges metadata."""
    if before is None:
        return written
    return replace(written, metadata={**before.metadata, **written.metadata})


def _difference(expected: Record | None, found: Record | None) -> str:
    if expected == found:
        return "equal"
    if expected is None or found is None:
        return "missing" if expected else "not expected"
    return "other " + ", ".join(name for name in vars(expected) if getattr(expected, name) != getattr(found, name))


def _columns(records: Mapping[str, Record]) -> dict[str, object]:
    return {
        "ids": list(records),
        "embeddings": _vectors(records),
        "documents": [record.document for record in records.values()],
        "metadatas": [record.metadata for record in records.values()],
        "uris": [record.uri for record in records.values()],
    }


def _vectors(records: Mapping[str, Record]) -> list[str]:
    return [base64.b64encode(record.vector).decode() for record in records.values()]
