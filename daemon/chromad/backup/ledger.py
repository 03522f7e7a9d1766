"""`ledger.json`: what this host knows of its backups without asking the repository.

It says how far the last good backup covers the log, so that it may be purged, how the last backup and the last drill
ended, and what a repository does not keep by itself.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from chromad.errors import BackupError
from chromad.fields import Moment, MomentOrNone, Number, Seconds
from chromad.host import files

FILE = "ledger.json"
FORMAT = 1
_KEPT = 200


@dataclass(frozen=True)
class Taken:
    """A backup by its id in the repository. created: UTC, ISO 8601. added: bytes that it added. seconds: it took. collections,
    records: that it holds; None where an older chromad took it."""

    id: str
    created: Moment
    proven: bool
    added: Number
    seconds: Seconds
    collections: Number | None = None
    records: Number | None = None


@dataclass(frozen=True)
class Kept:
    """A backup, by the time of its creation, that retention leaves alone until a time: it holds `records`, and the one that
    came after it less than half of them, `left`."""

    created: Moment
    until: Moment
    records: Number
    left: Number


@dataclass(frozen=True)
class Drill:
    """When a drill ended, of which backup, and why it failed (empty when it did not). part: of the repository that it read."""

    ended: Moment
    id: str
    seconds: Seconds
    part: str
    problem: str


@dataclass(frozen=True)
class Ledger:
    """data_id: of the history that last_seq_id and last_good belong to. problem: of the last backup, empty when it was good.
    suspect: its proof failed, so nothing is to be built on it. parts: how many rotating checks there were. retained: when
    retention was applied last. kept: what it leaves alone, the newest last."""

    format: int = FORMAT
    data_id: str = ""
    last_seq_id: Number = 0
    last_good: MomentOrNone = ""
    attempted: MomentOrNone = ""
    problem: str = ""
    suspect: bool = False
    parts: Number = 0
    retained: MomentOrNone = ""
    kept: list[Kept] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    drills: list[Drill] = field(default_factory=list)

    def added(self, backup_id: str) -> int | None:
        """Bytes that a backup added, None when it was not taken here or long ago."""
        return next((each.added for each in self.taken if each.id == backup_id), None)

    def drill(self, backup_id: str) -> Drill | None:
        """The last drill of a backup."""
        return next((each for each in reversed(self.drills) if each.id == backup_id), None)


def read(directory: Path) -> Ledger:
    """The ledger of a host, an empty one where there is none yet. Raises BackupError when it is damaged."""
    path = directory / FILE
    try:
        found = TypeAdapter(Ledger).validate_json(files.read_plain(path), strict=True)
    except FileNotFoundError:
        return Ledger()
    except ValueError:
        raise BackupError(
            f"{path} is damaged", f"move it aside, the repository has the backups: mv {path} {path}.bad"
        ) from None
    if found.format > FORMAT:
        raise BackupError(f"{path} has format {found.format}", "install the newer chromad again")
    return found


def write(directory: Path, ledger: Ledger) -> None:
    """Writes it so that a crash leaves the old or the new one; keeps its lists short."""
    short = replace(ledger, taken=ledger.taken[-_KEPT:], drills=ledger.drills[-_KEPT:])
    files.write_atomically(directory / FILE, json.dumps(asdict(short), indent=1, allow_nan=False) + "\n", 0o640)


def covers(directory: Path, data_id: str) -> int | None:
    """The seq id up to which the last good backup of a history holds the log; 0 when none was good yet, None when none
    was tried."""
    found = read(directory)
    return found.last_seq_id if found.data_id == data_id else None


def summary(directory: Path) -> dict[str, Any]:
    """What a status shows: the last good backup, what went wrong with the last one, and the same of drills. shrunk: that one
    had less than half of the records of the one before it (from, to), which is kept (kept, its creation; kept_until)."""
    try:
        found = read(directory)
    except (BackupError, OSError) as error:
        shown = dict.fromkeys(("last_good", "problem", "shrunk", "drill", "drill_good", "drill_problem"))
        return {**shown, "problem": str(error)}
    drill = found.drills[-1] if found.drills else None
    return {
        "last_good": found.last_good or None,
        "problem": found.problem or None,
        "shrunk": _shrunk(found),
        "drill": drill.ended if drill else None,
        "drill_good": next((each.ended for each in reversed(found.drills) if not each.problem), None),
        "drill_problem": (drill.problem or None) if drill else None,
    }


def _shrunk(known: Ledger) -> dict[str, Any] | None:
    last = next((each for each in reversed(known.kept) if datetime.fromisoformat(each.until) > datetime.now(UTC)), None)
    if last is None:
        return None
    return {"from": last.records, "to": last.left, "kept": last.created, "kept_until": last.until}


def now() -> str:
    """The time, as it is written here."""
    return datetime.now(UTC).isoformat(timespec="seconds")
