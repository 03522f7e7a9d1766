"""What the stop before has left in the data directory, and what of it is believed."""

from dataclasses import replace
from pathlib import Path

from chromad.backup import ledger
from chromad.chroma import segment, sqlite, wal
from chromad.config import Config
from chromad.errors import BackupError
from chromad.logs import events
from chromad.logs.lines import log
from chromad.store import state


def backed_up(config: Config) -> str:
    """The history that the last backup was of; empty when there was none, or nobody can tell."""
    try:
        return ledger.read(config.backup_dir).data_id
    except (BackupError, OSError):
        return ""


def set_older_wal_aside(config: Config, before: state.State | None) -> None:
    """A clean stop has emptied the WAL. One that lies beside the very database that the stop left was written by somebody else
    since, or is of an earlier time: SQLite would put its pages over newer ones, as it does not know which file a WAL is of."""
    if before is None or not before.clean or before.mark is None or not wal.holds_something(config.data_dir):
        return
    if before.mark.database == segment.database_stats(config.data_dir) and wal.goes_back(config.data_dir):
        aside = wal.set_aside(config.data_dir)
        log.error("the WAL beside %s is older than it, and is renamed to %s", config.data_dir / sqlite.FILE, aside)


def without_false_mark(data_dir: Path, before: state.State | None) -> state.State | None:
    """The state as it can be believed: another database than the one that the mark is of says nothing of any segment."""
    if before is None or before.mark is None or before.mark.database == segment.database_stats(data_dir):
        return before
    log.warning("%s is not the one that the last stop left; no segment is trusted unread", sqlite.FILE)
    return replace(before, mark=None)


def tell(data_dir: Path, before: state.State | None) -> str:
    """Says in the journal how the last run ended; gives it in a word, for the status."""
    if before is None:
        log.info("%s: first start of chromad on this directory", data_dir)
        return "none"
    if before.clean:
        log.info("%s: the last run stopped cleanly (Chroma %s)", data_dir, before.engine_version)
        return "clean"
    same = before.boot_id and before.boot_id == state.boot_id()
    where = "in this boot" if same else "in another boot, as after a power cut"
    log.warning("%s: the last run did not stop cleanly, %s", data_dir, where, extra=events.UNCLEAN_STOP.extra)
    return "unclean"
