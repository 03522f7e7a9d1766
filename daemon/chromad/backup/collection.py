"""One collection out of a backup into the running service, through the service's own API: nothing is stopped."""

import base64
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from chromad import signals
from chromad.api import Api
from chromad.backup import proof, restore, run, stage
from chromad.backup.manifest import CollectionEntry
from chromad.backup.repository import Repository
from chromad.backup.stage import Choice
from chromad.config import Config
from chromad.errors import BackupError, ChromadError, ConfigurationError, EngineError, NotFound, TryAgain, UsageProblem
from chromad.store import lock, swap
from chromad.store.swap import Staging

# Records of one request: few enough for Chroma's largest batch, and for a payload limit that is not tiny.
_BATCH = 1000
_BYTES = 4 << 20
_CLOSE = 1e-5

Progress = Callable[[str, int, int], None]
# Tenant, database and name of a collection
Place = tuple[str, str, str]


@dataclass(frozen=True)
class Outcome:
    """What was copied, from which backup, and under which name. notes: what is not exact."""

    id: str
    created: str
    name: str
    records: int
    notes: list[str]


def copy(
    config: Config,
    repository: Repository,
    choice: Choice,
    name: str,
    into: str,
    *,
    inexact: bool,
    progress: Progress,
) -> Outcome:
    """Copies the collection `name` (or TENANT/DATABASE/NAME) into a new one of the running service, named `into`.

    Raises TryAgain when the service does not run, ConfigurationError when the name is taken, BackupError when the backup has
    no such collection. A copy that fails is removed again.
    """
    api = connect(config)
    run.prepare(config)
    with lock.backup_lock(config.backup_dir) as held, Staging(swap.place(config.data_dir)) as staging:
        repository.lock_fd = held.fd
        staged = stage.stage(config, repository, choice, staging, progress)
        restore.need_exact(staged.notes, inexact)
        number, target = find(api, [(each.tenant, each.database, each.name) for each in staged.entries], name, into)
        entry = staged.entries[number]
        staging.will_fill(f"{entry.tenant}/{entry.database}/{target}")
        with proof.scratch(config, staged.directory, lambda: progress("opening", 0, 0)) as source:
            _copy(source, api, entry, target, progress)
            signals.finished()
    return Outcome(choice.snapshot.id, staged.manifest.created, target, entry.records, staged.notes)


def connect(config: Config) -> Api:
    """The running service. Raises TryAgain when there is none."""
    api = Api(config.listen)
    try:
        api.heartbeat()
    except (OSError, EngineError):
        raise TryAgain("the service does not answer", "systemctl start chromadb") from None
    return api


def find(api: Api, held: Sequence[Place], name: str, into: str) -> tuple[int, str]:
    """Which of the collections of a backup is meant, and the name that its copy gets. Raises BackupError when there is none
    such, UsageProblem when several could be meant, ConfigurationError when the service has one of that name."""
    found = [number for number, place in enumerate(held) if name in (place[-1], "/".join(place))]
    if not found:
        raise BackupError(f"the backup has no collection {name!r}", "chromactl backups show ID lists them")
    if len(found) > 1:
        places = ", ".join("/".join(held[number]) for number in found)
        raise UsageProblem(f"several collections have the name {name!r}", f"name one of {places}")
    tenant, database, former = held[found[0]]
    target = into or former
    if api.collection(tenant, database, target) is not None:
        raise ConfigurationError(
            f"the service has a collection {target!r} already", "choose another name: --into NEWNAME"
        )
    return found[0], target


def _copy(source: Api, target: Api, entry: CollectionEntry, name: str, progress: Progress) -> None:
    place = (entry.tenant, entry.database)
    described = source.collection(*place, entry.name)
    if described is None:
        raise BackupError(f"the backup does not open the collection {entry.name!r}", "choose another backup")
    body = {"name": name, "metadata": described.get("metadata")}
    # The engine takes one of them; the schema says more, but does not go with settings in the metadata (Chroma before 1.0).
    if described.get("schema") and not any(key.startswith("hnsw:") for key in described.get("metadata") or {}):
        body["schema"] = described["schema"]
    else:
        body["configuration"] = described.get("configuration_json")
    try:
        created = target.post(*place, "", {key: value for key, value in body.items() if value is not None})
    except EngineError as error:
        raise ChromadError(
            f"the service does not make the collection {name!r}: {error.message}", "another name may do: --into"
        ) from None
    try:
        done = 0
        for records in _pages(source, entry):
            for part in _parts(records):
                target.post(*place, f"/{created['id']}/upsert", _request(part))
            done += len(records)
            progress("copying records", done, entry.records)
        count = target.count(*place, created["id"])
        if count != entry.records:
            raise EngineError(f"the copy has {count} records, the backup {entry.records}")
        _compare(source, target, entry, created["id"])
    except (EngineError, OSError) as error:
        _take_away(target, name, place)
        raise BackupError(f"copying stopped: {error}", "the incomplete copy is removed again; try again") from None
    except signals.Interrupted as interrupted:
        _take_away(target, name, place)
        interrupted.done = f"the incomplete copy {name!r} is removed again"
        raise


def _take_away(api: Api, name: str, place: tuple[str, str]) -> None:
    """Removes an incomplete copy. Raises BackupError when that fails."""
    try:
        with signals.deferred():
            api.delete_collection(name, *place)
    except NotFound:
        return
    except (EngineError, OSError) as error:
        raise BackupError(
            f"copying stopped, and the incomplete copy {name!r} could not be removed: {error}", "delete it yourself"
        ) from None


def _pages(source: Api, entry: CollectionEntry) -> Iterator[list[dict[str, Any]]]:
    for offset in range(0, entry.records, _BATCH):
        yield source.records(entry.tenant, entry.database, entry.id, {"limit": _BATCH, "offset": offset})


def _parts(records: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Records in portions that a request can hold; one that is large goes alone."""
    part: list[dict[str, Any]] = []
    size = 0
    for record in records:
        weight = 4 * len(record["embedding"] or ()) + len(record["document"] or "") + len(str(record["metadata"]))
        if part and size + weight > _BYTES:
            yield part
            part, size = [], 0
        part.append(record)
        size += weight
    if part:
        yield part


def _request(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "ids": [record["id"] for record in records],
        "embeddings": [base64.b64encode(array("f", record["embedding"]).tobytes()).decode() for record in records],
        "documents": [record["document"] for record in records],
        "metadatas": [record["metadata"] for record in records],
        "uris": [record["uri"] for record in records],
    }


def _compare(source: Api, target: Api, entry: CollectionEntry, copy_id: str) -> None:
    """Samples read from both sides must be the same."""
    ids = [sample.id for sample in entry.samples]
    if not ids:
        return
    first, second = (
        {record["id"]: record for record in api.records(entry.tenant, entry.database, uuid, {"ids": ids})}
        for api, uuid in ((source, entry.id), (target, copy_id))
    )
    if first.keys() != second.keys() or not all(_same(first[key], second[key]) for key in first):
        raise EngineError("the copy has other records than the backup")


def _same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether records are equal. Vectors need not be to the last bit: for cosine distance they are normalised once more."""
    rest = ("document", "metadata", "uri")
    first, second = one["embedding"] or [], two["embedding"] or []
    return (
        all(one[name] == two[name] for name in rest)
        and len(first) == len(second)
        and all(abs(a - b) <= _CLOSE * (1 + abs(a)) for a, b in zip(first, second, strict=True))
    )
