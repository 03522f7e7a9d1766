"""Which data the checkpoints and backups beside a data directory belong to, so that an empty or another one is noticed.

`<checkpoint_dir>/history.json` names the histories of data (`State.data_id`) that were served here. A directory of another one,
or an empty one, is a volume that is not mounted, or the wrong one: served, it would be taken for the data, and backed up.
"""

import json
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from chromad import documents, names
from chromad.chroma import segment, sqlite
from chromad.config import Config
from chromad.errors import ConfigurationError, passes
from chromad.host import files, threads
from chromad.store import state

FILE = "history.json"
FORMAT = 1
_KEPT = 100
# Seconds; a file system of the network may never answer
_PATIENCE = 5.0


class _History(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    format: int = FORMAT
    data_ids: list[str] = []


def check(config: Config, before: state.State | None, backed_up: str = "") -> None:
    """Raises ConfigurationError when what lies beside a data directory belongs to other data. before: its state. backed_up:
    the history that the last backup was of, where there was one."""
    known = [*_read(config.checkpoint_dir), *filter(None, [backed_up])]
    if before is None:
        what = _evidence(config, known)
        if not what or _share_segments(config):
            return
        if sqlite.exists(config.data_dir):
            raise ConfigurationError(
                f"{config.data_dir} holds a database that chromad has not served, but {what}",
                f"mount the volume that belongs here; or chromactl adopt {config.data_dir} takes this one over; or chromad "
                "--accept-empty serves it as it is, once",
            )
        raise ConfigurationError(
            f"{config.data_dir} is empty, but {what}",
            "is a volume not mounted? chromactl restore latest brings a backup back; chromad --accept-empty begins anew, once",
        )
    if known and not {before.data_id, before.former} & set(known):
        raise ConfigurationError(
            f"{config.data_dir} holds other data than those that {config.checkpoint_dir} belongs to",
            "mount the volume that belongs here; or chromad --accept-empty serves these, once",
        )
    lost = not sqlite.exists(config.data_dir) and config.checkpoint_dir.is_dir()
    if lost and segment.directories(config.checkpoint_dir):
        raise ConfigurationError(
            f"{config.data_dir} has lost its {sqlite.FILE}, but {config.checkpoint_dir} holds checkpoints",
            "chromactl restore latest brings a backup back; chromad --accept-empty begins anew, once",
        )


def accept(checkpoint_dir: Path, data_id: str) -> None:
    """Notes that data of this history belong here, beside those that did."""
    known = _read(checkpoint_dir)
    if data_id not in known and checkpoint_dir.is_dir():
        found = _History(data_ids=[*known, data_id][-_KEPT:])
        files.write_atomically(checkpoint_dir / FILE, json.dumps(found.model_dump()) + "\n", 0o640)


def accept_directory(checkpoint_dir: Path, directory: Path) -> None:
    """As `accept`, of the data of a directory that is to take the place of the data directory."""
    found = state.read(directory)
    if found:
        accept(checkpoint_dir, found.data_id)


def accept_target(checkpoint_dir: Path, directory: Path) -> None:
    """As `accept_directory`, of data that may be moved into place by hand. Where nothing was served yet nothing is noted: any
    data may come, and so may none."""
    if _read(checkpoint_dir):
        accept_directory(checkpoint_dir, directory)


def check_readable(checkpoint_dir: Path) -> None:
    """Raises ConfigurationError when what is noted here cannot be read: no start would succeed."""
    _read(checkpoint_dir)


def _read(checkpoint_dir: Path) -> list[str]:
    path = checkpoint_dir / FILE
    try:
        found = _History.model_validate_json(files.read_plain(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (ValidationError, OSError) as error:
        if isinstance(error, OSError) and passes(error):
            raise
        raise ConfigurationError(
            f"{path} cannot be read, or is damaged", f"move it aside: mv {path} {path}.bad"
        ) from None
    if found.format > FORMAT:
        raise ConfigurationError(
            f"{path} has format {found.format}; this chromad knows up to {FORMAT}", "install the newer chromad again"
        )
    return found.data_ids


def lost_data_id(config: Config) -> str:
    """The history of data that have lost their state, by checkpoints of their own segments; empty where none tell of one."""
    if not sqlite.exists(config.data_dir) or not sqlite.has_tables(config.data_dir):
        return ""
    found = set()
    for uuid in filter(names.is_uuid, sqlite.segments(config.data_dir)):
        for path in (config.checkpoint_dir / uuid).glob("*/checkpoint.json"):
            try:
                found.add(str(documents.parse(path.read_bytes())["data_id"]))
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return found.pop() if len(found) == 1 else ""


def _share_segments(config: Config) -> bool:
    """Whether checkpoints are of segments that the database knows: then they belong together."""
    if not sqlite.exists(config.data_dir) or not config.checkpoint_dir.is_dir():
        return False
    taken = {path.name for path in segment.directories(config.checkpoint_dir)}
    return sqlite.has_tables(config.data_dir) and bool(taken & sqlite.segments(config.data_dir))


def _evidence(config: Config, known: list[str]) -> str:
    """What tells that other data were served here, or backed up; empty when nothing does."""
    if known or (config.checkpoint_dir.is_dir() and segment.directories(config.checkpoint_dir)):
        return f"{config.checkpoint_dir} belongs to other data"
    local = config.backup.local_path
    return f"the repository {local} holds backups" if local and _holds_backups(local) else ""


def _holds_backups(repository: Path) -> bool:
    """Whether there is a snapshot of restic; False where the file system does not answer."""
    found: list[bool] = []

    def look() -> None:
        with suppress(OSError):
            found.append(any((repository / "snapshots").iterdir()))

    looker = threads.Task("look at the repository", look)
    looker.start()
    looker.join(_PATIENCE)
    return any(found)
