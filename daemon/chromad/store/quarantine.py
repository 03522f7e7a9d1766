"""The quarantine: what is taken out of the data directory is moved here, never deleted on a doubt."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from chromad.errors import PermissionProblem
from chromad.store import segment, state

_ORPHAN, _REBUILT = "orphan", "rebuilt"
_NAME_FORMAT = "%Y%m%dT%H%M%S.%fZ"


def move(path: Path, quarantine_dir: Path, why: str, tick: Callable[[], None]) -> Path:
    """Moves a segment's directory to `<quarantine_dir>/<segment>-<why>-<UTC time>`; gives where it is then.

    why: a word. tick: called between files where they have to be copied. Raises PermissionProblem when the quarantine cannot be written.
    """
    target = quarantine_dir / f"{path.name}-{why}-{datetime.now(UTC).strftime(_NAME_FORMAT)}"
    try:
        quarantine_dir.mkdir(mode=0o750, exist_ok=True)
        try:
            path.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # Another mount of the same file system, as systemd's ReadWritePaths= makes them, or another one.
            _copy(path, target, tick)
            shutil.rmtree(path)
        os.utime(target)
        state.fsync_path(quarantine_dir)
        state.fsync_path(path.parent)
    except PermissionError as error:
        raise PermissionProblem(
            f"{path} cannot be moved to {quarantine_dir}: {error.strerror}",
            f"create it: install -d -m 0750 … {quarantine_dir}",
        ) from None
    return target


def move_orphan(path: Path, quarantine_dir: Path, tick: Callable[[], None]) -> Path:
    """As `move`, for the segment of a collection that was deleted."""
    return move(path, quarantine_dir, _ORPHAN, tick)


def move_rebuilt(path: Path, quarantine_dir: Path, tick: Callable[[], None]) -> Path:
    """As `move`, for a segment of which the log has everything: of each the last one alone is kept, so that one that is not
    sound again and again takes no more room each time."""
    former = list(quarantine_dir.glob(f"{path.name}-{_REBUILT}-*"))
    target = move(path, quarantine_dir, _REBUILT, tick)
    for each in former:
        shutil.rmtree(each)
    return target


def remove_orphans(quarantine_dir: Path, grace: float) -> list[Path]:
    """Removes what `move_orphan` moved here more than `grace` seconds ago; gives what it was."""
    if not quarantine_dir.is_dir():
        return []
    removed = []
    for path in quarantine_dir.glob(f"*-{_ORPHAN}-*"):
        if path.stat().st_mtime < time.time() - grace:
            shutil.rmtree(path)
            removed.append(path)
    return removed


def _copy(source: Path, target: Path, tick: Callable[[], None]) -> None:
    unfinished = target.with_name(f".{target.name}")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o750)
    for name in segment.stats(source):
        segment.copy_file(source / name, unfinished / name)
        tick()
    for _ in segment.sync(unfinished):
        tick()
    unfinished.rename(target)
