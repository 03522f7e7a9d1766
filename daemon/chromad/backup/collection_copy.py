"""Copies one collection from an engine that has a backup open into the running service, record by record."""

import base64
import math
import sqlite3
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chromad.backup import proof
from chromad.backup.manifest import CollectionEntry
from chromad.chroma import log, sqlite
from chromad.config import Config
from chromad.engine.api import Api, encoded
from chromad.errors import (
    BackupError,
    ChromadError,
    EngineError,
    NotFound,
    RecordLost,
)
from chromad.host import signals

# Records that are read at once: few enough for Chroma's largest batch, and about so many bytes of them
_BATCH, _FIRST = 1000, 50
_READ = 16 << 20
# Bytes of one request, where the engine takes as many, and what a request has beside its records
_BYTES, _FRAME = 4 << 20, 128
_TOO_LARGE = 413  # HTTP
_CLOSE = 1e-5
# Its square is not a 32-bit float.
_TOO_LONG = 3e38
_SHOWN = 20
Progress = Callable[[str, int, int], None]


@dataclass
class Copied:
    """What became of records that the engine does not give, or take, as they are: their ids. from_log: their vector comes from
    the log; unkept: it was too large for cosine; without: nobody has it; large: they are larger than a request may be
    (limit, in bytes)."""

    limit: int
    from_log: list[str] = field(default_factory=list)
    unkept: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    large: list[str] = field(default_factory=list)

    @property
    def lost(self) -> list[str]:
        """Those that are not in the copy."""
        return [*self.without, *self.large]

    def notes(self) -> list[str]:
        """In words."""
        told = (
            (self.from_log, "have a vector that the engine does not keep as it was written; it comes from the log"),
            (
                self.unkept,
                "have a vector that is too large for cosine, so that the engine has not kept it; the copy is alike",
            ),
            (self.without, "are left out: neither the engine nor the log has their vectors"),
            (self.large, f"are left out: each takes more than engine.max_payload_size ({self.limit} bytes)"),
        )
        return [f"{len(ids)} records {text}: {_named(ids)}" for ids, text in told if ids]


class CollectionCopy:
    """Copies one collection from an engine that has the backup open into the service. directory: of that engine."""

    def __init__(self, config: Config, source: Api, target: Api, entry: CollectionEntry, directory: Path) -> None:
        self._source, self._target = source, target
        self._entry = entry
        self._directory = directory
        self._place = (entry.tenant, entry.database)
        limit = config.engine.max_payload_size
        self._bytes = min(limit - _FRAME, _BYTES)
        self._largest = limit - _FRAME
        self._found = Copied(limit)
        self._added_again: set[str] | None = None

    def run(self, name: str, target: str, progress: Progress) -> Copied:
        """Makes the collection `name`, fills it and renames it to `target`. Raises BackupError, after removing it, when that does
        not succeed."""
        try:
            uuid = self._create(name)
            self._fill(uuid, progress)
            wanted = self._entry.records - len(self._found.lost)
            # More than that is what clients have added meanwhile.
            if (count := self._target.count(*self._place, uuid)) < wanted:
                raise EngineError(f"the copy has {count} records instead of {wanted}")
            self._compare(uuid)
            with signals.deferred():
                self._target.rename(*self._place, uuid, target)
                signals.finished()
        except (EngineError, OSError) as error:
            self._remove(name)
            raise BackupError(f"copying stopped: {error}", "the incomplete copy is removed again; try again") from None
        except BaseException as error:
            if isinstance(error, signals.Interrupted) and signals.is_finished():
                raise
            self._remove(name)
            if isinstance(error, signals.Interrupted):
                error.done = f"the incomplete copy {name!r} is removed again"
            raise
        return self._found

    def _create(self, name: str) -> str:
        described = self._source.collection(*self._place, self._entry.name)
        if described is None:
            raise BackupError(f"the backup does not open the collection {self._entry.name!r}", "choose another backup")
        body = {"name": name, "metadata": described.get("metadata")}
        # The engine takes one of them; the schema says more, but does not go with settings in the metadata (Chroma before 1.0).
        if described.get("schema") and not any(key.startswith("hnsw:") for key in described.get("metadata") or {}):
            body["schema"] = described["schema"]
        else:
            body["configuration"] = described.get("configuration_json")
        try:
            created = self._target.post(
                *self._place, "", {key: value for key, value in body.items() if value is not None}
            )
        except EngineError as error:
            raise ChromadError(
                f"the service does not make the collection {name!r}: {error.message}", "another name may do: --into"
            ) from None
        return str(created["id"])

    def _remove(self, name: str) -> None:
        """Removes the copy, whose name is ours alone. Raises BackupError when that fails."""
        try:
            with signals.deferred():
                self._target.delete_collection(name, *self._place)
        except NotFound:
            return
        except (EngineError, OSError) as error:
            raise BackupError(
                f"copying stopped, and the incomplete copy {name!r} could not be removed: {error}", "delete it yourself"
            ) from None

    def _fill(self, uuid: str, progress: Progress) -> None:
        done = 0
        for page in self._pages():
            for part in self._parts(self._whole(page)):
                self._send(uuid, part)
            done += len(page)
            progress("copying records", done, self._entry.records)

    def _pages(self) -> Iterator[list[dict[str, Any]]]:
        """All records; those whose vector the engine does not have with None in its place."""
        offset, size = 0, _FIRST
        while offset < self._entry.records:
            page = self._page({"limit": size, "offset": offset})
            if not page:
                return
            yield page
            offset += len(page)
            average = sum(map(_weight, page)) // len(page) + 1
            size = max(1, min(_BATCH, _READ // average))

    def _page(self, which: dict[str, Any]) -> list[dict[str, Any]]:
        place = (*self._place, self._entry.id)
        try:
            return self._source.records(*place, which)
        except RecordLost:
            plain = self._source.records(*place, which, vectors=False)
        ids = [record["id"] for record in plain]
        whole = {record["id"]: record for record in proof.records(self._source, place, ids)}
        return [whole.get(record["id"], record) for record in plain]

    def _whole(self, page: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records that the service takes: with a vector of numbers, the log's where the engine has none."""
        odd = [record for record in page if not _is_vector(record["embedding"])]
        if not odd:
            return page
        with sqlite.connect(self._directory) as connection:
            held = next(
                each for each in sqlite.read_collections(connection, counted=False) if each.id == self._entry.id
            )
            logged = self._logged(connection, held, [record["id"] for record in odd])
            cosine = sqlite.is_cosine(connection, held)
        self._found.from_log += logged
        for record in odd:
            key, numbers = record["id"], record["embedding"]
            if key in logged:
                continue
            if cosine and numbers and all(map(math.isnan, numbers)):
                # Of any such vector the engine keeps the same: that its length is infinite.
                logged[key] = [_TOO_LONG] * len(numbers)
                self._found.unkept.append(key)
            else:
                self._found.without.append(key)
        whole = (record | {"embedding": logged.get(record["id"], record["embedding"])} for record in page)
        return [record for record in whole if _is_vector(record["embedding"])]

    def _logged(
        self, connection: sqlite3.Connection, held: sqlite.Collection, ids: Sequence[str]
    ) -> dict[str, list[float]]:
        """The vectors that the log of the backup has of records."""
        found = {}
        if self._added_again is None:
            self._added_again = log.ids_added_again(connection, held)
        for key in ids:
            row = log.vector_of(connection, held, key, existed=key in self._added_again)
            vector = array("f", row).tolist() if row else None
            if vector and _is_vector(vector) and len(vector) == held.dimension:
                found[key] = vector
        return found

    def _parts(self, records: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Records in portions that a request can hold."""
        part: list[dict[str, Any]] = []
        size = 0
        for record in records:
            weight = _weight(record)
            if weight > self._largest:
                self._found.large.append(record["id"])
                continue
            if part and size + weight > self._bytes:
                yield part
                part, size = [], 0
            part.append(record)
            size += weight
        if part:
            yield part

    def _send(self, uuid: str, part: list[dict[str, Any]]) -> None:
        """Writes records; where the service takes less than its configuration says, in smaller portions."""
        try:
            self._target.post(*self._place, f"/{uuid}/upsert", _request(part))
        except (EngineError, BrokenPipeError, ConnectionResetError) as error:
            # An engine that refuses a large request may close the connection before it was sent.
            refused = not isinstance(error, EngineError) or error.status == _TOO_LARGE
            if refused and len(part) == 1 and isinstance(error, EngineError):
                self._found.large.append(part[0]["id"])
                return
            if not refused or len(part) == 1:
                raise
            half = len(part) // 2
            self._send(uuid, part[:half])
            self._send(uuid, part[half:])

    def _compare(self, uuid: str) -> None:
        """Samples read from both sides must be the same."""
        ids = [sample.id for sample in self._entry.samples if sample.id not in set(self._found.lost)]
        first, second = (
            {record["id"]: record for record in proof.records(api, (*self._place, collection), ids)}
            for api, collection in ((self._source, self._entry.id), (self._target, uuid))
        )
        same = all(key in second and _same(first[key], second[key]) for key in first)
        if not same or second.keys() - first.keys() - set(self._found.from_log):
            raise EngineError("the copy has other records than the backup")


def _is_vector(numbers: Sequence[float] | None) -> bool:
    """Whether the API takes it."""
    return bool(numbers) and all(map(math.isfinite, numbers or ()))


def _named(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:_SHOWN])) + (", …" if len(ids) > _SHOWN else "")


def _weight(record: dict[str, Any]) -> int:
    """Bytes that a record takes in a request."""
    fields = [record["id"], record["document"], record["metadata"], record["uri"]]
    # Of the vector in base64; and a comma, a space and quotes for each field.
    return len(encoded(fields)) + (4 * len(record["embedding"] or ()) + 2) // 3 * 4 + 12


def _request(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "ids": [record["id"] for record in records],
        "embeddings": [base64.b64encode(array("f", record["embedding"]).tobytes()).decode() for record in records],
        "documents": [record["document"] for record in records],
        "metadatas": [record["metadata"] for record in records],
        "uris": [record["uri"] for record in records],
    }


def _same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether records are equal. Vectors need not be to the last bit: for cosine distance they are normalised once more."""
    rest = ("document", "metadata", "uri")
    first, second = one["embedding"] or [], two["embedding"] or []
    return (
        all(one[name] == two[name] for name in rest)
        and len(first) == len(second)
        and all(_close(a, b) for a, b in zip(first, second, strict=True))
    )


def _close(one: float, two: float) -> bool:
    if math.isnan(one) or math.isnan(two):
        return math.isnan(one) and math.isnan(two)
    return abs(one - two) <= _CLOSE * (1 + abs(one))
