"""The end of an upgrade that was cut off: completed when it was good already, else taken back."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from chromad.backup import restore, workspace
from chromad.chroma import segment, sqlite
from chromad.config import Config
from chromad.errors import ConfigurationError
from chromad.host import files, service, signals
from chromad.maintenance import environment, upgrade_journal
from chromad.maintenance.upgrade_journal import Journal
from chromad.maintenance.upgrade_steps import RootSteps, kept
from chromad.store import history, hold, layout, lock, state, swap


def put_right(config: Config, root: RootSteps) -> str:
    """Ends an upgrade that did not come to its end, see `undo`. Raises TryAgain while it goes on, in another process."""
    if upgrade_journal.read() is None:
        return ""
    workspace.prepare(config)
    with (
        lock.backup_lock(config.backup_dir),
        signals.saying("what an upgrade had left is put right"),
        signals.deferred(),
    ):
        return undo(config, root)


def unfinished() -> str:
    """What `undo` would do; empty where no upgrade was cut off."""
    journal = upgrade_journal.read()
    if journal is None:
        return ""
    verb = "complete" if journal.compared else "take back"
    return f"would {verb} the upgrade of {journal.begun} to Chroma {journal.engine}"


def undo(config: Config, root: RootSteps) -> str:
    """Ends an upgrade that did not come to its end; gives what was done, empty when there was none.

    One that was good already is completed; any other one is taken back: data, environment, service. Can be repeated. The
    caller holds the lock of the backups, as an upgrade does.
    """
    journal = upgrade_journal.read()
    if journal is None:
        return ""
    service.need_root("stop and start")
    data_dir = config.data_dir
    if journal.data_dir != data_dir:
        raise ConfigurationError(
            f"the upgrade was of {journal.data_dir}, the configuration has {data_dir}", "set data_dir as it was"
        )
    restore.check_place(config)
    if journal.compared:
        finish(config, root, journal)
        return f"completed the upgrade of {journal.begun} to Chroma {journal.engine}"
    exchanged = data_dir.stat().st_ino != journal.inode
    if exchanged or environment.active() != journal.old:
        service.control("stop")
    if exchanged:
        with lock.directory_lock(data_dir):
            swap.check_alone(data_dir)
            root.do("upgrade exchange")
            files.fsync_path(data_dir.parent)
        copied, found = state.read(journal.copy), state.read(data_dir)
        if copied and found and replace(copied, mark=found.mark) != found:
            # The new version may have taken checkpoints, of files that it has written.
            data_id = state.new_data_id()
            history.accept(config.checkpoint_dir, data_id)
            state.write(data_dir, replace(found, data_id=data_id))
    root.do("upgrade switch back")
    with sqlite.connect(data_dir) as connection:
        hold.drop(connection)
    if (found := state.read(data_dir)) and found.mark:
        # Nobody else has changed the database since the stop.
        state.write(data_dir, replace(found, mark=replace(found.mark, database=segment.database_stats(data_dir))))
    service.control("start")
    # What is in the copy, nobody but the upgrade has written.
    root.do("upgrade drop")
    root.do("upgrade end")
    return f"took back the upgrade of {journal.begun} to Chroma {journal.engine}"


def finish(config: Config, root: RootSteps, journal: Journal) -> Path:
    """Lets clients change things again; gives where the former data are."""
    replaced = kept(config, journal)
    with sqlite.connect(config.data_dir) as connection:
        hold.drop(connection)
    if journal.copy.exists():
        with sqlite.connect(journal.copy) as connection:
            hold.drop(connection)
        root.do("upgrade keep")
        files.fsync_path(replaced.parent)
        with suppress(OSError):
            (replaced / layout.BALLAST).unlink()
    root.do("upgrade end")
    return replaced
