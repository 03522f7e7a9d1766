"""Whether an engine serves what a directory held: every record of every collection, against `store.contents`."""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chromad.chroma import contents
from chromad.chroma.contents import Contents, HeldCollection, Record
from chromad.engine.api import Api
from chromad.errors import EngineError, RecordLost

# Records of one request, and the numbers of all their vectors
_PAGE, _NUMBERS = 500, 200_000
# Where the space is cosine the engine keeps vectors normalised, which costs their last bits; and all of those whose squared
# length is out of range for 32 bits.
_TOLERANCE = 1e-5
_SQUARES = 1e-37, 3e38
_SHOWN = 20

Progress = Callable[[str, int, int], None]
Lose = Callable[[HeldCollection, Sequence[str]], None]


@dataclass
class Differences:
    """found: in words, the first of `count`. compared: records. unknown: those of them without their vectors, which were
    lost in the directory (Chroma before 1.0 loses some by itself), or all zero, which looks like a hole in a file; named: the
    first of these.
    """

    found: list[str] = field(default_factory=list)
    count: int = 0
    compared: int = 0
    unknown: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Notes one."""
        self.count += 1
        if len(self.found) < _SHOWN:
            self.found.append(text)


def compare(api: Api, held: Contents, lost: Lose, progress: Progress) -> Differences:
    """Asks an engine for all that a directory held. A collection that it cannot serve is a difference.

    lost: called with records that the engine has no vector of.
    """
    return _Comparison(api, held, lost).run(progress)


class _Comparison:
    def __init__(self, api: Api, held: Contents, lost: Lose) -> None:
        self._api = api
        self._held = held
        self._lost = lost
        self._differences = Differences()

    def run(self, progress: Progress) -> Differences:
        total = sum(self._held.count(each) for each in self._held.collections)
        for collection in self._held.collections:
            try:
                for done in self._compare(collection):
                    self._differences.compared += done
                    progress("comparing with what it held", self._differences.compared, total)
            except (EngineError, OSError) as error:
                self._differences.add(f"{collection.held.name}: {error}")
        return self._differences

    def _compare(self, collection: HeldCollection) -> Iterator[int]:
        """One collection; how many records, a page at a time."""
        if not _same_collection(self._api, collection, self._differences):
            return
        wanted, count = self._held.count(collection), self._api.count(*_place(collection))
        if count != wanted:
            self._differences.add(f"{collection.held.name}: has {count} records instead of {wanted}")
        size = max(1, min(_PAGE, _NUMBERS // (collection.held.dimension or 1)))
        for page in self._held.pages(collection, size):
            self._compare_page(collection, page, alone=count == 1)
            yield len(page)

    def _compare_page(self, collection: HeldCollection, page: Sequence[Record], *, alone: bool) -> None:
        # The engine gives no record of all that are asked for when one has no vector.
        whole = [record.id for record in page if record.vectors]
        rest = [record.id for record in page if not record.vectors]
        api, differences = self._api, self._differences
        served = {each["id"]: each for each in (*_records(api, collection, whole), *_plain(api, collection, rest))}
        there = {each["id"] for each in _records(api, collection, rest)}
        self._lost(collection, [each for each in rest if each not in there])
        differences.unknown += len(rest)
        differences.named += [f"{collection.held.name}: {each}" for each in rest[: _SHOWN - len(differences.named)]]
        for record in page:
            if record.id not in served:
                differences.add(f"{collection.held.name}: the record {record.id} is missing, or has no vector")
            elif wrong := _wrong(record, served[record.id], collection, alone=alone):
                differences.add(f"{collection.held.name}: the record {record.id} has another {wrong}")


def _place(collection: HeldCollection) -> tuple[str, str, str]:
    return collection.held.tenant, collection.held.database, collection.held.id


def _same_collection(api: Api, collection: HeldCollection, differences: Differences) -> bool:
    held = collection.held
    served = api.collection(held.tenant, held.database, held.name)
    if served is None or served["id"] != held.id:
        differences.add(f"{held.name}: is missing in {held.tenant}/{held.database}")
        return False
    if (served["metadata"] or {}) != collection.metadata:
        differences.add(f"{held.name}: has other metadata")
    if held.dimension is not None and served["dimension"] != held.dimension:
        differences.add(f"{held.name}: has dimension {served['dimension']} instead of {held.dimension}")
    return True


def _wrong(record: Record, served: Mapping[str, Any], collection: HeldCollection, *, alone: bool) -> str:
    """Names what is not as it was; empty when all is."""
    if contents.document_digest(served["document"]) != record.document:
        return "document"
    if contents.metadata_digest(served["uri"], served["metadata"]) != record.metadata:
        return "metadata"
    # Chroma loses the update of a record that is alone in its collection.
    if alone or not record.vectors:
        return ""
    found = array("f", served["embedding"] or [])
    if any(_same(found, vector, cosine=collection.cosine) for vector in record.vectors):
        return ""
    return "vector"


def _same(found: "array[float]", vector: bytes, *, cosine: bool) -> bool:
    if found.tobytes() == vector:
        return True
    wanted = array("f", vector)
    if not cosine or len(found) != len(wanted):
        return False
    if not _SQUARES[0] < sum(each * each for each in wanted) < _SQUARES[1]:
        return True
    bound = _TOLERANCE * max(map(abs, wanted), default=0.0)
    return all(abs(a - b) <= bound for a, b in zip(found, wanted, strict=True))


def _records(api: Api, collection: HeldCollection, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Records by their ids, but for those whose vector the engine does not have."""
    if not ids:
        return []
    try:
        return api.records(*_place(collection), {"ids": list(ids)})
    except RecordLost:
        pass
    if len(ids) == 1:
        return []
    half = len(ids) // 2
    return [*_records(api, collection, ids[:half]), *_records(api, collection, ids[half:])]


def _plain(api: Api, collection: HeldCollection, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Records without their vectors."""
    return api.records(*_place(collection), {"ids": list(ids)}, vectors=False) if ids else []
