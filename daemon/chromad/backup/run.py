"""A backup from beginning to end: snapshot, proof, repository, copy, retention; and what the ledger says of it."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from chromad.backup import assemble, former, ledger, manifest, proof, readback, repository, snapshot, workspace
from chromad.backup.ledger import Kept, Taken
from chromad.backup.repository import Added, Places, Repository
from chromad.backup.snapshot import PreparedBackup
from chromad.backup.workspace import PROOF, PROVEN, UNPROVEN, host
from chromad.chroma import segment, sqlite
from chromad.config import Config
from chromad.control import ask, ask_status
from chromad.engine import ways
from chromad.engine.api import Api
from chromad.errors import BackupError, ChromadError, ConfigurationError, PermissionProblem, TryAgain
from chromad.host import files, removal, signals
from chromad.logs.lines import log as journal
from chromad.store import lock, state

_RETENTION = timedelta(days=1)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class StoredBackup:
    """A backup that is stored. base: why it has a base of its own, empty when it adds to the one before. added: bytes.
    forgotten: backups that the policy did not keep. copied: whether there is a second repository, which has it as well.
    shrunk: the good one before it, which is kept because it has more than twice as many records."""

    id: str
    created: str
    base: str
    collections: int
    records: int
    bytes: int
    added: int
    seconds: float
    forgotten: int
    copied: bool
    shrunk: Kept | None


@dataclass(frozen=True)
class BackupPlan:
    """What the next backup would do. base: as in `StoredBackup`. bytes: that it reads."""

    repository: str
    base: str
    bytes: int


@dataclass(frozen=True)
class _Job:
    """What the steps of a backup have in common. started: by time.monotonic."""

    config: Config
    primary: Repository
    progress: Progress
    started: float


def plan(config: Config, primary: Repository, *, full: bool, accept_empty: bool) -> BackupPlan:
    """What `run` would do now. Raises what it would raise before it begins: TryAgain when another one runs, ConfigurationError
    without a repository or a database and for a backup of nothing, BackupError when there is no room or a collection is in
    quarantine."""
    workspace.check_prepared(config)
    if not primary.exists():
        raise ConfigurationError(
            f"there is no repository at {primary.location}", "make it once: chromactl backups init"
        )
    if former.has_nothing(config) and not accept_empty:
        _refuse_nothing(config, primary)
    reason = snapshot.why_base(config, full=full) if config.backup_dir.exists() else "the first one here"
    snapshot.check(config, base=bool(reason))
    if reason:
        size = sum(path.stat().st_size for path in sqlite.files(config.data_dir))
        size += sum(segment.allocated(path) for path in segment.directories(config.data_dir))
    else:
        size = manifest.read(config.backup_dir / snapshot.CURRENT).size
    if config.backup_dir.exists():
        workspace.scratch_space(config, size)
    return BackupPlan(config.backup.repository, reason, size)


def run(config: Config, places: Places, *, full: bool, accept_empty: bool, progress: Progress) -> StoredBackup:
    """Takes a backup, proves it, stores it. Runs as the owner of the data.

    accept_empty: also one of nothing after a good one of something. Raises ConfigurationError for such a one else, TryAgain
    when another backup runs, BackupError and others when it is not good; the last good one is untouched then, and the log
    is kept.
    """
    workspace.prepare(config)
    primary, second = places.primary, places.second
    job = _Job(config, primary, progress, time.monotonic())
    with lock.backup_lock(config.backup_dir) as held:
        primary.lock_fd = held.fd
        attempted = ledger.now()
        workspace.remove_leftovers(config)
        try:
            if former.has_nothing(config) and not accept_empty:
                _refuse_nothing(config, primary)
            _begin_history(config)
            with signals.saying("no backup was taken; the last good one is as it was"):
                taken = snapshot.take(
                    config,
                    full=full,
                    checkpoint=lambda damaged: _checkpoint(config, damaged, progress),
                    progress=progress,
                )
                if not taken.manifest.collections and not accept_empty:
                    _refuse_nothing(config, primary)
                looks = readback.look(taken.directory, taken.manifest)
                taken, problem = _prove(config, taken, progress)
                stored, problem = _store(job, taken, looks, problem)
        except (ChromadError, OSError) as error:
            _note(config, attempted, _one_line(error))
            raise
        if problem:
            raise BackupError(f"the backup {stored.id} is stored, but not proven: {problem.message}", problem.hint)
        try:
            with signals.saying(f"the backup {stored.id} is taken and proven; what comes after that was left out"):
                if second:
                    second.lock_fd = held.fd
                    primary.copy_to(second, stored.id, lambda: progress("copying to the second repository", 0, 0))
                forgotten = _retain(config, primary, second)
                signals.finished()
        except (ChromadError, OSError) as error:
            _note(config, attempted, f"{stored.id} is good, but: {_one_line(error)}")
            raise
    return replace(stored, seconds=time.monotonic() - job.started, forgotten=forgotten, copied=second is not None)


def failed(config: Config, error: ChromadError) -> None:
    """Leaves in the ledger why a backup could not even begin, where that is possible and nobody else is at work on it."""
    with suppress(ChromadError, OSError):
        workspace.prepare(config)
        with lock.backup_lock(config.backup_dir):
            _note(config, ledger.now(), _one_line(error))


def release(config: Config, times: Iterable[str]) -> None:
    """Backups were forgotten by hand, given by the time of their creation: nothing is kept of them. The caller holds the lock."""
    ledger.write(config.backup_dir, former.release(ledger.read(config.backup_dir), times))


def _refuse_nothing(config: Config, primary: Repository) -> None:
    former.refuse_nothing(config, former.find(config, primary, host(), PROVEN, ask=True))


def _checkpoint(config: Config, damaged: Sequence[str], progress: Progress) -> None:
    try:
        ask(config.control_socket, "checkpoint", {"damaged": list(damaged)}, progress=progress)
    except (TryAgain, PermissionProblem) as error:
        journal.info("backup: no new checkpoints: %s", error.message)


def _prove(config: Config, taken: PreparedBackup, progress: Progress) -> tuple[PreparedBackup, BackupError | None]:
    """Opens a private copy; writes the manifest with what was seen, and reads it again. Gives the snapshot with it, and why
    the backup is not proven."""
    found = taken.manifest
    workspace.scratch_space(config, found.size)
    place = config.backup_dir / PROOF
    problem: BackupError | None = None
    entries = found.collections
    try:
        # One after the other: the service's many threads need processors, see Restic._variables.
        assemble.verify(taken.directory, found, progress)
        assemble.copy(taken.directory, found, place, progress)
        assemble.bring_up(place, found)
        if not taken.base:
            assemble.settle(place, found)
        entries = proof.prove(
            config,
            place,
            found.collections,
            _service(config, found, place),
            lambda done, total: progress("proving", done, total),
        )
    except BackupError as error:
        problem = error
    finally:
        removal.remove_tree(place, ignore_errors=True)
    proven = replace(found, collections=entries)
    files.write_atomically(taken.directory / manifest.FILE, proven.to_json(), 0o640)
    try:
        manifest.read(taken.directory)
    except BackupError as error:
        problem = problem or error
    return replace(taken, manifest=proven), problem


def _service(config: Config, found: manifest.Manifest, copy: Path) -> proof.Ask | None:
    """Asks the service for samples, but for collections that it has not loaded: they would stay in its memory."""
    try:
        running = ask_status(config.control_socket)
    except (TryAgain, PermissionProblem) as error:
        journal.info("backup: the service is not asked for samples: %s", error.message)
        return None
    if not running or running.state != "serving":
        return None
    left_out = {*running.cold_ids, *running.quarantined}
    served = proof.ask_service(Api(ways.of_service(config)), config.data_dir, copy, found.last_seq_id)
    return lambda entry, ids: {} if entry.id in left_out else served(entry, ids)


def _store(
    job: _Job, taken: PreparedBackup, looks: readback.Looks, problem: BackupError | None
) -> tuple[StoredBackup, BackupError | None]:
    """Stores it, and reads back what was stored. Gives why it is not proven, before or after that."""
    config, found = job.config, taken.manifest
    facts = {
        "created": found.created,
        "base": found.base_created,
        "collections": len(found.collections),
        "records": found.records,
        "bytes": found.size,
    }
    before = former.find(config, job.primary, host(), PROVEN)
    shrunk = None if problem else former.shrunk(before, found.created, found.records)
    kept = [*former.active(before.kept, found.created), *([shrunk] if shrunk else [])]
    kept = list({each.created: each for each in kept}.values())
    # Before it is stored: whoever is killed in between has stored it, and the next one must not let the former go.
    ledger.write(config.backup_dir, replace(ledger.read(config.backup_dir), kept=kept))
    # Proven it is when it was read back, whatever becomes of us until then.
    tags = [UNPROVEN, *(f"{key}={value}" for key, value in facts.items()), *former.tags(kept)]
    added = job.primary.backup(taken.directory, host(), tags, lambda done, total: job.progress("storing", done, total))
    if not problem:
        added, problem = _read_back(job, taken, looks, added)
    outcome = StoredBackup(
        added.id,
        found.created,
        taken.base,
        len(found.collections),
        found.records,
        found.size,
        added.bytes,
        time.monotonic() - job.started,
        0,
        copied=False,
        shrunk=shrunk,
    )
    _enter(config, found, outcome, kept, problem)
    return outcome, problem


def _enter(
    config: Config, found: manifest.Manifest, stored: StoredBackup, kept: list[Kept], problem: BackupError | None
) -> None:
    """Leaves in the ledger what was stored, and what it is worth."""
    known = ledger.read(config.backup_dir)
    entry = Taken(
        stored.id,
        found.created,
        not problem,
        stored.added,
        round(stored.seconds, 1),
        stored.collections,
        stored.records,
    )
    known = replace(known, attempted=found.created, taken=[*known.taken, entry])
    if problem:
        known = replace(known, problem=_one_line(problem), suspect=True)
    else:
        known = replace(
            known,
            problem="",
            suspect=False,
            data_id=found.data_id,
            last_seq_id=found.last_seq_id,
            last_good=found.created,
            kept=kept,
        )
    ledger.write(config.backup_dir, known)


def _read_back(
    job: _Job, taken: PreparedBackup, looks: readback.Looks, added: Added
) -> tuple[Added, BackupError | None]:
    """Reads back what was stored, and marks it proven. Gives it as it is stored then, and why it is not proven."""
    stored = repository.Snapshot(added.id, taken.manifest.created, host(), str(taken.directory), frozenset(), {})
    place = job.config.backup_dir / PROOF
    with signals.saying(f"the backup {added.id} is stored, but not proven; the last good one is as it was"):
        try:
            readback.Reader(job.primary, place, lambda: job.progress("reading back", 0, 0)).check(stored, taken, looks)
            with signals.deferred():
                return replace(added, id=job.primary.retag(stored, UNPROVEN, PROVEN)), None
        except BackupError as problem:
            return added, problem


def _retain(config: Config, primary: Repository, second: Repository | None) -> int:
    """Applies the policy, once a day: each call of restic takes a moment. Unproven backups do not count, and do not stay."""
    known = ledger.read(config.backup_dir)
    if known.retained and datetime.fromisoformat(known.retained) > datetime.now(UTC) - _RETENTION:
        return 0
    keep = config.backup.keep
    spare = {each.created for each in former.active(known.kept, ledger.now())}
    count = primary.retain(host(), keep, PROVEN, spare)
    count += primary.retain(
        host(), keep.model_copy(update={"last": 1, "daily": 0, "weekly": 0, "monthly": 0}), UNPROVEN
    )
    if second and second.retain(host(), keep, PROVEN, spare):
        second.prune(lambda: None)
    for each in filter(None, (primary, second)):
        each.sweep()
    ledger.write(config.backup_dir, replace(known, retained=ledger.now()))
    return count


def _begin_history(config: Config) -> None:
    """From the first try on, the log is kept until a backup is good: what is read of it must not be purged meanwhile."""
    known, found = ledger.read(config.backup_dir), state.read(config.data_dir)
    if found and known.data_id != found.data_id:
        ledger.write(config.backup_dir, replace(known, data_id=found.data_id, last_seq_id=0, last_good=""))


def _note(config: Config, attempted: str, problem: str) -> None:
    """Leaves in the ledger what went wrong, for `chromactl status`."""
    known = ledger.read(config.backup_dir)
    ledger.write(config.backup_dir, replace(known, attempted=attempted, problem=problem))


def _one_line(error: Exception) -> str:
    message = error.message if isinstance(error, ChromadError) else str(error)
    return " ".join(message.split())
