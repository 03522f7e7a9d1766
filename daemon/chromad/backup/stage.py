"""Staging: a backup is fetched, every file compared, the log put in, an engine opens it; only then it is of use."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chromad.backup import assemble, catalog, manifest, proof, timetravel
from chromad.backup.assemble import free_bytes
from chromad.backup.manifest import CollectionEntry, Manifest
from chromad.backup.repository import Repository, Snapshot
from chromad.backup.timetravel import Join, Target
from chromad.chroma import sqlite, wal
from chromad.config import Config
from chromad.errors import BackupError
from chromad.logs.lines import human_bytes
from chromad.store import lock, state
from chromad.store.copies import Staging

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Choice:
    """Which backup, and to which second of it; `target` is None for the backup as it is."""

    snapshot: Snapshot
    target: Target | None

    @property
    def bytes(self) -> int:
        """How much is fetched."""
        return self.snapshot.number("bytes") or 0


@dataclass(frozen=True)
class Staged:
    """directory: a data directory that was opened and compared. notes: what of it is not exact. entries: what it holds."""

    directory: Path
    manifest: Manifest
    entries: list[CollectionEntry]
    notes: list[str]


def choose(repository: Repository, name: str, at: datetime | None) -> Choice:
    """A backup by name, or what leads to a time. Raises BackupError when there is none."""
    if at is None:
        return Choice(catalog.find(repository, name), None)
    target = timetravel.choose(catalog.of_one_host(repository, repository.snapshots()), at)
    return Choice(target.snapshot, target)


@dataclass(frozen=True)
class Order:
    """What is to be restored, by whatever way. inexact: permission to restore what cannot be exact."""

    config: Config
    repository: Repository
    choice: Choice
    inexact: bool
    progress: Progress


def check_room(parent: Path, choice: Choice) -> None:
    """Raises BackupError when what is fetched has no room below `parent`."""
    if (free := free_bytes(parent)) < choice.bytes:
        raise BackupError(
            f"{parent} has {human_bytes(free)} free; the backup needs {human_bytes(choice.bytes)}",
            "free some space; nothing was touched",
        )


def stage(config: Config, repository: Repository, choice: Choice, staging: Staging, progress: Progress) -> Staged:
    """Makes a data directory of a backup.

    Raises BackupError when it is not what its manifest says, or when there is no room for it.
    """
    directory = staging.directory
    check_room(directory.parent, choice)
    repository.restore(choice.snapshot, directory, choice.bytes, lambda done, total: progress("restoring", done, total))
    found = manifest.read(directory)
    assemble.check_engine(found)
    assemble.verify(directory, found, progress)
    entries, notes = found.collections, []
    if choice.target:
        join = Join(config, repository, choice.target, lambda: progress("joining the log", 0, 0))
        notes = join.bring_up(directory, found)
        with sqlite.connect(directory) as connection:
            entries = proof.entries(connection, {})
    else:
        assemble.bring_up(directory, found)
    proof.prove(config, directory, entries, None, lambda done, total: progress("comparing", done, total))
    tidy(directory)
    return Staged(directory, found, entries, notes)


def tidy(directory: Path) -> None:
    """Removes what an engine leaves behind that is of no use to the next one. The caller puts the rest on disk, if it is to
    stay."""
    wal.truncate(directory, flush=False)
    for name in (lock.DIRECTORY_LOCK, state.FILE, f"{sqlite.FILE}-shm"):
        with suppress(FileNotFoundError):
            (directory / name).unlink()
