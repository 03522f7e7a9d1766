"""Taking a snapshot of a data directory while the engine may be writing it.

Segments first, each under the write lock for as long as its copy takes, then SQLite's online backup. The log
in the later database covers what the earlier segment copies lack; the copies' seq ids tell the engine from
where to replay.
"""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from chromad import versions
from chromad.backup import catalog, manifest
from chromad.errors import BackupError, ConfigurationError, PermissionProblem
from chromad.store import fence, lock, segment, sqlite, state

UNFINISHED = ".unfinished-"

# phase, done, total: bytes or pages, whatever the phase counts
Progress = Callable[[str, int, int], None]


def take(data_dir: Path, directory: Path, progress: Progress) -> manifest.Manifest:
    """Takes a backup into `directory`/NAME and gives its manifest.

    It is built under a temporary name, fsynced, then renamed: what has a backup's name is whole. Raises
    TryAgain when another backup runs, BackupError and others when it cannot be taken.
    """
    if not sqlite.exists(data_dir):
        raise ConfigurationError(f"{data_dir} holds no Chroma database", "start the service once, or correct data_dir")
    try:
        directory.mkdir(mode=0o750, exist_ok=True)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{directory.parent} does not exist", "create backup.directory, or correct it"
        ) from None
    except (FileExistsError, NotADirectoryError):
        raise ConfigurationError(
            f"{directory} is not a directory", "move the file aside, or correct backup.directory"
        ) from None
    except OSError as error:
        raise PermissionProblem(
            f"{directory}: {error.strerror}", "create backup.directory for the service user"
        ) from None
    with lock.backup_lock(data_dir):
        _clear_unfinished(directory)
        _check_space(data_dir, directory)
        name = _free_name(directory)
        unfinished = directory / f"{UNFINISHED}{name}"
        try:
            unfinished.mkdir(mode=0o750)
            result = _fill(data_dir, unfinished, name, progress)
            _sync(unfinished)
            unfinished.rename(directory / name)
            state.fsync_path(directory)
        except PermissionError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise PermissionProblem(
                f"{directory}: {error.strerror}: {error.filename}", "look at the owner and mode of backup.directory"
            ) from None
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise BackupError(
                f"writing {directory / name} failed: {error.strerror}",
                "free some space, or look at the owner and mode of backup.directory",
            ) from error
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return result


def _fill(data_dir: Path, target: Path, name: str, progress: Progress) -> manifest.Manifest:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    before = state.read(data_dir)
    seq_ids = _copy_segments(data_dir, target, progress)
    collections = _copy_database(data_dir, target, seq_ids, progress)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    total, done = sum(path.stat().st_size for path in files), 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress("checksums", done, total)

    entries = []
    for path in files:
        entry = manifest.hash_file(path, count)
        entries.append(manifest.Entry(str(path.relative_to(target)), entry.size, entry.sha256))
    result = manifest.Manifest(
        format=manifest.FORMAT,
        name=name,
        created=created,
        chromad_version=versions.chromad(),
        engine_version=versions.engine(),
        sqlite_version=sqlite3.sqlite_version,
        data_id=before.data_id if before else "",
        last_seq_id=sqlite.last_seq_id(target),
        collections=collections,
        files=entries,
    )
    state.write_atomically(target / manifest.FILE, result.to_json(), 0o640)
    return result


def _copy_segments(data_dir: Path, target: Path, progress: Progress) -> dict[str, int]:
    """Copies the vector segments of all collections; gives the seq id of each one that has been persisted."""
    seq_ids: dict[str, int] = {}
    with sqlite.connect(data_dir) as connection:
        segments = [collection.segment for collection in sqlite.read_collections(connection)]
        for done, uuid in enumerate(segments):
            progress("segments", done, len(segments))
            if (data_dir / uuid / segment.PICKLE).exists():
                seq_id = segment.copy_live(connection, uuid, data_dir / uuid, target / uuid)
                if seq_id is not None:
                    seq_ids[uuid] = seq_id
                elif (target / uuid).exists():
                    shutil.rmtree(target / uuid)
        progress("segments", len(segments), len(segments))
    return seq_ids


def _copy_database(
    data_dir: Path, target: Path, seq_ids: dict[str, int], progress: Progress
) -> list[manifest.CollectionEntry]:
    copy = target / sqlite.FILE
    with sqlite.connect(data_dir) as live:
        # A read transaction fixes the state that is copied, however much is written meanwhile.
        live.execute("BEGIN")
        live.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        writer = sqlite3.connect(copy, isolation_level=None)
        try:
            live.backup(
                writer, pages=4096, progress=lambda _status, left, total: progress("database", total - left, total)
            )
        finally:
            writer.close()
        live.execute("ROLLBACK")
    copy.chmod(0o640)
    with sqlite.connect(target) as connection:
        # One file, without a WAL beside it; the daemon turns WAL on again after a restore.
        connection.execute("PRAGMA journal_mode=DELETE")
        fence.drop_all(connection)
        collections = sqlite.read_collections(connection)
        sqlite.set_seq_ids(
            connection, {collection.segment: seq_ids.get(collection.segment) for collection in collections}
        )
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise BackupError(f"the database is damaged: {verdict}", "restore an earlier backup")
    for uuid in seq_ids.keys() - {collection.segment for collection in collections}:
        shutil.rmtree(target / uuid)  # its collection was deleted in between
    return [
        manifest.CollectionEntry(
            collection.id,
            collection.tenant,
            collection.database,
            collection.name,
            collection.dimension,
            collection.records,
            seq_ids.get(collection.segment),
        )
        for collection in collections
    ]


def _free_name(directory: Path) -> str:
    while True:
        name = datetime.now(UTC).strftime(catalog.NAME_FORMAT)
        if not (directory / name).exists():
            return name
        time.sleep(0.1)


def _clear_unfinished(directory: Path) -> None:
    # Under the backup lock nobody else is writing here: these are left over from backups that were killed.
    for path in directory.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path)


def _check_space(data_dir: Path, directory: Path) -> None:
    needed = sum(segment.allocated(path) for path in segment.directories(data_dir))
    needed += sum(path.stat().st_blocks * 512 for path in sqlite.files(data_dir))
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise BackupError(
            f"{directory} has {free} bytes free; this backup needs about {needed}",
            "free some space, or set backup.directory to a larger file system",
        )


def _sync(directory: Path) -> None:
    for path in directory.rglob("*"):
        state.fsync_path(path)
    state.fsync_path(directory)
