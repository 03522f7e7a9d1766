"""Where backups work: a directory below the checkpoints, room in it, and what killed runs left there."""

import os
from contextlib import suppress
from pathlib import Path

from chromad.backup import assemble, snapshot
from chromad.config import Config
from chromad.errors import BackupError, PermissionProblem, TryAgain
from chromad.host import files, removal
from chromad.logs.lines import human_bytes
from chromad.store import lock

PROVEN, UNPROVEN = "proven", "unproven"
PROOF = "proof"


def check_prepared(config: Config) -> None:
    """Raises what `prepare` and the lock of the backups would, and changes nothing."""
    directory = config.backup_dir if config.backup_dir.exists() else config.checkpoint_dir
    if not directory.is_dir():
        raise PermissionProblem(
            f"{config.checkpoint_dir} does not exist", "start the service once, or create it for the service user"
        )
    if not os.access(directory, os.W_OK):
        raise PermissionProblem(f"{directory} is not writable for this user", "run as root or as the service user")
    if lock.is_held(config.backup_dir / lock.BACKUP_LOCK):
        raise TryAgain(
            f"{config.backup_dir} is in use for a backup, a drill or a restore",
            "wait for it, or stop it, then try again",
        )


def prepare(config: Config) -> None:
    """Makes the directory in which backups work. Raises PermissionProblem where that is not possible."""
    try:
        if not config.backup_dir.exists():
            with suppress(FileExistsError):
                files.make_directory(config.backup_dir, 0o750)
    except FileNotFoundError:
        raise PermissionProblem(
            f"{config.checkpoint_dir} does not exist", "start the service once, or create it for the service user"
        ) from None
    except OSError as error:
        raise PermissionProblem(
            f"{config.backup_dir}: {error.strerror}", "run as root or as the service user"
        ) from None


def reserve(config: Config, directory: Path) -> int:
    """Bytes of a file system that stay free below disk.fence_percent."""
    status = os.statvfs(directory)
    return (status.f_blocks * (100 - config.disk.fence_percent) // 100) * status.f_frsize


def scratch_space(config: Config, size: int) -> None:
    """Raises BackupError where a private copy of so many bytes would fill the file system up to the fence."""
    free, kept = assemble.free_bytes(config.backup_dir), reserve(config, config.backup_dir)
    if free < size + kept:
        raise BackupError(
            f"{config.backup_dir} has {human_bytes(free)} free; opening the backup for its proof needs "
            f"{human_bytes(size)}, and {human_bytes(kept)} stay below disk.fence_percent",
            "free some space on the file system of the checkpoints",
        )


def remove_leftovers(config: Config) -> None:
    """Removes private copies of runs that were killed; the caller holds the backup lock."""
    names = (PROOF, snapshot.NEXT)
    for path in (*(config.backup_dir / name for name in names), *config.backup_dir.glob("drill-*")):
        removal.remove_tree(path, ignore_errors=True)
    files.remove_drafts(config.backup_dir)


def host() -> str:
    """The name under which this host's backups are stored."""
    return os.uname().nodename
