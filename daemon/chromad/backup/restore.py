"""Putting a backup in place of the data directory, or into a new one.

Everything that can fail is done beside the data first, opening it included; then one rename(2) swaps the directories. The
data that were there stay in `<data>/../restore/replaced-…` until an operator removes them.
"""

import ctypes
import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chromad import service, versions
from chromad.api import Api
from chromad.backup import run, stage
from chromad.backup.manifest import CollectionEntry
from chromad.backup.repository import Repository
from chromad.backup.stage import Choice, Staged
from chromad.checks import processes
from chromad.config import Config
from chromad.control import ask
from chromad.errors import BackupError, ChromadError, ConfigurationError, EngineError, PermissionProblem, TryAgain
from chromad.output import log as journal
from chromad.store import history, lock, removal, segment, sqlite, state

_AT_FDCWD = -100  # fcntl.h
_RENAME_EXCHANGE = 2  # renameat2(2)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """replaced: where the former data are, None for a new directory. restarted: whether the service was stopped and started.
    changed: collections that clients wrote since the start. notes: what is not exact."""

    id: str
    created: str
    collections: int
    records: int
    directory: Path
    replaced: Path | None
    restarted: bool
    changed: list[str]
    notes: list[str]


def run_in_place(
    config: Config, repository: Repository, choice: Choice, *, may_stop: bool, inexact: bool, progress: Progress
) -> Outcome:
    """Restores a backup over the data directory.

    may_stop: permission to stop (and start again) the service. inexact: permission to restore what cannot be exact. Raises
    TryAgain when the service runs without that permission, BackupError when the backup is not sound, or not exact, or its
    collections do not come up; then the former data are in place.
    """
    data_dir = config.data_dir
    check_place(config)
    restart = check_service(config, may_stop=may_stop)
    run.prepare(config)
    with lock.backup_lock(config.backup_dir) as held:
        repository.lock_fd = held.fd
        tell_leftovers(data_dir)
        staged = stage.stage(config, repository, choice, staging_place(data_dir), progress)
        try:
            need_exact(staged, inexact)
            dress(
                staged.directory, versions.engine(), data_dir, data_dir.stat().st_mode & 0o7777, staged.manifest.data_id
            )
            history.accept_directory(config.checkpoint_dir, staged.directory)
            last = sqlite.last_seq_id(staged.directory)
            if restart:
                service.control("stop")
            try:
                with lock.directory_lock(data_dir):
                    check_alone(data_dir)
                    exchange(staged.directory, data_dir)
            except (ChromadError, OSError):
                if restart:
                    service.control("start")
                raise
        except (ChromadError, OSError):
            # Nothing was exchanged, see `exchange`: the staging directory holds the copy, not the former data.
            removal.remove_tree(staged.directory, ignore_errors=True)
            raise
        state.fsync_path(data_dir)
        replaced = staged.directory.with_name(staged.directory.name.replace("staging-", "replaced-"))
        staged.directory.rename(replaced)
        state.fsync_path(replaced.parent)
        changed: list[str] = []
        if restart:
            try:
                service.control("start")
                changed = _check_counts(config, staged.entries, last)
            except (ChromadError, OSError) as error:
                roll_back(data_dir, replaced)
                raise BackupError(
                    f"restored {choice.snapshot.id}, but the service did not come up with it: {error}",
                    "the former data are back in place",
                ) from error
    return _outcome(choice, staged, data_dir, replaced, restart, changed)


def run_aside(
    config: Config, repository: Repository, choice: Choice, target: Path, *, inexact: bool, progress: Progress
) -> Outcome:
    """Restores a backup into a directory that does not exist or is empty; no service is touched."""
    if not target.is_absolute():
        raise ConfigurationError(f"the path {target} is relative", "give an absolute one")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"{target} exists and is not an empty directory", "give a new one")
    if not target.parent.is_dir():
        raise ConfigurationError(f"{target.parent} does not exist", "create it first")
    staged = stage.stage(config, repository, choice, target.parent, progress)
    try:
        need_exact(staged, inexact)
        like = target if target.exists() else target.parent
        mode = like.stat().st_mode & 0o7777 if target.exists() else 0o750
        dress(staged.directory, versions.engine(), like, mode, staged.manifest.data_id)
        if target.exists():
            target.rmdir()
        staged.directory.rename(target)
    except (ChromadError, OSError):
        removal.remove_tree(staged.directory, ignore_errors=True)
        raise
    state.fsync_path(target.parent)
    return _outcome(choice, staged, target, None, restarted=False, changed=[])


def need_exact(staged: Staged, inexact: bool) -> None:
    """Raises BackupError when what was staged is not exact and nobody has permitted that."""
    if staged.notes and not inexact:
        raise BackupError(
            "it cannot be exact:\n" + "\n".join(f"  {note}" for note in staged.notes),
            "--inexact restores it all the same; nothing was touched",
        )


def tell_leftovers(data_dir: Path) -> None:
    """Warns of what a restore, or an adoption, that was killed has left beside the data."""
    for path in staging_place(data_dir).glob("staging-*"):
        # Either a copy that was not complete, or the former data, if it was between two renames.
        journal.warning("%s is left of a restore that did not come to its end; look at it, then remove it", path)


def staging_place(data_dir: Path) -> Path:
    """The directory beside the data in which restores are made, with the owner of the data."""
    owner = data_dir.stat()
    parent = data_dir.parent / "restore"
    if not parent.exists():
        parent.mkdir(mode=0o750)
        os.chown(parent, owner.st_uid, owner.st_gid)
    return parent


def check_place(config: Config) -> None:
    """Raises ConfigurationError or PermissionProblem when the data directory is not one that can be swapped."""
    data_dir = config.data_dir
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


def check_service(config: Config, *, may_stop: bool, verb: str = "restore") -> bool:
    """Whether the service is to be stopped and started. Raises TryAgain when it runs and may not be stopped.

    verb: what chromactl was told to do.
    """
    running = ask(config.control_socket, "status")
    supervised = running["supervised"] if running else service.available() and service.active()
    if (running or supervised) and not may_stop:
        raise TryAgain("the service is running", f"chromactl {verb} … --stop stops it, and starts it again afterwards")
    if running and not supervised:
        raise TryAgain(
            f"chromad runs outside systemd (pid {running['pid']})", "stop it first, and start it again afterwards"
        )
    if supervised and os.geteuid() != 0:
        raise PermissionProblem(f"only root may stop {service.UNIT}", f"sudo chromactl {verb} …")
    return bool(supervised)


def _outcome(
    choice: Choice, staged: Staged, directory: Path, replaced: Path | None, restarted: bool, changed: list[str]
) -> Outcome:
    return Outcome(
        choice.snapshot.id,
        staged.manifest.created,
        len(staged.entries),
        sum(entry.records for entry in staged.entries),
        directory,
        replaced,
        restarted,
        changed,
        staged.notes,
    )


def dress(directory: Path, engine_version: str, like: Path, mode: int, former: str = "") -> None:
    """Gives a staged directory a history of its own, an owner and modes, and puts it on disk. mode: of the directory itself.
    former: the history that it was restored from."""
    state.write(directory, state.clean(state.new_data_id(), engine_version, segment.mark(directory), former))
    hand_over(directory, like, mode)


def hand_over(directory: Path, like: Path, mode: int) -> None:
    """Gives all in a directory the owner that `like` has, and modes, and puts it on disk. mode: of the directory itself."""
    owner = like.stat()
    for path in (directory, *directory.rglob("*")):
        os.chmod(path, 0o750 if path.is_dir() else 0o640)
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        if path.is_dir():
            state.fsync_path(path)
        else:
            state.fsync_file(path)
    os.chmod(directory, mode)
    state.fsync_path(directory.parent)


def _is_mount_point(path: Path) -> bool:
    # Path.is_mount does not see a directory of the same file system that is mounted here.
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines())
    return str(path) in (re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point) for point in points)


def check_alone(data_dir: Path) -> None:
    """Raises TryAgain when a process has the database of a directory open."""
    found = processes.with_open_database(data_dir / sqlite.FILE, ignore={os.getpid()})
    if found:
        names = ", ".join(str(process) for process in found)
        raise TryAgain(f"{data_dir / sqlite.FILE} is open in {names}", "stop it first")


def exchange(staging: Path, data_dir: Path) -> None:
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


def _check_counts(config: Config, entries: list[CollectionEntry], last: int) -> list[str]:
    """Compares the served collections with the backup; gives those that differ because clients have written since."""
    api = Api(config.listen)
    differing = []
    for entry in entries:
        count = api.count(entry.tenant, entry.database, entry.id)
        if count != entry.records:
            differing.append(f"{entry.name}: {count} records, {entry.records} in the backup")
    if differing and sqlite.last_seq_id(config.data_dir) == last:
        raise EngineError("; ".join(differing))
    return differing


def roll_back(data_dir: Path, replaced: Path) -> None:
    """Puts the former data back and starts the service with them; what had taken their place is kept as `failed-…`."""
    service.control("stop")
    with lock.directory_lock(data_dir):
        exchange(replaced, data_dir)
    replaced.rename(replaced.with_name(replaced.name.replace("replaced-", "failed-")))
    service.control("start")
