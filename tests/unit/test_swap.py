"""Copies beside the data: those of the killed go, those that somebody works on stay."""

import os
from pathlib import Path

import pytest
from chromad.host import files
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


def test_note_of_one_who_was_killed_is_named(tmp_path: Path) -> None:
    """Before it had made a copy, or after that was removed."""
    data, parent = tmp_path / "data", tmp_path / "restore"
    parent.mkdir()
    staging = Staging(parent).__enter__()
    assert swap.leftovers(data) == [], "somebody works on it"
    os.close(staging._fd)
    [left] = swap.leftovers(data)
    assert left.path == staging.beside("note")
    assert left.kind == swap.STAGING
    assert left.certain
    [line] = swap.sweep(parent)
    assert line
    assert list(parent.iterdir()) == []


def test_former_data_that_have_no_name_yet_are_not_removed_with_the_copy(tmp_path: Path) -> None:
    """Whatever ends the work after the exchange; the next one gives them their name."""
    data, parent = tmp_path / "data", tmp_path / "restore"
    for path in (data, parent):
        path.mkdir()
    (data / "former").touch()
    staging = Staging(parent)
    with pytest.raises(RuntimeError), staging:
        staging.directory.mkdir()
        (staging.directory / "copy").touch()
        staging.will_exchange(data, stopped=False)
        files.exchange(staging.directory, data)
        raise RuntimeError
    assert (staging.directory / "former").exists()
    [line] = swap.sweep(parent)
    assert line.startswith(f"the former data are in {staging.named(swap.REPLACED)}")
    assert (staging.named(swap.REPLACED) / "former").exists()
    assert (data / "copy").exists()
