"""From the files of a backup to a data directory: every file is compared with the manifest, then the log is put in."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from chromad import versions
from chromad.backup import manifest
from chromad.backup.manifest import Manifest
from chromad.chroma import catalogs, segment, sqlite, wal
from chromad.chroma.soundness import Claim
from chromad.errors import BackupError, ConfigurationError
from chromad.host import memory
from chromad.store import archive

# phase, bytes done, bytes in all
Progress = Callable[[str, int, int], None]

# The part of the memory that a private copy may take without being on disk. With twice as much the kernel begins to put it
# there (vm.dirty_background_ratio), and when that is too slow, everyone who writes has to wait.
_UNWRITTEN = 0.05
# The part of it that a database may take to be read ahead
_READ = 0.25
_BLOCK = 128 << 10  # bytes


def check_engine(found: Manifest) -> None:
    """Raises ConfigurationError when a newer engine than ours took a backup."""
    if versions.numbers(found.engine_version) > versions.numbers(versions.engine()):
        raise ConfigurationError(
            f"the backup was taken by Chroma {found.engine_version}; the installed engine is {versions.engine()}",
            "install the newer one first",
        )


def verify(source: Path, found: Manifest, progress: Progress) -> None:
    """Compares all files of a backup with its manifest: these, no others, and none by way of a link.

    Raises BackupError at the first that differs.
    """
    _check_names(source, {entry.path for entry in found.files})
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress("checking files", done, found.size)

    for entry in found.files:
        manifest.check_file(source / entry.path, entry, count)
    named = {collection.id for collection in found.collections}
    if named != archive.newest(source / archive.FILE).collections().keys():
        raise BackupError(
            "the backup's database does not hold the collections of its manifest",
            "choose another backup: chromactl backups",
        )


def _check_names(source: Path, expected: set[str]) -> None:
    for path in source.rglob("*"):
        name = str(path.relative_to(source))
        plain = stat.S_ISREG(path.lstat().st_mode) and name in expected | {manifest.FILE}
        if not plain and not stat.S_ISDIR(path.lstat().st_mode):
            raise BackupError(
                f"{path} is not what the manifest says (damaged)", "choose another backup: chromactl backups"
            )


def copy(source: Path, found: Manifest, target: Path, progress: Progress) -> None:
    """A private copy of a backup's files in a new directory: nothing in it is shared with what was copied.

    It is not put on disk unless it is large: it will not live for long, and the commits of the service's clients would wait
    for that.
    """
    target.mkdir(mode=0o700)
    flush = found.size > _UNWRITTEN * memory.limit()
    done = 0
    for entry in found.files:
        place = target / entry.path
        place.parent.mkdir(mode=0o750, exist_ok=True)
        try:
            segment.copy_file(source / entry.path, place, flush=flush)
        except FileNotFoundError:
            raise BackupError(f"{source / entry.path} is missing from the backup", "take a new one") from None
        if flush and entry.path == sqlite.FILE and entry.size < _READ * memory.limit():
            _read_ahead(place)
        done += entry.size
        progress("copying", done, found.size)


def _read_ahead(path: Path) -> None:
    """Brings into the cache what went past it: the engine reads a database page by page, all over the place."""
    block = bytearray(_BLOCK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(block):
            pass


def bring_up(
    directory: Path, found: Manifest, *, seq_id: int | None = None, catalog: catalogs.Catalog | None = None
) -> None:
    """Makes a data directory of a backup's verified files, in place: the engine finds the log and replays it. The caller puts
    it on disk, if it is to stay.

    seq_id, catalog: where the log is to end, and which collections there are; as the backup has it unless given.
    """
    path = directory / archive.FILE
    if catalog is None:
        catalog = archive.newest(path).catalog
    wanted = found.last_seq_id if seq_id is None else seq_id
    for uuid in archive.apply(directory, path, wanted, catalog):
        if (directory / uuid).exists():
            shutil.rmtree(directory / uuid)
    path.unlink()
    (directory / manifest.FILE).unlink(missing_ok=True)
    wal.use(directory, flush=False)


def settle(directory: Path, found: Manifest) -> None:
    """Spares the engine that opens a private copy, after `bring_up`, to find new neighbours for each updated record."""
    from chromad.chroma import vectors  # here: numpy is not for the daemon

    with sqlite.connect(directory) as connection:
        sqlite.do_not_flush(connection)
        for each in sqlite.read_collections(connection, counted=False):
            if each.persisted is not None:
                cosine = sqlite.is_cosine(connection, each)
                claim = Claim(directory, each.topic, each.persisted, found.last_seq_id, None, cosine, mend=True)
                vectors.settle(directory / each.segment, connection, claim)


def free_bytes(directory: Path) -> int:
    """Bytes that an ordinary user may still write there."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize
