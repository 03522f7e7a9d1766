"""Repair: bringing back what a broken vector segment still holds, where neither checkpoint nor log can.

The vectors of level 0, by the ids of the pickle, are logged as upserts before everything else that the log has of the
collection; the engine then rebuilds the segment from the log. The broken segment stays in quarantine.
"""

import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chromad.api import Api
from chromad.checks import processes
from chromad.config import Config, Listen
from chromad.control import ask
from chromad.engine import Engine
from chromad.errors import ChromadError, TryAgain
from chromad.output import log as journal
from chromad.store import audit, fence, lock, log, quarantine, segment, soundness, sqlite, state

_PAGE = 500
# The engine keeps vectors of cosine collections normalised, which costs their last bits.
_TOLERANCE = 1e-5

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Repaired:
    """from_log and salvaged: how many vectors came from where. lost: ids whose vector cannot be had; `lost_file` lists
    them. unscaled: ids whose vector has lost its length (cosine collections; a search finds them as before)."""

    collection: str
    records: int
    from_log: int
    salvaged: int
    lost: list[str]
    unscaled: list[str]
    broken: Path
    lost_file: Path | None


def run(config: Config, progress: Progress) -> list[Repaired]:
    """Repairs every collection in quarantine, and those whose segment is not sound. The service must not run.

    Raises TryAgain when it does, ChromadError when the rebuilt vectors are not those that were salvaged.
    """
    if ask(config.control_socket, "status"):
        raise TryAgain("the service is running", "systemctl stop chromadb")
    held = lock.directory_lock(config.data_dir)
    with held:
        others = processes.with_open_database(config.data_dir / sqlite.FILE, ignore={os.getpid()})
        if others:
            raise TryAgain(f"{sqlite.FILE} is open in {', '.join(str(each) for each in others)}", "stop it first")
        for finding in audit.mend(config.data_dir, private=False):
            journal.warning("%s: %s", "put right" if finding.mend else "not put right", finding.fact)
        return mend(config, config.quarantine_dir, held, progress)


def mend(config: Config, quarantine_dir: Path, held: lock.Lock, progress: Progress) -> list[Repaired]:
    """As `run`, for whoever has the directory to himself. held: its lock, which the engine shares. quarantine_dir: where
    broken segments go."""
    done = []
    vectors: dict[str, dict[str, bytes]] = {}
    for collection, broken in _candidates(config, quarantine_dir):
        repaired, vectors[collection.id] = _rebuild(config, collection, broken, progress)
        done.append((collection, repaired))
    if done:
        _prove(config, held, [(collection, vectors[collection.id]) for collection, _ in done], progress)
    return [repaired for _, repaired in done]


def _candidates(config: Config, quarantine_dir: Path) -> list[tuple[sqlite.Collection, Path]]:
    fenced = fence.read(config.data_dir)
    found = []
    collections = [each for each in sqlite.collections(config.data_dir) if each.dimension]
    present = {config.data_dir / each.segment: each for each in collections}
    verdicts = soundness.examine([path for path in present if path.is_dir()], lambda: None)
    for path, collection in present.items():
        if collection.id in fenced and not path.exists():
            broken = max(quarantine_dir.glob(f"{path.name}-broken-*"), default=None)
            if broken is None:
                raise ChromadError(
                    f"{quarantine_dir} does not hold the segment {path.name} of {collection.name}",
                    "move it back there under its former name",
                )
            found.append((collection, broken))
        elif path in verdicts and not verdicts[path].sound and not verdicts[path].empty:
            found.append((collection, quarantine.move(path, quarantine_dir, "broken", lambda: None)))
    return found


def _rebuild(
    config: Config, collection: sqlite.Collection, broken: Path, progress: Progress
) -> tuple[Repaired, dict[str, bytes]]:
    """Gives what was done, and the vectors that have to be found again."""
    from chromad.store.salvage import Salvage  # here: numpy is not for the daemon

    with sqlite.connect(config.data_dir) as connection:
        needed = log.ids_without_vector(connection, collection) | log.ids_added_again(connection, collection)
        salvage = Salvage(broken, collection.dimension or 0, sqlite.is_cosine(connection, collection))
        vectors: dict[str, bytes] = {}
        for record, vector in salvage.vectors():
            if record in needed:
                vectors[record] = vector
                progress(f"salvaging {collection.name}", len(vectors), len(needed))
        salvaged = len(vectors)
        vectors |= log.vectors_of_known(connection, collection, needed - vectors.keys())
        # Those that the log changes by and by are not what they were.
        updated = {
            record
            for (record,) in connection.execute(
                "SELECT DISTINCT id FROM embeddings_queue WHERE topic = ? AND operation <> ?",
                (collection.topic, log.ADD),
            )
        }
        connection.execute("BEGIN IMMEDIATE")
        fence.drop(connection, collection.id)
        log.prepend(connection, collection, vectors.items())
        connection.execute("DELETE FROM max_seq_id WHERE segment_id = ?", (collection.segment,))
        connection.execute("COMMIT")
    lost = sorted(needed - vectors.keys())
    lost_file = None
    if lost:
        lost_file = broken.with_name(f"{broken.name}.lost")
        state.write_atomically(lost_file, "".join(f"{record}\n" for record in lost), 0o640)
    repaired = Repaired(
        collection.name,
        collection.records,
        collection.records - len(needed) + len(vectors) - salvaged,
        salvaged,
        lost,
        [record for record in salvage.unscaled if record in vectors],
        broken,
        lost_file,
    )
    return repaired, {record: vector for record, vector in vectors.items() if record not in updated}


def _prove(
    config: Config, held: lock.Lock, repaired: list[tuple[sqlite.Collection, dict[str, bytes]]], progress: Progress
) -> None:
    """Lets the engine rebuild the segments, on a port that nobody knows, and compares what it gives."""
    listen = Listen(port=_free_port())
    engine = Engine(config.model_copy(update={"listen": listen}), held.fd)
    api = Api(listen)
    engine.start()
    try:
        engine.wait_until_it_answers(api, lambda: None, lambda: False)
        for collection, vectors in repaired:
            _compare(api, collection, vectors, progress)
        engine.stop(60.0, lambda: None)
    finally:
        engine.kill()
    for directory in segment.directories(config.data_dir):
        for _ in segment.sync(directory):
            pass


def _compare(api: Api, collection: sqlite.Collection, vectors: dict[str, bytes], progress: Progress) -> None:
    ids = sorted(vectors)
    dimension = collection.dimension or 1
    for start in range(0, len(ids), _PAGE):
        progress(f"proving {collection.name}", start, len(ids))
        page = ids[start : start + _PAGE]
        found = api.vectors(collection.tenant, collection.database, collection.id, page)
        for record in page:
            wanted = struct.unpack(f"<{dimension}f", vectors[record])
            bound = _TOLERANCE * max(1.0, *map(abs, wanted))
            if not all(abs(a - b) <= bound for a, b in zip(found.get(record, ()), wanted, strict=True)):
                raise ChromadError(
                    f"{collection.name}: {record} has another vector than the one that was salvaged",
                    "the service stays as it is; restore a backup",
                )
        api.query(collection.tenant, collection.database, collection.id, [1 / dimension**0.5] * dimension, 600.0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
