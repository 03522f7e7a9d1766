"""Recovery beside its own killed predecessors, and without room."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from chromad.chroma import segment, sqlite
from chromad.errors import ChromadError
from chromad.logs import events
from chromad.store import fence, quarantine, state
from chromad.store.checkpoint import Store
from chromad.store.recovery import Doubts, Recovery

from tests.segments import engine


@pytest.fixture
def made(two: Path) -> Recovery:
    """Of a directory with a checkpoint of each segment."""
    checkpoints = Store(two, two.parent / "checkpoints", "history")
    checkpoints.prepare()
    checkpoints.take(sqlite.collections(two), live=False, progress=lambda _: None)
    checkpoints.shares_blocks = False
    return Recovery(two, two.parent / "quarantine", checkpoints, lambda: None)


def doubts(data: Path) -> Doubts:
    return [(each, "it looks odd") for each in sqlite.collections(data)]


def test_what_a_killed_start_had_renamed_aside_is_put_back_where_nothing_has_taken_its_place(
    two: Path, made: Recovery
) -> None:
    stays, goes = engine.segment(two, "stays"), engine.segment(two, "goes")
    held = engine.contents(stays), engine.contents(goes)
    stays.rename(two / f".replaced-{stays.name}")
    shutil.copytree(goes, two / f".replaced-{goes.name}")
    shutil.copytree(goes, two / f".restoring-{goes.name}")
    assert made.look("boot", None) == []
    assert (engine.contents(stays), engine.contents(goes)) == held
    assert not list(two.glob(".re*"))


@pytest.mark.parametrize(("free", "fits"), [(0, False), (1 << 40, True)])
def test_checkpoints_are_put_back_where_there_is_room_for_all_of_them(
    two: Path, made: Recovery, free: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each start would fill the disk, and fail."""
    stays = engine.segment(two, "stays")
    held = engine.contents(stays)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=1))
    if fits:
        assert {outcome.action for outcome in made.mend_all(doubts(two))} == {"restored"}
    else:
        with pytest.raises(ChromadError, match="to put the checkpoints of segments that are not sound back"):
            made.mend_all(doubts(two))
        assert not (two.parent / "quarantine").exists()
    assert engine.contents(stays) == held


class _Killed(BaseException):
    pass


def _die(*_: object) -> None:
    raise _Killed


def test_kill_before_the_seq_id_is_set_leaves_no_older_files_under_a_newer_one(
    two: Path, made: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies between would never be replayed."""
    engine.run(engine.add, two, "goes", [f"more-{number}" for number in range(30)])
    [goes] = (each for each in doubts(two) if each[0].name == "goes")
    with monkeypatch.context() as patch:
        patch.setattr(made, "_set_seq_id", _die)
        with pytest.raises(_Killed):
            made.mend(*goes)
    assert not engine.segment(two, "goes").exists()
    outcomes = made.mend_all(made.look("boot", None))
    assert [(each.collection.name, each.action) for each in outcomes] == [("goes", "restored")]
    assert len(engine.run(engine.read, two, "goes")) == 60


def test_kill_before_the_fence_stands_leaves_the_segment_where_it_is(
    two: Path, made: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients never write to a collection whose segment is gone."""
    held = engine.contents(engine.segment(two, "goes"))
    [goes] = (each for each in doubts(two) if each[0].name == "goes")
    with monkeypatch.context() as patch:
        patch.setattr(fence, "put_around", _die)
        with pytest.raises(_Killed):
            made.quarantine(*goes)
    assert engine.contents(engine.segment(two, "goes")) == held
    assert made.quarantine(*goes).action == "quarantined"
    assert fence.read(two).keys() == {goes[0].id}
    assert not engine.segment(two, "goes").exists()


def test_segment_that_the_mark_leaves_out_and_that_is_gone_is_no_sound_one(two: Path, made: Recovery) -> None:
    """What the stop did not look at, and somebody has removed since, is alike before and after."""
    goes = engine.segment(two, "goes")
    left = state.mark(two, {goes.name})
    shutil.rmtree(goes)
    assert [(each.name, reason) for each, reason in made.look("boot", left)] == [("goes", "its files are gone")]


def test_kill_before_unsound_files_are_away_leaves_them_their_seq_id(
    two: Path, made: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the beginning, the log would be replayed into what they hold, and its adds would be passed over."""
    before = engine.seq_id(two, "goes")
    assert before
    [goes] = (each for each in doubts(two) if each[0].name == "goes")
    with monkeypatch.context() as patch:
        patch.setattr(quarantine, "move_rebuilt", _die)
        with pytest.raises(_Killed):
            made.mend(*goes, from_log=True)
    assert engine.seq_id(two, "goes") == before
    assert made.mend(*goes, from_log=True).action == "rebuilt"
    assert not engine.segment(two, "goes").exists()


def test_checkpoint_is_on_disk_before_it_is_the_segment(two: Path, made: Recovery, done: list[str]) -> None:
    """A power cut after the start leaves it whole: nobody would look at it again."""
    [goes] = (each for each in doubts(two) if each[0].name == "goes")
    made.mend_all([goes])
    staging = two / f".restoring-{goes[0].segment}"
    flushed = {f"fsync {staging}", *(f"fsync {staging / name}" for name in segment.FILES)}
    renamed = len(done) - done[::-1].index(f"fsync {two}") - 1
    assert flushed <= set(done[:renamed])


@pytest.mark.parametrize(("lost", "told"), [(True, events.QUARANTINED), (False, events.RECOVERED)])
def test_journal_has_an_event_of_its_own_for_a_collection_that_refuses_writes(
    two: Path, made: Recovery, lost: bool, told: events.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Operators are called for the one, and not for the other."""
    goes = engine.segment(two, "goes")
    shutil.rmtree(goes)
    if lost:
        shutil.rmtree(two.parent / "checkpoints" / goes.name)
        with sqlite.connect(two) as connection:
            connection.execute("DELETE FROM embeddings_queue")
    with caplog.at_level("WARNING", "chromad"):
        made.mend_all(made.look("boot", None))
    assert [record.event for record in caplog.records if hasattr(record, "event")] == [told]
