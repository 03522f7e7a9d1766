"""Compacting: giving freed pages of the database back to the file system, and with them what was deleted."""

from collections.abc import Callable
from pathlib import Path

from chromad.chroma import fulltext, space, sqlite, wal
from chromad.chroma.ticks import ticking

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
    space.check(data_dir, _WAL_FACTOR * before, before, "compacting")
    beside = path.with_name(path.name + "-wal")

    def report() -> None:
        progress("compacting", min(beside.stat().st_size if beside.exists() else 0, before), before)

    with sqlite.connect(data_dir) as connection, ticking(connection, report, _STEPS):
        connection.execute("PRAGMA temp_store = FILE")
        fulltext.optimize(connection)
        connection.execute("VACUUM")
        fulltext.put_first(connection)
    _empty_wal(data_dir)
    return before, path.stat().st_size


def _empty_wal(data_dir: Path) -> None:
    for _ in range(_TRIES):
        if wal.truncate(data_dir):
            return
