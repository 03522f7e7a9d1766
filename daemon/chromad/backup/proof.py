"""The proof of a backup: an engine of its own opens a private copy; counts and sampled records must be right.

Where the service runs, samples are compared with what it answers; later, a drill compares with what the proof has seen.
"""

import math
import random
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from chromad.backup import fingerprint
from chromad.backup.fingerprint import Fingerprint
from chromad.backup.manifest import CollectionEntry, Sample
from chromad.chroma import log, sqlite, wal
from chromad.config import Config, Listen
from chromad.engine.api import Api
from chromad.engine.process import Engine
from chromad.errors import BackupError, EngineError, RecordLost
from chromad.host import signals
from chromad.logs.lines import log as journal
from chromad.store import lock

# Records sampled of a collection: those written last, and others.
_RECENT, _ANY = 5, 5
_NEAREST = 10
# The part of the neighbours that must be found again: the index is approximate.
_NEAR = 0.7
_SAME = 1e-3
_PORT_TRIES = 3
_STOP_LIMIT = 60.0  # seconds

Tick = Callable[[], None]
# Gives the fingerprints of records of a collection by their ids; leaves out what cannot be compared.
Ask = Callable[[CollectionEntry, Sequence[str]], dict[str, Fingerprint]]
# Seconds within which the service has applied what it logged, and between two questions
_APPLIED, _AGAIN = 20.0, 0.5


def pick(connection: sqlite3.Connection, collection: sqlite.Collection) -> list[str]:
    """The ids of the records of a collection that are to be looked at."""
    recent = log.newest_ids(connection, collection.topic, _RECENT)
    places = sorted(random.sample(range(collection.records), min(_ANY, collection.records)))
    others = (sqlite.record_at(connection, collection, place) for place in places)
    return list(dict.fromkeys(each for each in (*recent, *others) if each is not None))


def entries(connection: sqlite3.Connection, seq_ids: Mapping[str, int | None]) -> list[CollectionEntry]:
    """What a database holds when its log is applied, with samples to be looked at. seq_ids: of the segments beside it."""
    return [
        CollectionEntry(
            id=each.id,
            tenant=each.tenant,
            database=each.database,
            name=each.name,
            dimension=each.dimension,
            records=each.records + log.pending_records(connection, each),
            segment=each.segment,
            seq_id=seq_ids.get(each.segment),
            metadata=_finite(sqlite.collection_metadata(connection, each.id)),
            samples=[Sample(record, "", [], []) for record in pick(connection, each)],
        )
        for each in sqlite.read_collections(connection)
    ]


def _finite(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata for the manifest: old Chroma took infinite numbers, which are no JSON."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metadata.items()
    }


def ask_service(api: Api, data_dir: Path, copy: Path, seq_id: int) -> Ask:
    """Asks the running service for records as they were at a moment: those that were not written since.

    copy: a data directory with the log of that moment. seq_id: of its newest row. The log after it must not be purged
    meanwhile. Seq ids are given again when the collection with the newest rows is deleted, so rows are told apart by more.
    """

    def ask(entry: CollectionEntry, ids: Sequence[str]) -> dict[str, Fingerprint]:
        try:
            served = records(api, (entry.tenant, entry.database, entry.id), ids)
        except (EngineError, OSError):
            return {}  # it may have been deleted just now, or the service is gone
        found = {record["id"]: fingerprint.of(record) for record in served}
        topic = sqlite.topic(entry.id)
        with sqlite.connect(data_dir) as live, sqlite.connect(copy) as held:
            known = {row for row in log.writes(held, topic, ids) if row[0] <= seq_id}
            for _, record, _ in set(log.writes(live, topic, ids)) - known:
                found.pop(record, None)
        return found

    return ask


@contextmanager
def scratch(config: Config, directory: Path, tick: Tick) -> Iterator[Api]:
    """An engine of its own on a data directory that belongs to nobody else, which nobody else reaches where the host permits
    that."""
    with lock.directory_lock(directory) as held, engine_on(config, directory, held.fd, tick) as api:
        yield api


@contextmanager
def engine_on(config: Config, directory: Path, lock_fd: int, tick: Tick) -> Iterator[Api]:
    """As `scratch`, for whoever holds the directory's lock already. lock_fd: its descriptor."""
    for attempt in range(_PORT_TRIES):
        settings = config.model_copy(update={"data_dir": directory, "listen": Listen(port=_free_port())})
        engine = Engine(settings, lock_fd, scratch=True)
        api = Api(engine.connect)
        try:
            with signals.deferred():
                engine.start()
            engine.wait_until_it_answers(api, tick, lambda: False)
        except BaseException as error:
            engine.kill()
            if attempt == _PORT_TRIES - 1 or not isinstance(error, EngineError):
                raise
            continue
        if config.gateway.local_socket and not engine.is_apart:
            journal.warning(
                "whoever is on this host reaches %s meanwhile: user namespaces are not permitted here", directory
            )
        try:
            yield api
            engine.stop(_STOP_LIMIT, tick)
        finally:
            engine.kill()
        return


def prove(
    config: Config,
    directory: Path,
    entries: Sequence[CollectionEntry],
    ask: Ask | None,
    tick: Callable[[int, int], None],
) -> list[CollectionEntry]:
    """Opens a data directory made of a backup and looks at every collection; gives the entries with what it has seen.

    Entries with samples that have a fingerprint are compared with them (a drill), others with what `ask` says. Raises
    BackupError that names all that is wrong.
    """
    with wal.keep(directory), scratch(config, directory, lambda: tick(0, len(entries))) as api:
        seen, problems = look(api, entries, ask, tick)
    if problems:
        raise BackupError(
            "the backup is not what it should be:\n" + "\n".join(problems),
            "choose another backup; when new ones fail as well, look at journalctl -u chromadb",
        )
    return seen


def look(
    api: Api, entries: Sequence[CollectionEntry], ask: Ask | None, tick: Callable[[int, int], None]
) -> tuple[list[CollectionEntry], list[str]]:
    """As `prove`, of what an engine has open; gives what is wrong instead of raising it."""
    problems: list[str] = []
    seen: list[CollectionEntry] = []
    for entry in entries:
        try:
            samples, wrong = _look(api, entry, ask)
        except (EngineError, OSError) as error:
            samples, wrong = [], [str(error)]
        problems += [f"{entry.name}: {each}" for each in wrong]
        seen.append(replace(entry, samples=samples))
        tick(len(seen), len(entries))
    return seen, problems


def _look(api: Api, entry: CollectionEntry, ask: Ask | None) -> tuple[list[Sample], list[str]]:
    place = (entry.tenant, entry.database, entry.id)
    problems = []
    count = api.count(*place)
    if count != entry.records:
        problems.append(f"{count} records, not {entry.records}")
    if not entry.samples or not count:
        return [], problems
    served = records(api, place, [each.id for each in entry.samples])
    found = {record["id"]: fingerprint.of(record) for record in served}
    expected = {sample.id: sample.fingerprint for sample in entry.samples if sample.fingerprint}
    different = _unlike(expected, found)
    if ask and not expected:
        different = _unlike_service(ask, entry, found)
    # Chroma loses the update of a record that is alone in its collection, crash or not.
    if different and count > 1:
        problems.append(f"the records {', '.join(sorted(different))} are not as they should be")
    kept = [record for record in served if record["embedding"] and all(map(math.isfinite, record["embedding"]))]
    if not kept:
        return [], problems
    answers = api.nearest(*place, [record["embedding"] for record in kept], min(_NEAREST, count))
    # With one that is out of range the graph is walked by luck, so that no query tells anything.
    tells = all(math.isfinite(each) for _, distances in answers for each in distances)
    samples = [
        Sample(key, found[key].digest, ids, list(distances) if tells else [], list(found[key].vector))
        for key, (ids, distances) in zip((record["id"] for record in kept), answers, strict=True)
    ]
    problems += _compare_queries(entry, samples)
    return samples, problems


def records(api: Api, place: tuple[str, str, str], ids: Sequence[str]) -> list[dict[str, Any]]:
    """Records by their ids, without those whose vector was lost: the engine gives none of all that are asked for with one."""
    if not ids:
        return []
    try:
        return api.records(*place, {"ids": list(ids)})
    except RecordLost:
        pass
    if len(ids) == 1:
        return []
    half = len(ids) // 2
    return [*records(api, place, ids[:half]), *records(api, place, ids[half:])]


def _unlike_service(ask: Ask, entry: CollectionEntry, found: Mapping[str, Fingerprint]) -> list[str]:
    """The samples that the service has otherwise. What is logged is not yet applied at times, so it is asked again."""
    different = [sample.id for sample in entry.samples]
    deadline = time.monotonic() + _APPLIED
    while True:
        served = ask(entry, different)
        different = _unlike(served, found)
        if not different or time.monotonic() > deadline:
            return different
        time.sleep(_AGAIN)


def _unlike(expected: Mapping[str, Fingerprint], found: Mapping[str, Fingerprint]) -> list[str]:
    return [key for key, wanted in expected.items() if key not in found or not found[key].like(wanted)]


def _compare_queries(entry: CollectionEntry, samples: Sequence[Sample]) -> list[str]:
    """Whether queries find as near neighbours as before. Not the same: a replay may connect the graph otherwise."""
    before = {sample.id: _known(sample.distances) for sample in entry.samples if sample.fingerprint}
    near = total = 0
    for sample in samples:
        if (wanted := before.get(sample.id)) and (found := _known(sample.distances)):
            farthest = max(wanted)
            total += len(wanted)
            near += sum(each <= farthest + _SAME * (1 + abs(farthest)) for each in found)
    if near < _NEAR * total:
        return [f"queries find {near} neighbours as near as the {total} that were found when the backup was taken"]
    if empty := [sample.id for sample in samples if not sample.nearest]:
        return [f"queries find nothing for {', '.join(empty)}"]
    return []


def _known(distances: Sequence[float | None]) -> list[float]:
    """Distances that can be compared: none where one of them was out of range."""
    known = [each for each in distances if each is not None and math.isfinite(each)]
    return known if len(known) == len(distances) else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
