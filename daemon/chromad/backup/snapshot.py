"""Snapshots: a directory with a base and the log since then, which restic stores as it is.

`<checkpoint_dir>/.backup/current/` holds the base (hard links to the checkpoints that were the newest then, and a copy of
the database) and the log archive. The next backups add to the archive alone, which is why they are fast and small,
however the changes are spread; when the archive has grown too large beside the base, there is a new base. Live segments
are not touched. The purge of the log waits for backups, see `ledger.covers`.
"""

import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chromad import versions
from chromad.backup import ledger, manifest, proof
from chromad.backup.assemble import free_bytes
from chromad.backup.manifest import CollectionEntry, Entry, Manifest
from chromad.chroma import audit, log, segment, soundness, sqlite
from chromad.chroma.finding import Finding
from chromad.config import Config
from chromad.errors import BackupError, ConfigurationError
from chromad.host import removal
from chromad.host.files import fsync_path
from chromad.logs.lines import human_bytes
from chromad.logs.lines import log as journal
from chromad.store import archive, fence, hold, state
from chromad.store.checkpoint import Checkpoint, Store

CURRENT = "current"
NEXT = "next"
# The archive may take this part of the base, or this many bytes where that is more, before there is a new base.
_PART, _SMALL = 0.2, 8 << 20
# The same of records: replaying the update of one costs an engine some milliseconds, in each restore and each drill.
_ROWS, _FEW = 0.03, 1000
_TRIES = 3

# phase, done, total: bytes, pages or segments, whatever the phase counts
Progress = Callable[[str, int, int], None]
# Has the running service take new checkpoints where they are due, and of the segments that are named
Renew = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class PreparedBackup:
    """directory: what is to be stored, but for the manifest, which is written when it is proven. base: why it has a base of
    its own, empty when it adds to the one before."""

    directory: Path
    manifest: Manifest
    base: str


def why_base(config: Config, *, full: bool) -> str:
    """Why the next backup begins with a new base; empty when it adds to the present one."""
    directory = config.backup_dir / CURRENT
    known = ledger.read(config.backup_dir)
    if full:
        return "asked for"
    if not directory.exists():
        return "the first one here"
    try:
        before = manifest.read(directory)
    except BackupError as error:
        return error.message
    if known.suspect:
        return "the last backup was not proven"
    if before.data_id != _data_id(config) or known.data_id != before.data_id or not before.data_id:
        return "the data have another history"
    if before.engine_version != versions.engine():
        return f"it was written by Chroma {before.engine_version}"
    return _why_changed(directory, before)


def _why_changed(directory: Path, before: Manifest) -> str:
    """As `why_base`, by what there is on disk of the present one."""
    for entry in before.files:
        path = directory / entry.path
        if not path.is_file() or (entry.path != archive.FILE and path.stat().st_size != entry.size):
            return f"{path} is not as it was"
    if manifest.hash_file(directory / archive.FILE, _ignore) not in before.files:
        return f"{directory / archive.FILE} is not as it was"
    added = (directory / archive.FILE).stat().st_size
    if added > max(_SMALL, _PART * (before.size - _archive_size(before))):
        return f"the log since the last base takes {human_bytes(added)}"
    rows = archive.rows(directory / archive.FILE)
    if rows > max(_FEW, _ROWS * before.records):
        return f"{rows} records were logged since the last base"
    return ""


def take(config: Config, *, full: bool, checkpoint: Renew, progress: Progress) -> PreparedBackup:
    """Brings `current` up to date; gives it with samples to be proven. The caller holds the backup lock.

    Raises BackupError and others when it cannot be taken; what was there is untouched then, or is continued by the next one.
    """
    _check_database(config)
    reason = why_base(config, full=full)
    if not reason:
        try:
            return _add(config)
        except archive.Broken as error:
            reason = str(error)
    for _ in range(_TRIES):
        checkpoint([])
        try:
            return _base(config, reason, checkpoint, progress)
        except _Purged as error:
            journal.info("backup: %s; once more", error)
    raise BackupError(
        "checkpoints are renewed faster than the database can be copied", "let checkpoint.interval be longer"
    )


class _Purged(Exception):
    """The log may have been purged beyond what the segments in the base stand for."""


def check(config: Config, *, base: bool) -> None:
    """Raises what `take` would raise: ConfigurationError where there is no database, BackupError when a collection is in
    quarantine or the database is damaged. base: whether it would begin with a new base. The full-text index is left out, since
    its own check, of a database that is served, would hold up clients."""
    _check_database(config)
    fenced = fence.read(config.data_dir) if base else {}
    for collection in sqlite.collections(config.data_dir, counted=False):
        _refuse_quarantined(collection, fenced)
    if base:
        with sqlite.connect(config.data_dir) as connection:
            _refuse_damaged(audit.problems(connection, full_text=False))


def _refuse_damaged(found: Sequence[Finding]) -> None:
    if found:
        hint = "systemctl stop chromadb; chromactl repair; systemctl start chromadb"
        raise BackupError(
            "the database is not worth keeping as it is:\n" + "\n".join(each.fact for each in found),
            hint if all(each.mend for each in found) else "restore an earlier backup",
        )


def _refuse_quarantined(collection: sqlite.Collection, fenced: Mapping[str, str]) -> None:
    if collection.id in fenced:
        raise BackupError(
            f"the collection {collection.name!r} is in quarantine, so a backup would lack its vectors",
            "chromactl repair brings it back; or delete the collection",
        )


def _check_database(config: Config) -> None:
    if not sqlite.exists(config.data_dir):
        raise ConfigurationError(
            f"{config.data_dir} holds no Chroma database", "start the service once, or correct data_dir"
        )
    sqlite.check_schema(config.data_dir)


def _add(config: Config) -> PreparedBackup:
    """The log since the last backup goes into the archive."""
    directory = config.backup_dir / CURRENT
    before = manifest.read(directory)
    held = {collection.id: collection for collection in before.collections}
    entries: list[CollectionEntry] = []

    def look(connection: sqlite3.Connection) -> None:
        seq_ids = {entry.segment: entry.seq_id for entry in held.values()}
        entries.extend(proof.entries(connection, seq_ids))

    created = ledger.now()
    with sqlite.connect(config.data_dir) as connection:
        last = archive.append(directory / archive.FILE, connection, created, look)
    fsync_path(directory / archive.FILE)
    files = [entry for entry in before.files if entry.path != archive.FILE]
    files.append(manifest.hash_file(directory / archive.FILE, _ignore))
    result = replace(
        before,
        created=created,
        last_seq_id=last,
        chromad_version=versions.chromad(),
        collections=entries,
        files=files,
    )
    return PreparedBackup(directory, result, "")


def _base(config: Config, reason: str, checkpoint: Renew, progress: Progress) -> PreparedBackup:
    """A new base takes the place of the one before."""
    target = config.backup_dir / NEXT
    _remove(target)
    size = sum(path.stat().st_size for path in sqlite.files(config.data_dir))
    if (free := free_bytes(config.backup_dir)) < size:
        raise BackupError(
            f"{config.backup_dir} has {human_bytes(free)} free; a new base needs {human_bytes(size)}",
            "free some space on the file system of the checkpoints",
        )
    data_id = _data_id(config)
    known = ledger.read(config.backup_dir)
    store = Store(config.data_dir, config.checkpoint_dir, data_id)
    target.mkdir(mode=0o750)
    try:
        linked, files = _link_segments(config, store, target, checkpoint, progress)
        created = sqlite.copy(
            config.data_dir, target / sqlite.FILE, lambda done, total: progress("database", done, total)
        )
        seq_ids = {uuid: each.seq_id if isinstance(each, Checkpoint) else each for uuid, each in linked.items()}
        for uuid, seq_id in seq_ids.items():
            # Up to the newest checkpoint the log may have gone.
            newest = store.latest(uuid)
            if newest and newest.seq_id > seq_id:
                raise _Purged(f"the checkpoint of {uuid} was renewed meanwhile")
        with sqlite.connect(target) as connection:
            _prepare_copy(connection, store, seq_ids)
            entries = proof.entries(connection, seq_ids)
            last = archive.create(target / archive.FILE, connection, created)
        files += [manifest.hash_file(target / name, _ignore) for name in (sqlite.FILE, archive.FILE)]
        for path in target.rglob("*"):
            fsync_path(path)
    except BaseException:
        _remove(target)
        raise
    result = Manifest(
        format=manifest.FORMAT,
        created=created,
        base_created=created,
        base_seq_id=last,
        last_seq_id=last,
        continues=known.last_seq_id if data_id and known.data_id == data_id and known.last_good else None,
        data_id=data_id,
        collections=entries,
        files=files,
        chromad_version=versions.chromad(),
        engine_version=versions.engine(),
        sqlite_version=sqlite3.sqlite_version,
    )
    return PreparedBackup(_make_current(config.backup_dir), result, reason)


def _make_current(backup_dir: Path) -> Path:
    """The new base takes the place of the one before."""
    current = backup_dir / CURRENT
    _remove(current)
    (backup_dir / NEXT).rename(current)
    fsync_path(backup_dir)
    return current


def _link_segments(
    config: Config, store: Store, target: Path, checkpoint: Renew, progress: Progress
) -> tuple[dict[str, Checkpoint | int], list[Entry]]:
    """Puts a sound copy of each segment into the base; gives the checkpoints, or the seq ids of copies, and the files.

    Where there is no checkpoint, which the daemon would have taken, the segment itself is copied.
    """
    linked: dict[str, Checkpoint | int] = {}
    files: list[Entry] = []
    fenced = fence.read(config.data_dir)
    collections = sqlite.collections(config.data_dir, counted=False)
    with sqlite.connect(config.data_dir) as connection:
        for done, collection in enumerate(collections):
            progress("segments", done, len(collections))
            _refuse_quarantined(collection, fenced)
            uuid = collection.segment
            place = target / uuid
            found = _link(store, uuid, place, checkpoint)
            if found:
                linked[uuid] = found
                files += [Entry(f"{uuid}/{file.name}", file.size, file.sha256) for file in found.files]
            elif (config.data_dir / uuid / segment.PICKLE).exists() and not log.rebuilds(connection, collection):
                try:
                    linked[uuid] = _copy_segment(connection, store, collection, config.data_dir / uuid, place)
                except (BackupError, FileNotFoundError, sqlite.Gone):
                    if sqlite.is_there(connection, collection):
                        raise
                    _remove(place)
                    continue
                for path in sorted(place.iterdir()):
                    entry = manifest.hash_file(path, _ignore)
                    files.append(replace(entry, path=f"{uuid}/{entry.path}"))
    return linked, files


def _link(store: Store, uuid: str, place: Path, renew: Renew) -> Checkpoint | None:
    """As `Store.link`, of a checkpoint that is what it was; one that is damaged is renewed where the service runs."""
    checkpoint = store.link(uuid, place)
    if checkpoint and _damaged(checkpoint, place):
        shutil.rmtree(place)
        renew([uuid])
        checkpoint = store.link(uuid, place)
        if checkpoint and _damaged(checkpoint, place):
            shutil.rmtree(place)
            return None
    return checkpoint


def _damaged(checkpoint: Checkpoint, place: Path) -> bool:
    for file in checkpoint.files:
        if manifest.hash_file(place / file.name, _ignore).sha256 != file.sha256:
            journal.error(
                "backup: %s of the checkpoint of %s is damaged; the disk may be at fault", file.name, checkpoint.segment
            )
            return True
    return False


def _copy_segment(
    connection: sqlite3.Connection, store: Store, collection: sqlite.Collection, source: Path, target: Path
) -> int:
    seq_id = segment.copy_live(connection, collection.segment, source, target)
    claim = store.claim(connection, collection, seq_id or 0, mend=True)
    verdict = soundness.examine([target], lambda: None, {target: claim})[target]
    if seq_id is None or not (verdict.sound or verdict.empty):
        raise BackupError(
            f"the segment of {collection.name!r} is not sound: {verdict.problem or 'its log is gone'}",
            "start the service: it looks at its segments; or chromactl repair",
        )
    return seq_id


def _prepare_copy(connection: sqlite3.Connection, store: Store, seq_ids: Mapping[str, int | None]) -> None:
    # `_base` puts it on disk in the end, once.
    connection.execute("PRAGMA synchronous = OFF")
    # One file, without a WAL beside it.
    connection.execute("PRAGMA journal_mode=DELETE")
    fence.drop_all(connection)
    hold.drop(connection)
    collections = sqlite.read_collections(connection, counted=False)
    for collection in collections:
        seq_id = seq_ids.get(collection.segment)
        if seq_id is None and not log.rebuilds(connection, collection):
            if store.latest(collection.segment):
                raise _Purged(f"the first checkpoint of {collection.segment} was taken meanwhile")
            journal.warning(
                "backup: the vectors of %d records of the collection %r are lost, and the backup holds them without; "
                "chromactl repair, or restore an earlier backup",
                len(log.ids_without_vector(connection, collection)),
                collection.name,
            )
    sqlite.set_seq_ids(connection, {each.segment: seq_ids.get(each.segment) for each in collections})
    _refuse_damaged(audit.problems(connection))


def _data_id(config: Config) -> str:
    found = state.read(config.data_dir)
    return found.data_id if found else ""


def _archive_size(found: Manifest) -> int:
    return next((entry.size for entry in found.files if entry.path == archive.FILE), 0)


def _remove(directory: Path) -> None:
    if directory.exists():
        removal.remove_tree(directory)


def _ignore(_size: int) -> None:
    pass
