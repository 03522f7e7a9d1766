"""Copies beside the data: those of the killed go, those that somebody works on stay."""

import os
from pathlib import Path

from chromad.store import swap
from chromad.store.swap import Staging


def test_copy_that_somebody_makes_is_not_swept(tmp_path: Path) -> None:
    with Staging(tmp_path) as staging:
        staging.directory.mkdir()
        (staging.directory / "file").touch()
        staging.beside("contents").mkdir()
        before = sorted(tmp_path.rglob("*"))
        assert swap.sweep(tmp_path) == []
        assert sorted(tmp_path.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_copy_of_one_who_was_killed_is_swept(tmp_path: Path) -> None:
    staging = Staging(tmp_path).__enter__()
    staging.directory.mkdir()
    (staging.directory / "file").touch()
    staging.beside("contents").mkdir()
    os.close(staging._fd)
    [line] = swap.sweep(tmp_path)
    assert line.startswith(f"the copy {staging.directory} is removed")
    assert list(tmp_path.iterdir()) == []
