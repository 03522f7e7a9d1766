"""The checkpointer beside clients that make, rename, empty and delete collections at any moment."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from chromad.backup import ledger, snapshot
from chromad.chroma import log, segment, soundness, sqlite
from chromad.chroma.soundness import Verdict
from chromad.config import Config
from chromad.daemon import checkpointer
from chromad.daemon.checkpointer import Checkpointer
from chromad.errors import BackupError
from chromad.store.checkpoint import Store

from tests.segments import engine

NEW = str(UUID(int=77))


def _delete(data: Path, name: str) -> None:
    engine.client(data).delete_collection(name)


def _rename(data: Path, name: str, to: str) -> None:
    engine.client(data).get_collection(name, embedding_function=None).modify(name=to)


def _empty(data: Path, name: str) -> None:
    collection = engine.client(data).get_collection(name, embedding_function=None)
    collection.delete(ids=collection.get(include=[])["ids"])


@pytest.fixture
def data(two: Path) -> Path:
    """Two collections of 30 records each, all persisted."""
    return two


def make(data: Path) -> tuple[Checkpointer, Store]:
    config = Config.model_validate({"data_dir": str(data), "checkpoint_dir": str(data.parent / "checkpoints")})
    store = Store(data, config.checkpoint_dir, "history")
    store.prepare()
    return Checkpointer(config, store, "history"), store


def cycle(found: Checkpointer) -> checkpointer.Summary:
    return found.cycle(lambda *_: None)


def once(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, do: Callable[[], object], *, after: bool = False
) -> None:
    """Has something done by a client just before (or after) a function is called for the first time."""
    real = getattr(owner, name)
    done: list[object] = []

    def call(*arguments: Any, **words: Any) -> Any:
        if not done and not after:
            done.append(do())
        result = real(*arguments, **words)
        if not done:
            done.append(do())
        return result

    monkeypatch.setattr(owner, name, call)


_MOMENTS = [
    (log, "replays_exactly", True),
    (segment, "copy_live", False),
    (soundness, "examine", False),
    (segment, "copy_live", True),
    (sqlite, "is_cosine", False),
    (soundness, "examine", True),
    (Store, "drop_others", False),
    (log, "purge", False),
    (sqlite, "segments", False),
]


@pytest.mark.parametrize(
    ("owner", "name", "after", "change"),
    [
        *((*moment, "delete") for moment in _MOMENTS),
        *((*moment, change) for moment in _MOMENTS[:3] for change in ("rename", "empty")),
    ],
)
def test_collection_changes_at_any_moment(
    owner: Any, name: str, after: bool, change: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, store = make(data)
    segments = {each.name: each.segment for each in sqlite.collections(data)}
    changes: dict[str, tuple[Any, ...]] = {"delete": (_delete,), "rename": (_rename, "renamed"), "empty": (_empty,)}
    function, *words = changes[change]
    once(monkeypatch, owner, name, lambda: engine.run(function, data, "goes", *words), after=after)
    cycle(found)
    assert not found.broken
    assert store.latest(segments["stays"])
    summary = cycle(found)
    assert summary.left == 0
    assert not found.unprotected
    assert (store.latest(segments["goes"]) is None) == (change == "delete")
    stays = engine.run(engine.read, data, "stays")
    assert len(stays) == 30


def test_checkpoint_of_a_collection_that_was_deleted_meanwhile_is_not_taken(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log went with it, so that nothing was compared."""
    _, store = make(data)
    collections = {each.name: each for each in sqlite.collections(data)}
    once(monkeypatch, soundness, "examine", lambda: engine.run(_delete, data, "goes"))
    taken = store.take(list(collections.values()), live=True, progress=lambda _: None)
    assert taken.keys() == {collections["stays"].id}
    assert store.left == {}


def test_collection_made_while_orphans_are_looked_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = make(data)

    once(monkeypatch, sqlite, "segments", lambda: engine.run(engine.fill, data, ["new"], 30), after=True)
    cycle(found)
    assert len(engine.run(engine.read, data, "new")) == 30
    assert not list(found.config.quarantine_dir.glob("*orphan*"))


def test_orphan_is_moved(data: Path) -> None:
    found, _ = make(data)
    (data / NEW).mkdir()
    cycle(found)
    assert [path.name[:36] for path in found.config.quarantine_dir.glob("*-orphan-*")] == [NEW]


def test_unforeseen_error_does_not_end_the_thread(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = make(data)
    monkeypatch.setattr(checkpointer, "_POLL", 0.01)
    monkeypatch.setattr(checkpointer, "_RETRY", 0.01)
    found._first = 0.01
    wrong = [True]
    real = log.replays_exactly

    def fail(*arguments: Any) -> bool:
        if wrong:
            raise TypeError("'NoneType' object is not iterable")
        return real(*arguments)

    monkeypatch.setattr(log, "replays_exactly", fail)
    found.want()
    found.start()
    try:
        _until(lambda: "NoneType" in found.last_error)
        assert found.is_alive()
        wrong.clear()
        _until(lambda: not found.last_error)
    finally:
        found.stop()


def test_looks_leave_the_processor_to_others(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With very many collections, a look takes seconds."""
    found, _ = make(data)
    assert found._look() == checkpointer._POLL
    look = found._due

    def long(since: float) -> bool:
        end = time.thread_time() + 0.5
        while time.thread_time() < end:
            pass
        return look(since)

    monkeypatch.setattr(found, "_due", long)
    assert found._look() >= 0.5 * checkpointer._REST > checkpointer._POLL


@pytest.mark.parametrize(("free", "due"), [(1 << 40, False), (1 << 12, True)])
def test_log_is_let_go_sooner_where_it_would_fill_the_disk(
    data: Path, free: int, due: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has some 10 KB, far less than checkpoint.after_log."""
    found, _ = make(data)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=1))
    assert found._due(0.0) is due


def test_seq_ids_that_are_given_again_are_counted(data: Path) -> None:
    """Deleting the collection with the newest rows makes SQLite give their seq ids to what comes next."""
    found, _ = make(data)
    found._due(0.0)
    before = found._logged
    engine.run(_delete, data, "goes")
    found._due(0.0)
    engine.run(engine.fill, data, ["next"], 10)
    found._due(0.0)
    assert found._logged - before > 10 * 100


def test_segment_without_a_checkpoint_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, store = make(data)
    places = {each.name: data / each.segment for each in sqlite.collections(data)}
    (places["goes"] / "length.bin").unlink()
    summary = cycle(found)
    assert (summary.taken, summary.left) == (1, 1)
    assert found.unprotected == {"goes": "it is not sound: length.bin is missing"}
    assert not found.broken, "there is no checkpoint that a restart could put back"

    def changing(*_: Any) -> int:
        raise BackupError("it kept changing for 90 s", "")

    monkeypatch.setattr(segment, "copy_live", changing)
    assert cycle(found).left == 1
    assert found.unprotected == {"goes": "it kept changing for 90 s"}
    monkeypatch.undo()
    unread = Verdict(False, "could not be examined: the process ended with status -9", unread=True)
    monkeypatch.setattr(soundness, "examine", lambda paths, *_: dict.fromkeys(paths, unread))
    assert cycle(found).left == 1
    assert found.unprotected == {"goes": unread.problem}
    assert not store.unsound
    monkeypatch.undo()
    engine.run(_delete, data, "goes")
    assert cycle(found).left == 0
    assert found.unprotected == {}


def test_what_waits_for_its_next_persist_is_named_when_it_waits_long(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = make(data)
    monkeypatch.setattr(log, "replays_exactly", lambda *_: False)
    cycle(found)
    cycle(found)
    assert found.unprotected == {}
    cycle(found)
    assert found.unprotected.keys() == {"goes", "stays"}
    monkeypatch.undo()
    assert cycle(found).left == 0
    assert found.unprotected == {}


def test_log_is_kept_that_the_metadata_segment_has_not_applied(data: Path) -> None:
    found, _ = make(data)
    with closing(sqlite3.connect(data / sqlite.FILE)) as connection, connection:
        (stays,) = (each for each in sqlite.collections(data) if each.name == "stays")
        rows = "SELECT min(seq_id) FROM embeddings_queue WHERE topic = ?"
        (first,) = connection.execute(rows, (stays.topic,)).fetchone()
        metadata = "SELECT id FROM segments WHERE scope = 'METADATA' AND collection = ?"
        connection.execute(f"UPDATE max_seq_id SET seq_id = ? WHERE segment_id = ({metadata})", (first + 4, stays.id))
    cycle(found)
    with closing(sqlite3.connect(data / sqlite.FILE)) as connection:
        kept = [
            row[0] for row in connection.execute("SELECT seq_id FROM embeddings_queue WHERE topic = ?", (stays.topic,))
        ]
    assert min(kept) == first + 5
    assert len(kept) == 25


def test_checkpoint_of_a_later_state_than_the_database_lets_nothing_go(data: Path) -> None:
    """An older database was put back: its log is all that there is."""
    found, store = make(data)
    [goes] = (each for each in sqlite.collections(data) if each.name == "goes")
    store.take([goes], live=False, progress=lambda _: None)
    with closing(sqlite3.connect(data / sqlite.FILE)) as connection, connection:
        connection.execute("UPDATE max_seq_id SET seq_id = 40 WHERE segment_id = ?", (goes.segment,))
    [goes] = (each for each in sqlite.collections(data) if each.name == "goes")
    assert goes.persisted == 40
    assert found._purge([goes], lambda *_: None, live=False) == 0


def test_nothing_is_purged_before_the_first_good_backup(data: Path) -> None:
    found, _ = make(data)
    found.config.backup_dir.mkdir(parents=True)
    ledger.write(found.config.backup_dir, ledger.Ledger(data_id="history", problem="the repository is missing"))
    summary = cycle(found)
    assert summary.taken == 2
    assert summary.purged == 0


def test_persist_that_stands_still_is_not_copied(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files quiet, but one newer than the pickle: the engine is held up between two of them."""
    found, store = make(data)
    (goes,) = (each for each in sqlite.collections(data) if each.name == "goes")
    level0 = data / goes.segment / "data_level0.bin"
    pickle = data / goes.segment / segment.PICKLE
    now = time.time_ns()
    os.utime(pickle, ns=(now - 2_000_000_000, now - 2_000_000_000))
    os.utime(level0, ns=(now - 1_000_000_000, now - 1_000_000_000))
    monkeypatch.setattr(segment, "_LIMIT", 1.0)
    cycle(found)
    assert store.latest(goes.segment) is None
    assert "kept changing" in found.unprotected["goes"]


@pytest.mark.parametrize("after", [False, True])
def test_collection_deleted_while_a_backup_copies_it(
    after: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not in the database of the backup either, which is copied later."""
    found, store = make(data)
    with closing(sqlite3.connect(data / sqlite.FILE)) as connection, connection:
        connection.execute("DELETE FROM embeddings_queue WHERE seq_id NOT IN (30, 60)")
    once(monkeypatch, segment, "copy_live", lambda: engine.run(_delete, data, "goes"), after=after)
    target = tmp_path / "base"
    target.mkdir()
    linked, files = snapshot._link_segments(found.config, store, target, lambda _: None, lambda *_: None)
    [stays] = sqlite.collections(data)
    assert linked.keys() == {stays.segment}
    assert [path.name for path in target.iterdir()] == [stays.segment]
    assert {entry.path.split("/")[0] for entry in files} == {stays.segment}


def test_checkpoint_is_replaced_while_somebody_looks(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    found, store = make(data)
    cycle(found)
    [home, _] = segment.directories(found.config.checkpoint_dir)
    entries = store._all(home.name)
    other = home / "9"
    shutil.copytree(next(home.iterdir()), other)
    listed = store._all(home.name)
    next(listed)
    for path in home.iterdir():
        shutil.rmtree(path)
    assert list(listed) == []
    home.rmdir()
    assert list(entries) == []
    assert "no checkpoint that can be used" not in caplog.text


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
