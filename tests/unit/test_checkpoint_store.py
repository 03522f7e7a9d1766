"""The store of checkpoints: what it publishes is whole and on disk, and it removes what is its own, and nothing else."""

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from chromad.chroma import sqlite
from chromad.store import checkpoint
from chromad.store.checkpoint import Store

from tests.segments import engine


def store(data: Path) -> Store:
    """A store whose segments are those of a directory."""
    made = Store(data, data.parent / "checkpoints", "history")
    made.prepare()
    return made


def take(data: Path) -> Store:
    """Takes a checkpoint of each segment, while no engine runs."""
    made = store(data)
    made.take(sqlite.collections(data), live=False, progress=lambda _: None)
    return made


def home(data: Path, name: str) -> Path:
    """Where the checkpoints of a collection are."""
    return data.parent / "checkpoints" / engine.segment(data, name).name


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """What is done to files meanwhile, in order: `fsync`, `rename` (to) and `remove`."""
    done: list[tuple[str, str]] = []
    fsync, rename, rmtree = os.fsync, os.rename, shutil.rmtree

    def note_fsync(fd: int) -> None:
        done.append(("fsync", os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def note_rename(source: Any, target: Any, **directories: int) -> None:
        done.append(("rename", str(target)))
        rename(source, target, **directories)

    def note_rmtree(path: Any, *words: Any, **more: Any) -> None:
        done.append(("remove", str(path)))
        rmtree(path, *words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", note_fsync)
        patch.setattr(os, "rename", note_rename)
        patch.setattr(shutil, "rmtree", note_rmtree)
        yield done


def test_only_directories_of_segments_are_removed(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    kept, deleted = (str(UUID(int=number)) for number in (1, 2))
    for name in (kept, deleted, "photos", "lost+found"):
        (checkpoints / name).mkdir(parents=True)
    Store(tmp_path / "data", checkpoints, "history").drop_others({kept})
    assert sorted(path.name for path in checkpoints.iterdir()) == [kept, "lost+found", "photos"]


def test_all_of_it_is_on_disk_before_it_has_its_name_and_the_former_one_goes_last(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(two)
    place = home(two, "stays")
    [former] = place.iterdir()
    engine.run(engine.add, two, "stays", [f"more-{number}" for number in range(30)])
    with watched(monkeypatch) as done:
        take(two)
    [now] = place.iterdir()
    assert now.name != former.name
    named = done.index(("rename", str(now)))
    draft = place.with_name(f".unfinished-{place.name}")
    wanted = {draft, *(draft / path.name for path in now.iterdir())}
    assert {("fsync", str(path)) for path in wanted} <= set(done[:named])
    last = [("fsync", str(place)), ("fsync", str(place.parent)), ("remove", str(former))]
    assert [call for call in done[named:] if call in last][:3] == last


def test_former_one_stays_where_the_next_cannot_be_named(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = take(two)
    names = ("stays", "goes")
    former = {name: before.latest(home(two, name).name) for name in names}
    held = {name: engine.contents(next(home(two, name).iterdir())) for name in names}
    for name in names:
        engine.run(engine.add, two, name, [f"more-{number}" for number in range(30)])
    rename = os.rename

    def fail(source: Any, target: Any, **directories: int) -> None:
        if Path(target).parent in (home(two, name) for name in names):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target, **directories)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(OSError, match="Input/output error"):
            take(two)
    for name in names:
        assert store(two).latest(home(two, name).name) == former[name]
        assert engine.contents(next(home(two, name).iterdir())) == held[name]
    assert not list((two.parent / "checkpoints").glob(".unfinished-*"))


def _update_what_is_missing_then_add_it(data: Path) -> None:
    collection = engine.client(data).get_collection("stays", embedding_function=None)
    for method, number in (("update", 1), ("add", 2)):
        getattr(collection, method)(ids=["odd"], embeddings=np.full((1, 4), number, np.float32))
    collection.add(ids=[f"more-{number}" for number in range(28)], embeddings=np.ones((28, 4), np.float32))


def test_none_is_taken_of_files_that_are_ahead_of_the_log_in_a_way_that_matters(two: Path) -> None:
    """As if a kill had come between the pickle and the seq id: replayed into these files, the update would take hold."""
    before = engine.seq_id(two, "stays")
    engine.run(_update_what_is_missing_then_add_it, two)
    segment = engine.segment(two, "stays").name
    with closing(sqlite3.connect(two / sqlite.FILE)) as connection, connection:
        connection.execute("UPDATE max_seq_id SET seq_id = ? WHERE segment_id = ?", (before, segment))
    made = take(two)
    assert made.latest(segment) is None
    assert made.latest(home(two, "goes").name)
    assert made.left == {}, "its next persist mends it"


def test_newer_of_two_is_the_one(two: Path) -> None:
    """A kill before the former one was removed leaves both; whichever the directory lists first."""
    place = home(two, "stays")
    take(two)
    [former] = place.iterdir()
    kept = shutil.copytree(former, two.parent / former.name)
    engine.run(engine.add, two, "stays", [f"more-{number}" for number in range(70)])
    take(two)
    [now] = place.iterdir()
    shutil.copytree(kept, former)
    found = store(two).latest(place.name)
    assert found
    assert str(found.seq_id) == now.name
    assert store(two).stale(sqlite.collections(two)) == []


def test_due_when_files_have_changed_under_the_same_seq_id(two: Path) -> None:
    """As an engine that found the disk full in a persist leaves them."""
    made = take(two)
    assert made.stale(sqlite.collections(two)) == []
    os.utime(engine.segment(two, "stays") / "length.bin")
    assert [each.name for each in made.stale(sqlite.collections(two))] == ["stays"]


def test_one_that_cannot_be_read_stays_until_there_is_another(two: Path) -> None:
    made = take(two)
    place = home(two, "stays")
    [damaged] = place.iterdir()
    (damaged / checkpoint.FILE).write_text("{", encoding="utf-8")
    wanted = sqlite.segments(two)
    made = store(two)
    made.drop_others(wanted)
    assert damaged.exists(), "there is nothing else"
    made.take(sqlite.collections(two), live=False, progress=lambda _: None)
    assert made.latest(place.name)
    damaged.mkdir(exist_ok=True)
    (damaged / checkpoint.FILE).write_text("{", encoding="utf-8")
    made.drop_others(wanted)
    assert not damaged.exists()
    assert len(list(place.iterdir())) == 1


def test_links_are_to_the_newest_whoever_took_it(two: Path, tmp_path: Path) -> None:
    """Backups link while the service takes others; both are there until the former one is removed."""
    place = home(two, "stays")
    ours = take(two)
    assert ours.latest(place.name)
    [former] = place.iterdir()
    kept = shutil.copytree(former, tmp_path / former.name)
    engine.run(engine.add, two, "stays", [f"more-{number}" for number in range(30)])
    take(two)
    [now] = place.iterdir()
    shutil.copytree(kept, former)
    linked = ours.link(place.name, tmp_path / "linked")
    assert linked
    assert str(linked.seq_id) == now.name
    assert all((tmp_path / "linked" / file.name).samefile(now / file.name) for file in linked.files)


def test_live_files_are_the_same_when_all_of_them_are(two: Path) -> None:
    made = take(two)
    segment = engine.segment(two, "stays")
    found = made.latest(segment.name)
    assert found

    def same() -> bool:
        return made.same_content(found, lambda: None)

    assert same()
    (segment / "more").write_bytes(b"")
    assert not same()
    (segment / "more").unlink()
    content = (segment / "data_level0.bin").read_bytes()
    (segment / "data_level0.bin").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not same()
    (segment / "data_level0.bin").unlink()
    assert not same()
