"""What the files of a segment tell by a look: whether a persist was complete, and whether a copy is what a stop left."""

import os
import shutil
from pathlib import Path
from uuid import UUID

import pytest
from chromad.chroma import segment as segments
from chromad.store import state

from tests.segments import engine


def torn(directory: Path) -> bool:
    return segments.is_torn(directory, segments.stats(directory))


def set_time(path: Path, time: int) -> None:
    os.utime(path, ns=(time, time))


@pytest.fixture
def whole(segment: Path) -> Path:
    """A segment whose pickle was written last."""
    for path in segment.iterdir():
        set_time(path, 2_000_000_000)
    set_time(segment / segments.PICKLE, 3_000_000_000)
    return segment


def test_pickle_that_was_written_last_and_ends_as_it_should(whole: Path) -> None:
    assert not torn(whole)


@pytest.mark.parametrize("name", ["header.bin", "data_level0.bin", "length.bin", "link_lists.bin"])
def test_file_that_is_newer_than_the_pickle(whole: Path, name: str) -> None:
    set_time(whole / name, 3_000_000_001)
    assert torn(whole)


@pytest.mark.parametrize("size", [0, 1, -1])
def test_pickle_that_is_cut_off(whole: Path, size: int) -> None:
    """It is the newest all the same."""
    pickle = whole / segments.PICKLE
    os.truncate(pickle, size if size >= 0 else pickle.stat().st_size - 1)
    set_time(pickle, 3_000_000_000)
    assert torn(whole)


@pytest.mark.parametrize("change", ["content", "time", "gone", "more"])
def test_mark_of_a_copy_leaves_out_what_is_not_as_the_stop_left_it(two: Path, tmp_path: Path, change: str) -> None:
    """Copies keep sizes and times; other inodes are no matter."""
    stays, goes = (engine.segment(two, name).name for name in ("stays", "goes"))
    left = state.mark(two)
    copy = shutil.copytree(two, tmp_path / "copy")
    assert state.mark_of_copy(copy, left).segments == state.mark(copy).segments
    level0 = copy / goes / "data_level0.bin"
    if change == "content":
        status = level0.stat()
        level0.write_bytes(level0.read_bytes() + b"x")
        os.utime(level0, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        set_time(level0, 1_000_000_000)
    elif change == "gone":
        level0.unlink()
    else:
        shutil.copytree(copy / goes, copy / str(UUID(int=7)))
    known = state.mark_of_copy(copy, left).segments
    assert known.get(stays)
    assert (goes in known) == (change == "more")
    assert str(UUID(int=7)) not in known


def test_mark_of_a_copy_of_what_an_earlier_chromad_stopped(two: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(two, tmp_path / "copy")
    assert state.mark_of_copy(copy, None) == state.mark(copy)
