"""Compacting: giving freed pages of the database back to the file system, and with them what was deleted."""

import os
from collections.abc import Callable
from pathlib import Path

from chromad.errors import TryAgain
from chromad.output import human_bytes
from chromad.store import fulltext, sqlite

# The copy is written to the temporary directory, then through the WAL, which lies beside the database.
_WAL_FACTOR = 2
_STEPS = 20_000  # of SQLite's virtual machine, between two reports
_TRIES = 20


def run(data_dir: Path, progress: Callable[[str, int, int], None]) -> tuple[int, int]:
    """Merges the full-text index, vacuums, and empties the WAL. Gives the size in bytes before and after.

    Writers wait meanwhile, readers do not. progress: phase, bytes done, bytes in all. Raises TryAgain when there is too
    little space.
    """
    path = data_dir / sqlite.FILE
    _empty_wal(data_dir)
    before = path.stat().st_size
    _check_space(data_dir, before)
    wal = path.with_name(path.name + "-wal")

    def report() -> int:
        progress("compacting", min(wal.stat().st_size if wal.exists() else 0, before), before)
        return 0

    with sqlite.connect(data_dir) as connection:
        connection.set_progress_handler(report, _STEPS)
        connection.execute("PRAGMA temp_store = FILE")
        connection.execute("INSERT INTO embedding_fulltext_search (embedding_fulltext_search) VALUES ('optimize')")
        connection.execute("VACUUM")
        fulltext.put_first(connection)
        connection.set_progress_handler(None, 0)
    _empty_wal(data_dir)
    return before, path.stat().st_size


def _empty_wal(data_dir: Path) -> None:
    for _ in range(_TRIES):
        if sqlite.truncate_wal(data_dir):
            return


def _check_space(data_dir: Path, size: int) -> None:
    # As SQLite chooses it on Unix, https://www.sqlite.org/tempfiles.html#temporary_file_storage_locations
    temporary = Path(os.environ.get("SQLITE_TMPDIR") or os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 (a place to look at)
    for directory, needed in ((data_dir, _WAL_FACTOR * size), (temporary, size)):
        status = os.statvfs(directory)
        free = status.f_bavail * status.f_frsize
        if free < needed:
            raise TryAgain(
                f"{directory} has {human_bytes(free)} free; compacting needs {human_bytes(needed)} for a while",
                "free some space first",
            )
