"""Putting a backup in place of the data directory.

Everything that can fail is done beside the data first; then one rename(2) swaps the directories. The data
that was there stays in `<data>/../restore/replaced-…` until an operator removes it.
"""

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from chromad import service, versions
from chromad.api import Api
from chromad.backup import catalog, manifest
from chromad.checks import processes
from chromad.config import Config
from chromad.control import ask
from chromad.errors import BackupError, ChromadError, ConfigurationError, EngineError, PermissionProblem, TryAgain
from chromad.store import lock, segment, sqlite, state

_AT_FDCWD = -100  # fcntl.h
_RENAME_EXCHANGE = 2  # renameat2(2)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """replaced: where the former data are. restarted: whether the service was stopped and started. changed: collections
    that clients wrote since the start."""

    manifest: manifest.Manifest
    replaced: Path
    restarted: bool
    changed: list[str]


def run(config: Config, name: str, *, may_stop: bool, progress: Progress) -> Outcome:
    """Restores a backup, given by name or `latest`.

    may_stop: permission to stop (and start again) the service. Raises TryAgain when it runs without that
    permission, BackupError when the backup is not sound or its collections do not come up; then the former data
    are back in place.
    """
    source = catalog.find(config.backup.directory, name)
    found = manifest.read(source)
    data_dir = config.data_dir
    _check_target(data_dir, found)
    restart = _check_service(config, may_stop)
    staging = _stage(source, found, data_dir, progress)
    stopped = False
    try:
        last = sqlite.last_seq_id(staging)
        if restart:
            service.control("stop")
            stopped = True
        with lock.directory_lock(data_dir):
            _check_alone(data_dir)
            _exchange(staging, data_dir)
    except (ChromadError, OSError):
        # Nothing was exchanged, see `_exchange`: the staging directory holds the copy, not the former data.
        shutil.rmtree(staging)
        if stopped:
            service.control("start")
        raise
    state.fsync_path(data_dir)
    replaced = staging.with_name(staging.name.replace("staging-", "replaced-"))
    staging.rename(replaced)
    state.fsync_path(replaced.parent)
    changed: list[str] = []
    if restart:
        try:
            service.control("start")
            changed = _check_counts(config, found, last)
        except (ChromadError, OSError) as error:
            _roll_back(data_dir, replaced)
            raise BackupError(
                f"restored {found.name}, but the service did not come up with it: {error}",
                "the former data are back in place",
            ) from error
    return Outcome(found, replaced, restart, changed)


def _check_target(data_dir: Path, found: manifest.Manifest) -> None:
    if not data_dir.is_dir():
        raise ConfigurationError(
            f"{data_dir} does not exist", "create it with the service's owner and mode first, or correct data_dir"
        )
    if data_dir.is_symlink():
        raise ConfigurationError(f"{data_dir} is a symbolic link", f"set data_dir to {data_dir.resolve()}")
    if _is_mount_point(data_dir):
        raise ConfigurationError(
            f"{data_dir} is a mount point and cannot be renamed",
            f"mount the volume at {data_dir.parent} or above, so that copies lie beside the data",
        )
    if not os.access(data_dir.parent, os.W_OK):
        raise PermissionProblem(f"{data_dir.parent} is not writable for this user", "run as root")
    if versions.numbers(found.engine_version) > versions.numbers(versions.engine()):
        raise ConfigurationError(
            f"the backup was taken by Chroma {found.engine_version}; the installed engine is {versions.engine()}",
            "install the newer one first",
        )
    status = os.statvfs(data_dir.parent)
    free = status.f_bavail * status.f_frsize
    if free < found.size:
        raise BackupError(
            f"{data_dir.parent} has {free} bytes free; the backup needs {found.size}",
            "free some space; the present data are kept",
        )


def _is_mount_point(path: Path) -> bool:
    # Path.is_mount does not see a directory of the same file system that is mounted here.
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines())
    return str(path) in (re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point) for point in points)


def _check_alone(data_dir: Path) -> None:
    found = processes.with_open_database(data_dir / sqlite.FILE, ignore={os.getpid()})
    if found:
        names = ", ".join(str(process) for process in found)
        raise TryAgain(f"{data_dir / sqlite.FILE} is open in {names}", "stop it first")


def _check_service(config: Config, may_stop: bool) -> bool:
    running = ask(config.control_socket, "status")
    supervised = running["supervised"] if running else service.available() and service.active()
    if (running or supervised) and not may_stop:
        raise TryAgain("the service is running", "chromactl restore … --stop stops it, restores, and starts it again")
    if running and not supervised:
        raise TryAgain(f"chromad runs outside systemd (pid {running['pid']})", "stop it, restore, and start it again")
    if supervised and os.geteuid() != 0:
        raise PermissionProblem(f"only root may stop {service.UNIT}", "sudo chromactl restore …")
    return bool(supervised)


def _stage(source: Path, found: manifest.Manifest, data_dir: Path, progress: Progress) -> Path:
    """A verified, fsynced copy of the backup beside the data directory, with its owner and modes."""
    owner = data_dir.stat()
    parent = data_dir.parent / "restore"
    if not parent.exists():
        parent.mkdir(mode=0o750)
        os.chown(parent, owner.st_uid, owner.st_gid)
    staging = parent / f"staging-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    staging.mkdir(mode=0o700)
    try:
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            progress("copying", done, found.size)

        for entry in found.files:
            target = staging / entry.path
            target.parent.mkdir(mode=0o750, exist_ok=True)
            manifest.copy_verified(source / entry.path, target, entry, count)
        _compare_database(staging, found)
        state.write(staging, state.new(state.new_data_id(), found.engine_version, clean=True))
        for path in (staging, *staging.rglob("*")):
            os.chmod(path, 0o750 if path.is_dir() else 0o640)
            os.chown(path, owner.st_uid, owner.st_gid)
            state.fsync_path(path)
        os.chmod(staging, owner.st_mode & 0o7777)
        state.fsync_path(parent)
    except BaseException:
        shutil.rmtree(staging)
        raise
    return staging


def _compare_database(staging: Path, found: manifest.Manifest) -> None:
    here = {collection.id: collection.records for collection in sqlite.collections(staging)}
    there = {collection.id: collection.records for collection in found.collections}
    held = {entry.path for entry in found.files}
    complete = {collection.id: collection.seq_id is not None for collection in found.collections}
    for collection in sqlite.collections(staging):
        files = {f"{collection.segment}/{name}" for name in segment.FILES}
        if complete.get(collection.id) and not files <= held:
            raise BackupError(
                f"the manifest lacks files of the collection {collection.name!r}",
                "choose another one: chromactl backups",
            )
    if here != there:
        raise BackupError(
            "the backup's database does not hold the collections of its manifest",
            "choose another one: chromactl backups",
        )


def _exchange(staging: Path, data_dir: Path) -> None:
    """Swaps the two directories, or raises and leaves both as they are."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, bytes(staging), _AT_FDCWD, bytes(data_dir), _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
        raise OSError(number, os.strerror(number), str(data_dir))
    # A file system that cannot exchange: for an instant there is no data directory.
    aside = staging.with_name(f"{staging.name}.former")
    data_dir.rename(aside)
    try:
        staging.rename(data_dir)
    except OSError:
        aside.rename(data_dir)
        raise
    aside.rename(staging)


def _check_counts(config: Config, found: manifest.Manifest, last: int) -> list[str]:
    """Compares the served collections with the manifest; gives those that differ because clients have written since."""
    api = Api(config.listen)
    differing = []
    for collection in found.collections:
        count = api.count(collection.tenant, collection.database, collection.id)
        if count != collection.records:
            differing.append(f"{collection.name}: {count} records, {collection.records} in the backup")
    if differing and sqlite.last_seq_id(config.data_dir) == last:
        raise EngineError("; ".join(differing))
    return differing


def _roll_back(data_dir: Path, replaced: Path) -> None:
    service.control("stop")
    with lock.directory_lock(data_dir):
        _exchange(replaced, data_dir)
    replaced.rename(replaced.with_name(replaced.name.replace("replaced-", "failed-")))
    service.control("start")
