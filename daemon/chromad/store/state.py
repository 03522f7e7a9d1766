"""`<data>/chromad.json`: who wrote the directory last, and whether that ended well."""

import json
import os
import secrets
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from chromad.chroma import segment
from chromad.chroma.segment import Stats
from chromad.errors import ConfigurationError
from chromad.host import files

FILE = "chromad.json"
FORMAT = 1


@dataclass(frozen=True)
class CleanMark:
    """What the file of the database, and the files of each segment that is known to be whole, were at a clean stop. Whatever is
    otherwise now was changed, or taken away, by somebody else."""

    database: Stats
    segments: dict[str, Stats]


@dataclass(frozen=True)
class State:
    """format: of this file. data_id: of this history of the data; a restore begins another one, so that checkpoints of
    the former one are not taken for its own. clean: the last run flushed everything. boot_id: empty where unknown.
    updated: UTC, ISO 8601. mark: of a clean stop, None where an earlier chromad wrote none. former: the history that these data
    were restored from, empty when they were not."""

    format: int
    data_id: str
    engine_version: str
    boot_id: str
    clean: bool
    updated: str
    mark: CleanMark | None = None
    former: str = ""


def mark(data_dir: Path, left_out: Collection[str] = ()) -> CleanMark:
    """What the files of a directory are that nobody writes. left_out: uuids of segments that are not known to be whole."""
    segments = {path.name: segment.stats(path) for path in segment.directories(data_dir) if path.name not in left_out}
    return CleanMark(segment.database_stats(data_dir), segments)


def mark_of_copy(copy: Path, original: CleanMark | None) -> CleanMark:
    """As `mark`, of a copy that kept sizes and times of a directory with the mark `original` (None: an earlier chromad wrote
    none). What is not as it says is left out."""
    found = mark(copy)
    if original is None:
        return found
    whole = {
        uuid: stats for uuid, stats in found.segments.items() if _bare(stats) == _bare(original.segments.get(uuid, {}))
    }
    return CleanMark(found.database, whole)


def _bare(found: Stats) -> dict[str, tuple[int, int]]:
    """Without the inodes."""
    return {name: (size, mtime_ns) for name, (_, size, mtime_ns) in found.items()}


def unclean(data_id: str, engine_version: str) -> State:
    """The state of a run of this boot that has yet to come to its end."""
    return State(FORMAT, data_id, engine_version, boot_id(), clean=False, updated=_now())


def clean(data_id: str, engine_version: str, mark: CleanMark, former: str = "") -> State:
    """The state after a stop that flushed everything, of which `mark` tells what it left. former: see `State`."""
    return State(FORMAT, data_id, engine_version, boot_id(), clean=True, updated=_now(), mark=mark, former=former)


def new_data_id() -> str:
    """The id of a history that begins."""
    return secrets.token_hex(16)


def read(data_dir: Path) -> State | None:
    """The state of a directory, None for one that chromad never ran on.

    Raises ConfigurationError when the file is damaged or from a newer chromad.
    """
    path = data_dir / FILE
    try:
        state = TypeAdapter(State).validate_json(files.read_plain(path), strict=True)
    except FileNotFoundError:
        return None
    except ValueError:
        raise ConfigurationError(
            f"{path} is damaged",
            f"move it aside: mv {path} {path}.bad; then chromad --accept-empty once, for which the directory counts as not "
            "stopped cleanly",
        ) from None
    if state.format > FORMAT:
        raise ConfigurationError(
            f"{path} has format {state.format}; this chromad knows up to {FORMAT}", "install the newer chromad again"
        )
    return state


def write(data_dir: Path, state: State) -> None:
    """Writes the state so that a crash leaves either the old or the new one."""
    files.write_atomically(data_dir / FILE, json.dumps(asdict(state), allow_nan=False) + "\n", 0o640)


def boot_id() -> str:
    """The kernel's boot id without dashes; empty where it cannot be read.

    The unit gives it as CHROMAD_BOOT_ID (systemd's %b), because ProcSubset=pid hides the file.
    """
    given = os.environ.get("CHROMAD_BOOT_ID", "")
    if not given:
        try:
            given = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        except OSError:
            return ""
    return given.strip().replace("-", "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
