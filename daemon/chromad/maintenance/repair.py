"""Repair: bringing collections in quarantine back, and segments that are not sound, each as well as it can be had.

First as a start does it: the checkpoint is put back, or the log rebuilds the segment. Where neither can, the vectors of level 0,
by the ids of the pickle, are logged as upserts before everything else that the log has of the collection; the engine then
rebuilds the segment from the log. One segment comes after the other, each whole; a broken one is moved to quarantine only when
what it still held is logged.
"""

import os
import sqlite3
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from chromad.backup import proof
from chromad.chroma import audit, log, segment, soundness, sqlite, watermarks
from chromad.config import Config
from chromad.control import ask_status
from chromad.engine.api import Api
from chromad.errors import ChromadError, TryAgain
from chromad.host import files, processes
from chromad.logs.lines import log as journal
from chromad.store import fence, lock, quarantine, state
from chromad.store.checkpoint import Store
from chromad.store.recovery import Recovery

_PAGE = 500
# The engine keeps vectors of cosine collections normalised, which costs their last bits.
_TOLERANCE = 1e-5
_LONG = 600.0  # seconds

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Repaired:
    """from_checkpoint: whether the checkpoint is back; then the log brings the rest. from_log and salvaged: how many vectors came
    from where. lost: ids whose vector cannot be had; `lost_file` lists them. unscaled: ids whose vector has lost its length
    (cosine collections; a search finds them as before). broken: where the segment is that was not sound. problem: why the
    collection could not be repaired, else empty; then all is as it was."""

    collection: str
    records: int
    from_log: int
    salvaged: int
    lost: list[str]
    unscaled: list[str]
    broken: Path
    lost_file: Path | None
    from_checkpoint: bool = False
    problem: str = ""


def run(config: Config, progress: Progress) -> list[Repaired]:
    """Repairs every collection in quarantine, and those whose segment is not sound. The service must not run.

    Raises TryAgain when it does.
    """
    if ask_status(config.control_socket):
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
    repair = _Repair(config, quarantine_dir, progress)
    candidates = repair.candidates()
    if not candidates:
        return []
    repair.mark_unclean()
    done = [(each, repair.repair(each)) for each in candidates]
    return _prove(config, held, done, progress)


@dataclass(frozen=True)
class _Candidate:
    """collection: one that is to be repaired, for a reason. fenced: it is in quarantine."""

    collection: sqlite.Collection
    reason: str
    fenced: bool


class _Repair:
    """Repairs the collections of one directory, one after the other."""

    def __init__(self, config: Config, quarantine_dir: Path, progress: Progress) -> None:
        self._data_dir = config.data_dir
        self._quarantine_dir = quarantine_dir
        self._progress = progress
        self._before = state.read(config.data_dir)
        # Without a state there is none that belongs to these data.
        self._checkpoints = Store(config.data_dir, config.checkpoint_dir, self._before.data_id if self._before else "")
        self._recovery = Recovery(config.data_dir, quarantine_dir, self._checkpoints, self._tick)

    def candidates(self) -> list[_Candidate]:
        """The collections that are to be repaired."""
        fenced = fence.read(self._data_dir)
        collections = [each for each in sqlite.collections(self._data_dir) if each.dimension]
        claims: dict[Path, soundness.Claim] = {}
        with sqlite.connect(self._data_dir) as connection:
            for each in collections:
                path = self._data_dir / each.segment
                if each.id not in fenced and (path / segment.PICKLE).exists():
                    upto = each.persisted or 0
                    claims[path] = self._checkpoints.claim(connection, each, upto, mend=False)
        verdicts = soundness.examine(list(claims), self._tick, claims)
        found = []
        for each in collections:
            verdict = verdicts.get(self._data_dir / each.segment)
            if each.id in fenced:
                found.append(_Candidate(each, "it was in quarantine", fenced=True))
            elif verdict is None and each.persisted is not None:
                found.append(_Candidate(each, "its files are gone", fenced=False))
            elif verdict and verdict.problem and not verdict.unread and not verdict.older:
                found.append(_Candidate(each, verdict.problem, fenced=False))
        return found

    def mark_unclean(self) -> None:
        """Has the next start look at all segments, whatever becomes of this."""
        if self._before:
            state.write(self._data_dir, replace(self._before, clean=False, mark=None))

    def repair(self, candidate: _Candidate) -> Repaired:
        """Repairs one; what cannot be done is in `problem`."""
        collection = candidate.collection
        try:
            broken = self._broken(candidate)
            outcome = self._recovery.bring_back(collection, candidate.reason)
            if outcome:
                with sqlite.connect(self._data_dir) as connection:
                    fence.drop(connection, collection.id)
                restored = outcome.action == "restored"
                from_log = 0 if restored else collection.records
                return Repaired(collection.name, collection.records, from_log, 0, [], [], broken, None, restored)
            return self._salvage(candidate, broken)
        except (ChromadError, OSError, sqlite3.Error) as error:
            text = error.message if isinstance(error, ChromadError) else str(error)
            path = self._data_dir / collection.segment
            return Repaired(collection.name, collection.records, 0, 0, [], [], path, None, problem=text)

    def _broken(self, candidate: _Candidate) -> Path:
        """Where the segment is that is not sound: in quarantine, or in its place."""
        path = self._data_dir / candidate.collection.segment
        if (path / segment.PICKLE).exists() or not candidate.fenced:
            return path
        moved = sorted(self._quarantine_dir.glob(f"{path.name}-broken-*/"))
        if not moved:
            raise ChromadError(
                f"{self._quarantine_dir} does not hold its segment {path.name}; move it back there under its former name"
            )
        # An empty one stands for files that were gone.
        return max((each for each in moved if any(each.iterdir())), default=moved[-1])

    def _salvage(self, candidate: _Candidate, broken: Path) -> Repaired:
        """Logs what the files and the log have of each record, then moves the files away: the engine makes new ones."""
        from chromad.chroma.salvage import Salvage  # here: numpy is not for the daemon

        collection = candidate.collection
        with sqlite.connect(self._data_dir) as connection:
            needed = log.ids_without_vector(connection, collection) | log.ids_added_again(connection, collection)
            salvage = Salvage(broken, collection.dimension or 0, sqlite.is_cosine(connection, collection))
            salvaged: set[str] = set()

            def vectors() -> Iterator[tuple[str, bytes]]:
                for record, vector in salvage.vectors():
                    if record in needed and record not in salvaged:
                        salvaged.add(record)
                        self._progress(f"salvaging {collection.name}", len(salvaged), len(needed))
                        yield record, vector

            connection.execute("BEGIN IMMEDIATE")
            fence.drop(connection, collection.id)
            log.prepend(connection, collection, vectors())
            logged = log.vectors_of_known(connection, collection, needed - salvaged)
            log.prepend(connection, collection, logged.items())
            watermarks.set_watermark(connection, collection.segment, None)
            lost = sorted(needed - salvaged - logged.keys())
            # Before it is done: afterwards nothing tells of them any more.
            lost_file = quarantine.list_lost(collection.segment, self._quarantine_dir, lost) if lost else None
            try:
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                # Of a disk that fails in the end, it is not known what it holds.
                if lost_file and error.sqlite_errorcode != sqlite3.SQLITE_IOERR_FSYNC:
                    files.remove(lost_file)
                raise
        broken = self._move_out(collection, broken)
        return Repaired(
            collection.name,
            collection.records,
            collection.records - len(needed) + len(logged),
            len(salvaged),
            lost,
            [record for record in salvage.unscaled if record in salvaged],
            broken,
            lost_file,
        )

    def _move_out(self, collection: sqlite.Collection, broken: Path) -> Path:
        path = self._data_dir / collection.segment
        if broken == path:
            path.mkdir(mode=0o750, exist_ok=True)
            return quarantine.move(path, self._quarantine_dir, "broken", self._tick)
        if path.exists():
            # Never persisted: the engine makes it when somebody reads a collection in quarantine.
            quarantine.move_rebuilt(path, self._quarantine_dir, self._tick)
        return broken

    def _tick(self) -> None:
        self._progress("looking at segments", 0, 0)


def _prove(
    config: Config, held: lock.Lock, done: list[tuple[_Candidate, Repaired]], progress: Progress
) -> list[Repaired]:
    """Lets the engine rebuild the segments, on a port that nobody knows, and compares what it gives with what was salvaged."""
    found = []
    with proof.engine_on(config, config.data_dir, held.fd, lambda: progress("opening", 0, 0)) as api:
        for candidate, repaired in done:
            problem = repaired.problem or _compare(config.data_dir, api, candidate.collection, progress)
            found.append(replace(repaired, problem=problem))
    for directory in segment.directories(config.data_dir):
        for _ in segment.sync(directory):
            pass
    return found


def _compare(data_dir: Path, api: Api, collection: sqlite.Collection, progress: Progress) -> str:
    """Compares the vectors of records that the log has once with those that the engine gives; why it is not as it should be."""
    place = (collection.tenant, collection.database, collection.id)
    dimension = collection.dimension or 1
    done = 0
    with sqlite.connect(data_dir) as connection:
        rows = log.vectors_logged_once(connection, collection)
        try:
            while page := rows.fetchmany(_PAGE):
                served = api.vectors(*place, [record for record, _ in page])
                wrong = [record for record, vector in page if not _same(served.get(record), vector)]
                if wrong:
                    return (
                        f"{len(wrong)} records have another vector than the one that was logged, {wrong[0]} among them"
                    )
                done += len(page)
                progress(f"proving {collection.name}", done, collection.records)
            api.query(*place, [1 / dimension**0.5] * dimension, _LONG)
        except (ChromadError, OSError) as error:
            return f"the engine does not serve it: {error}"
    return ""


def _same(served: list[float] | None, logged: bytes) -> bool:
    wanted = array("f", logged)
    bound = _TOLERANCE * max(1.0, *map(abs, wanted), 1.0)
    return served is not None and all(
        each is not None and abs(each - other) <= bound for each, other in zip(served, wanted, strict=True)
    )
