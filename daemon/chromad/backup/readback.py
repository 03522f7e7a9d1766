"""What restic has stored is read back from the repository and parsed before a backup counts as proven."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from chromad.backup import manifest, snapshot
from chromad.backup.manifest import Manifest
from chromad.backup.repository import Repository, Snapshot
from chromad.chroma import sqlite
from chromad.errors import BackupError, ChromadError
from chromad.host import removal
from chromad.store import archive

_HINT = "the next backup begins anew; when it fails as well, look at the disks of the checkpoints and of the repository"

# By path below the backup: size, mtime and ctime (ns), inode
Looks = Mapping[str, tuple[int, int, int, int]]


def look(directory: Path, found: Manifest) -> Looks:
    """What the files of a backup look like before they are read for its proof. A file that is missing is left out."""
    looks = {}
    for entry in found.files:
        try:
            status = (directory / entry.path).stat()
        except OSError:
            continue
        looks[entry.path] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return looks


@dataclass(frozen=True)
class Reader:
    """repository: where it is stored. place: for what is fetched, and is removed in the end. tick: called again and again."""

    repository: Repository
    place: Path
    tick: Callable[[], None]

    def check(self, stored: Snapshot, taken: snapshot.PreparedBackup, before: Looks) -> None:
        """Compares what is stored with what was proven. Raises BackupError that says what differs, or could not be read.

        taken: what was stored; where it has a base, the database is read as well. before: what its files looked like when they
        were proven.
        """
        repository, place, tick, directory, found = (
            self.repository,
            self.place,
            self.tick,
            taken.directory,
            taken.manifest,
        )
        try:
            _check_source(directory, found, before, tick)
            place.mkdir(mode=0o700)
            _check_manifest(repository, stored, found, place, tick)
            names = (archive.FILE, sqlite.FILE) if taken.base else (archive.FILE,)
            for entry in found.files:
                if entry.path in names:
                    repository.fetch_file(stored, entry.path, place / entry.path, tick)
                    manifest.check_file(place / entry.path, entry, lambda _size: tick())
            _check_archive(place / archive.FILE, found)
        except (ChromadError, OSError) as error:
            raise BackupError(f"what was stored is not what was proven: {error}", _HINT) from None
        finally:
            removal.remove_tree(place, ignore_errors=True)


def _check_source(directory: Path, found: Manifest, before: Looks, tick: Callable[[], None]) -> None:
    """The files that restic has read are those that were proven. Others may link to them, which changes their ctime."""
    now = look(directory, found)
    for entry in found.files:
        if entry.path not in now or now[entry.path] != before.get(entry.path):
            manifest.check_file(directory / entry.path, entry, lambda _size: tick())


def _check_manifest(
    repository: Repository, stored: Snapshot, found: Manifest, place: Path, tick: Callable[[], None]
) -> None:
    repository.fetch_file(stored, manifest.FILE, place / manifest.FILE, tick)
    if manifest.read(place) != found:
        raise BackupError("its manifest.json says something else")


def _check_archive(path: Path, found: Manifest) -> None:
    mark = archive.newest(path)
    wanted = {each.id for each in found.collections}
    if mark.last_seq_id != found.last_seq_id or mark.collections().keys() != wanted:
        raise BackupError("its log.sqlite3 ends elsewhere, or has other collections")
