"""What is taken out of the data directory is moved whole: by rename, or by a verified copy where quarantine is on another mount."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest
from chromad.errors import PermissionProblem
from chromad.store import quarantine
from chromad.store.quarantine import NoRoom, NotMoved

from tests.integration import mounts

UUID = "0d4e9a55-4f0f-4c6b-9a6e-0a4a5d9b3a11"
OTHER = "5b1d7f62-6a3c-4a09-8f0d-6a8f6f6a2c22"
MIB = 1 << 20
DAY = 86400.0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def aside(tmp_path: Path) -> Path:
    path = tmp_path / "quarantine"
    path.mkdir()
    return path


@pytest.fixture
def elsewhere(aside: Path) -> Iterator[Path]:
    """A quarantine on a file system of its own, of 64 MiB."""
    with mounts.small(aside, 64 * MIB):
        yield aside


def fill(directory: Path, size: int = 3 * MIB) -> Path:
    directory.mkdir(parents=True)
    (directory / "data_level0.bin").write_bytes(os.urandom(size))
    (directory / "length.bin").write_bytes(b"")
    (directory / "index_metadata.pickle").write_bytes(b"ids.")
    os.utime(directory / "length.bin", ns=(1, 12345))
    return directory


def contents(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def ignore() -> None:
    pass


def at_call(number: int, error: BaseException) -> Callable[[], None]:
    calls = 0

    def tick() -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            raise error

    return tick


def moved_long_ago(aside: Path, why: str, uuid: str = UUID, age: float = 10 * DAY) -> Path:
    then = datetime.now(UTC) - timedelta(seconds=age)
    return fill(aside / f"{uuid}-{why}-{then.strftime('%Y%m%dT%H%M%S.%fZ')}", 1000)


def test_on_one_mount_it_is_renamed(data: Path, aside: Path) -> None:
    inode = fill(data / UUID).stat().st_ino
    target = quarantine.move(data / UUID, aside, "broken", ignore)
    assert target.parent == aside
    assert target.name.startswith(f"{UUID}-broken-")
    assert target.stat().st_ino == inode
    assert names(data) == []


def test_rename_that_cannot_be_made_durable_is_undone(data: Path, aside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(data / UUID)

    def fail(_: Path) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("chromad.host.files.fsync_path", fail)
    with pytest.raises(NotMoved, match="Input/output error"):
        quarantine.move(data / UUID, aside, "broken", ignore)
    assert names(aside) == []
    assert len(contents(data / UUID)) == 3


@pytest.mark.root
def test_across_mounts_a_checkpoint_goes_with_all_below_it(data: Path, elsewhere: Path) -> None:
    """The files of a checkpoint lie one directory further down."""
    fill(data / UUID / "120")
    fill(data / UUID / "90-2" / "deeper")
    before = contents(data / UUID)
    mtime = (data / UUID / "120/length.bin").stat().st_mtime_ns
    target = quarantine.move(data / UUID, elsewhere, "checkpoint", ignore)
    assert contents(target) == before
    assert len(before) == 6
    assert (target / "120/length.bin").stat().st_mtime_ns == mtime
    assert names(data) == []
    assert names(elsewhere) == [target.name]


@pytest.mark.root
def test_across_mounts_links_are_not_followed(data: Path, elsewhere: Path, tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside")
    fill(data / UUID)
    (data / UUID / "link").symlink_to(outside / "data_level0.bin")
    (data / UUID / "directory").symlink_to(outside)
    os.mkfifo(data / UUID / "pipe")
    target = quarantine.move(data / UUID, elsewhere, "broken", ignore)
    assert names(target) == ["data_level0.bin", "index_metadata.pickle", "length.bin"]
    assert len(contents(outside)) == 3
    assert names(data) == []


@pytest.mark.root
def test_file_that_claims_a_lot(data: Path, elsewhere: Path) -> None:
    """A torn file can be larger than any disk; what it holds is copied, holes stay holes."""
    fill(data / UUID)
    with open(data / UUID / "link_lists.bin", "wb") as file:
        file.seek(1 << 40)
        file.write(b"end")
    target = quarantine.move(data / UUID, elsewhere, "broken", ignore)
    status = (target / "link_lists.bin").stat()
    assert (status.st_size, status.st_blocks * 512 < MIB) == ((1 << 40) + 3, True)
    with open(target / "link_lists.bin", "rb") as file:
        file.seek(1 << 40)
        assert file.read() == b"end"


@pytest.mark.root
def test_no_room(data: Path, elsewhere: Path) -> None:
    """It is said how much is needed before anything is written, however often it is tried."""
    fill(data / UUID, 70 * MIB)
    before = contents(data)
    for _ in range(3):
        with pytest.raises(NoRoom) as caught:
            quarantine.move(data / UUID, elsewhere, "broken", ignore)
        assert caught.value.needed > 70 * MIB
        assert 0 < caught.value.free <= 64 * MIB
        assert "a copy needs 86.0 MiB" in caught.value.message, "with 16 MiB for SQLite to go on with"
        assert caught.value.hint
    assert names(elsewhere) == []
    assert contents(data) == before


@pytest.mark.root
def test_room_that_is_taken_meanwhile(data: Path, elsewhere: Path) -> None:
    fill(data / UUID, 20 * MIB)

    def fill_up() -> None:
        with open(elsewhere / "fill", "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(MIB))
            except OSError:
                pass

    before = contents(data)
    with pytest.raises(NoRoom):
        quarantine.move(data / UUID, elsewhere, "broken", fill_up)
    assert names(elsewhere) == ["fill"]
    assert contents(data) == before


@pytest.mark.root
@pytest.mark.parametrize("call", [1, 3, 6])
def test_move_that_is_stopped_leaves_nothing(data: Path, elsewhere: Path, call: int) -> None:
    fill(data / UUID)
    before = contents(data)
    with pytest.raises(KeyboardInterrupt):
        quarantine.move(data / UUID, elsewhere, "broken", at_call(call, KeyboardInterrupt()))
    assert names(elsewhere) == []
    assert contents(data) == before


@pytest.mark.root
def test_disk_that_fails(data: Path, elsewhere: Path) -> None:
    fill(data / UUID)
    with pytest.raises(NotMoved, match="Input/output error") as caught:
        quarantine.move(data / UUID, elsewhere, "broken", at_call(2, OSError(errno.EIO, os.strerror(errno.EIO))))
    assert caught.value.hint
    assert names(elsewhere) == []
    assert len(contents(data)) == 3


@pytest.mark.root
def test_move_that_was_killed_is_swept_by_the_next_one(data: Path, elsewhere: Path) -> None:
    for directory in (data, elsewhere):
        fill(directory / f".{OTHER}-orphan-20260101T000000.000000Z")
        (directory / ".hidden").mkdir()
        fill(directory / f".{OTHER}-orphan-yesterday")
    fill(data / UUID)
    target = quarantine.move(data / UUID, elsewhere, "broken", ignore)
    kept = [f".{OTHER}-orphan-yesterday", ".hidden"]
    assert names(elsewhere) == [*kept, target.name]
    assert names(data) == kept


@pytest.mark.root
def test_kill_while_the_source_is_removed(data: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the copy is whole, and nothing of the source stands in its place any more."""
    fill(data / UUID)
    before = contents(data / UUID)

    def killed(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            quarantine.move(data / UUID, elsewhere, "broken", ignore)
    [target] = elsewhere.iterdir()
    assert contents(target) == before
    assert not (data / UUID).exists()
    quarantine.sweep(data)
    assert names(data) == []


@pytest.mark.root
def test_source_that_changes_meanwhile_stays(data: Path, elsewhere: Path) -> None:
    fill(data / UUID)

    def write() -> None:
        with open(data / UUID / "index_metadata.pickle", "ab") as file:
            file.write(b"more")

    with pytest.raises(NotMoved, match="changed"):
        quarantine.move(data / UUID, elsewhere, "orphan", write)
    assert names(elsewhere) == []
    assert (data / UUID).exists()


@pytest.mark.root
def test_copy_in_progress_is_not_swept(data: Path, elsewhere: Path) -> None:
    fill(data / UUID)
    target = quarantine.move(data / UUID, elsewhere, "orphan", lambda: quarantine.sweep(elsewhere))
    assert len(contents(target)) == 3


@pytest.mark.root
def test_copy_that_is_not_what_was_read(data: Path, elsewhere: Path) -> None:
    """As on a disk that loses what it was given."""
    fill(data / UUID)

    def spoil() -> None:
        for path in elsewhere.glob(".*/data_level0.bin"):
            with open(path, "r+b") as file:
                file.write(b"spoilt")

    with pytest.raises(NotMoved, match="does not hold what was written"):
        quarantine.move(data / UUID, elsewhere, "broken", spoil)
    assert names(elsewhere) == []
    assert len(contents(data)) == 3


def test_quarantine_is_made(data: Path, tmp_path: Path) -> None:
    fill(data / UUID)
    target = quarantine.move(data / UUID, tmp_path / "made", "broken", ignore)
    assert len(contents(target)) == 3


def test_quarantine_that_cannot_be_written(data: Path, aside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(data / UUID)

    def refuse(*_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionProblem, match="Permission denied"):
        quarantine.move(data / UUID, aside, "broken", ignore)


def test_orphans_are_removed_when_their_time_is_over(aside: Path) -> None:
    old, young = moved_long_ago(aside, "orphan"), moved_long_ago(aside, "orphan", OTHER, DAY)
    assert quarantine.remove_orphans(aside, 7 * DAY) == [old]
    assert names(aside) == [young.name]


def test_grace_begins_with_the_move(data: Path, aside: Path) -> None:
    """However long ago the collection was written last, and whatever becomes of the process right after the rename."""
    fill(data / UUID)
    target = quarantine.move_orphan(data / UUID, aside, ignore)
    os.utime(target, (time.time() - 30 * DAY,) * 2)
    assert quarantine.remove_orphans(aside, 7 * DAY) == []
    assert target.exists()


def test_what_is_no_orphan_of_ours_stays(aside: Path, tmp_path: Path) -> None:
    moved_long_ago(aside, "broken")
    moved_long_ago(aside, "checkpoint")
    fill(aside / "my-orphan-notes")
    fill(aside / "mine-orphan-20200101T000000.000000Z")
    fill(aside / f"{UUID}-orphan-20200101")
    (moved_long_ago(aside, "orphan") / "notes.txt").write_text("of an operator")
    (moved_long_ago(aside, "orphan", OTHER) / "directory").mkdir()
    (aside / f"{UUID}-orphan-20200102T000000.000000Z").write_text("a file")
    (aside / f"{UUID}-orphan-20200103T000000.000000Z").symlink_to(fill(tmp_path / "outside"))
    before = names(aside)
    assert quarantine.remove_orphans(aside, 7 * DAY) == []
    assert names(aside) == before
    assert len(contents(tmp_path / "outside")) == 3


def test_remains_of_a_killed_move_go_with_the_orphans(aside: Path) -> None:
    fill(aside / f".{OTHER}-orphan-20260101T000000.000000Z")
    assert quarantine.remove_orphans(aside, 7 * DAY) == []
    assert names(aside) == []


def test_no_quarantine(tmp_path: Path) -> None:
    assert quarantine.remove_orphans(tmp_path / "nowhere", 1) == []


def test_former_rebuilt_one_stays_where_the_next_cannot_be_moved(data: Path, elsewhere: Path) -> None:
    former = quarantine.move_rebuilt(fill(data / UUID), elsewhere, ignore)
    held = contents(former)
    fill(data / UUID, 80 * MIB)
    with pytest.raises(NoRoom):
        quarantine.move_rebuilt(data / UUID, elsewhere, ignore)
    assert names(elsewhere) == [former.name]
    assert contents(former) == held
    shutil.rmtree(data / UUID)
    fill(data / UUID)
    last = quarantine.move_rebuilt(data / UUID, elsewhere, ignore)
    assert names(elsewhere) == [last.name]


def test_copy_has_its_name_on_disk_before_the_source_goes(
    data: Path, aside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut in between leaves one of them."""
    fill(data / UUID)
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(fd: int) -> None:
        done.append(f"fsync {os.readlink(f'/proc/self/fd/{fd}')}")
        fsync(fd)

    def note_rename(source: Path, target: Path) -> None:
        done.append(f"rename {target}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    quarantine._copy_over(data / UUID, aside / "moved", ignore)
    named = done.index(f"rename {aside / 'moved'}")
    assert f"fsync {aside / '.moved'}" in done[:named]
    assert done[named + 1 :] == [f"fsync {aside}", f"rename {data / '.moved'}", f"fsync {data}"]


@pytest.mark.parametrize("keep", [False, True])
def test_list_of_the_lost_is_on_disk(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    """With the quarantine, where that is made for it: what it tells of is gone once the repair is committed."""
    new = tmp_path / "none yet"
    list_of = tmp_path / "list"
    list_of.write_text("a\nb\n")
    synced: list[str] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    path = quarantine.keep_list(list_of, new, "a.lost") if keep else quarantine.list_lost(UUID, new, ["a", "b"])
    assert path.read_text() == "a\nb\n"
    assert synced[0] == str(new.parent)
    assert synced[-1] == str(new)
    assert len(synced) == 3
