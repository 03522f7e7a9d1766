"""The copy of the data that an upgrade makes: first while the service runs, then when it has stopped."""

import os
import shutil
import sqlite3
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from chromad.backup import proof
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.host import files, service
from chromad.maintenance import environment, upgrade_journal
from chromad.maintenance.upgrade import Upgrade
from chromad.maintenance.upgrade_end import finish, undo
from chromad.maintenance.upgrade_journal import Journal
from chromad.maintenance.upgrade_steps import RootSteps
from chromad.store import history, hold, state

from tests.segments import engine


@pytest.fixture
def upgrade(two: Path, tmp_path: Path) -> Upgrade:
    """One that has begun, with nothing copied."""
    config = Config.model_validate({"data_dir": str(two)})
    steps = RootSteps(config, tmp_path / "chromad.yml")
    made = Upgrade(config, steps, lambda: (_ for _ in ()).throw(AssertionError), lambda *_: None)
    copy = tmp_path / "copy"
    copy.mkdir()
    made._journal = Journal(1, "", Path("/old"), Path("/new"), "1.5.9", two, two.stat().st_ino, copy, compared=False)
    return made


def test_copy_follows_what_changes_and_what_goes(two: Path, upgrade: Upgrade) -> None:
    copy = upgrade._journal.copy
    stays, goes = engine.segment(two, "stays"), engine.segment(two, "goes")
    long_ago = time.time() - 3600
    for path in two.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    upgrade._copy()
    shutil.rmtree(goes)
    (stays / "length.bin").write_bytes(b"changed")
    upgrade._copy()
    files = {path.relative_to(two): path.read_bytes() for path in two.rglob("*") if path.is_file()}
    assert {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == files


def test_file_that_was_written_just_before_it_was_copied_is_copied_again(two: Path, upgrade: Upgrade) -> None:
    """The clock of a file system ticks some hundred times a second: what is written in the same tick leaves the time as it is."""
    path = engine.segment(two, "stays") / "data_level0.bin"
    before = path.read_bytes()
    after = before[:-1] + bytes([before[-1] ^ 1])
    path.write_bytes(before)
    status = path.stat()
    upgrade._copy()
    path.write_bytes(after)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    upgrade._copy()
    assert (upgrade._journal.copy / path.relative_to(two)).read_bytes() == after


def test_changes_stay_held_in_what_the_new_version_serves(
    two: Path, upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is compared: what clients wrote would be gone when the old version is put back."""
    state.write(two, state.clean("history", "1.5.9", state.mark(two)))
    with sqlite.connect(two) as connection:
        hold.put(connection, "an upgrade")
    upgrade._copy()
    monkeypatch.setattr(proof, "scratch", lambda *_: nullcontext())
    upgrade._migrate()
    with sqlite.connect(upgrade._journal.copy) as connection:
        for statement in ("DELETE FROM collections", "INSERT INTO embeddings_queue (operation) VALUES (0)"):
            with pytest.raises(sqlite3.IntegrityError, match="changes are held while this host is upgraded"):
                connection.execute(statement)


class _Steps(RootSteps):
    """Does nothing, and exchanges as root would."""

    def do(self, word: str) -> None:
        if word == "upgrade exchange":
            files.exchange(self.copies()[0], self._config.data_dir)


def test_undo_is_on_disk_before_the_old_version_serves(
    two: Path, upgrade: Upgrade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    """A power cut would bring back what the new version has written, without what clients write from now on."""
    journal = upgrade._journal
    shutil.copytree(two, journal.copy, dirs_exist_ok=True)
    for place in (two, journal.copy):
        state.write(place, state.clean("history", "1.5.9", state.mark(place)))
    files.exchange(journal.copy, two)
    done.clear()
    monkeypatch.setattr(upgrade_journal, "read", lambda: journal)
    monkeypatch.setattr(environment, "active", lambda: journal.old)
    monkeypatch.setattr(service, "need_root", lambda _: None)
    undo(upgrade._config, _Steps(upgrade._config, tmp_path / "chromad.yml"))
    assert done[done.index("exchange") + 1] == f"fsync {two.parent}"


def test_history_that_begins_with_an_undo_is_known_before_the_data_are_of_it(
    two: Path, upgrade: Upgrade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every start after a kill in between would refuse them."""
    journal = upgrade._journal
    shutil.copytree(two, journal.copy, dirs_exist_ok=True)
    former = state.clean("history", "1.5.9", state.mark(two))
    state.write(two, former)
    state.write(journal.copy, state.unclean("history", "1.5.9"))
    files.exchange(journal.copy, two)
    monkeypatch.setattr(upgrade_journal, "read", lambda: journal)
    monkeypatch.setattr(environment, "active", lambda: journal.old)
    monkeypatch.setattr(service, "need_root", lambda _: None)
    monkeypatch.setattr(service, "control", lambda _: None)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(history, "accept", die)
    with pytest.raises(KeyboardInterrupt):
        undo(upgrade._config, _Steps(upgrade._config, tmp_path / "chromad.yml"))
    assert two.stat().st_ino == journal.inode
    assert state.read(two) == former


def test_journal_goes_when_nothing_is_held_any_more(two: Path, upgrade: Upgrade, tmp_path: Path) -> None:
    """After a kill in between nobody would lift the hold, and no client could change anything."""
    upgrade._journal.copy.rmdir()
    with sqlite.connect(two) as connection:
        hold.put(connection, "an upgrade")
    held: list[int] = []

    class _Ends(_Steps):
        def do(self, word: str) -> None:
            if word == "upgrade end":
                with sqlite.connect(two) as connection:
                    found = connection.execute("SELECT name FROM sqlite_master WHERE name GLOB 'chromad_hold_*'")
                    held.append(len(found.fetchall()))

    finish(upgrade._config, _Ends(upgrade._config, tmp_path / "chromad.yml"), upgrade._journal)
    assert held == [0]
