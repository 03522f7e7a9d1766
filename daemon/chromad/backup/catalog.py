"""The backups in a directory: one subdirectory each, named by the UTC time of its start."""

import re
from dataclasses import dataclass
from pathlib import Path

from chromad.backup import manifest
from chromad.errors import BackupError, PermissionProblem

NAME_FORMAT = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True)
class Backup:
    """manifest: None when it cannot be read; `problem` says why."""

    name: str
    path: Path
    manifest: manifest.Manifest | None
    problem: str = ""


def backups(directory: Path) -> list[Backup]:
    """All backups, the oldest first. Unfinished ones have other names and do not count."""
    found = []
    for name in _names(directory):
        path = directory / name
        try:
            found.append(Backup(name, path, manifest.read(path)))
        except BackupError as error:
            found.append(Backup(name, path, None, error.message))
    return found


def find(directory: Path, name: str) -> Path:
    """The directory of a backup by its name, or of the newest one for `latest`. Raises BackupError."""
    names = _names(directory)
    if name == "latest" and names:
        return directory / names[-1]
    if name in names:
        return directory / name
    raise BackupError(
        f"no backup {name!r} in {directory}", "chromactl backups lists them" if names else "take one: chromactl backup"
    )


def covers(directory: Path, data_id: str) -> int | None:
    """The seq id up to which the newest backup of a history holds everything; None when there is no backup of it."""
    for name in reversed(_names(directory)):
        try:
            found = manifest.read(directory / name)
        except BackupError:
            continue
        if found.data_id == data_id:
            return found.last_seq_id
    return None


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []
    except PermissionError:
        raise PermissionProblem(
            f"{directory} is not readable for this user", "run as root or as the service user"
        ) from None
    except NotADirectoryError:
        raise BackupError(f"{directory} is not a directory", "correct backup.directory") from None
