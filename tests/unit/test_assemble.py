"""The files of a backup before any of them is believed: these, no others, and none by way of a link."""

import os
from pathlib import Path

import pytest
from chromad.backup import assemble
from chromad.errors import BackupError

EXPECTED = {"chroma.sqlite3", "segment/header.bin"}


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    path = tmp_path / "backup"
    for name in (*EXPECTED, "manifest.json"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("text")
    return path


def test_all_that_is_named(backup: Path) -> None:
    assemble._check_names(backup, EXPECTED)


@pytest.mark.parametrize("name", ["chroma.sqlite3", "segment/header.bin", "manifest.json"])
def test_link_to_the_same_content(backup: Path, tmp_path: Path, name: str) -> None:
    (backup / name).rename(tmp_path / "elsewhere")
    (backup / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackupError, match="is not what the manifest says"):
        assemble._check_names(backup, EXPECTED)


@pytest.mark.parametrize("name", ["other", "segment/other", "chroma.sqlite3-wal"])
def test_what_is_not_named(backup: Path, name: str) -> None:
    (backup / name).touch()
    with pytest.raises(BackupError, match="is not what the manifest says"):
        assemble._check_names(backup, EXPECTED)


def test_pipe_in_place_of_a_file(backup: Path) -> None:
    (backup / "chroma.sqlite3").unlink()
    os.mkfifo(backup / "chroma.sqlite3")
    with pytest.raises(BackupError, match="is not what the manifest says"):
        assemble._check_names(backup, EXPECTED)
