"""Trees are removed a little at a time, and files with another name keep what they hold."""

import os
from pathlib import Path

import pytest
from chromad.host.removal import remove_tree

_LARGE = bytes(range(256)) * (40 << 12)  # 40 MiB
_LITTLE = 9 << 20


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    (path / "within").mkdir(parents=True)
    return path


def test_little_is_left_when_a_file_goes(tree: Path) -> None:
    (tree / "within" / "large").write_bytes(_LARGE)
    with open(tree / "within" / "large", "rb") as file:
        remove_tree(tree)
        assert os.fstat(file.fileno()).st_size < _LITTLE
    assert not tree.exists()


def test_file_with_another_name(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(_LARGE)
    os.link(other, tree / "within" / "large")
    remove_tree(tree)
    assert not tree.exists()
    assert other.read_bytes() == _LARGE


def test_what_a_link_leads_to(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "large").write_bytes(_LARGE)
    (tree / "directory").symlink_to(outside)
    (tree / "file").symlink_to(outside / "large")
    os.mkfifo(tree / "pipe")
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "large").read_bytes() == _LARGE


def test_file_that_claims_a_lot(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step of what it takes on disk; of what it claims there would be 500,000."""
    with open(tree / "sparse", "wb") as file:
        file.write(_LARGE)
        file.truncate(1 << 42)
    steps = 0

    def fsync(fd: int) -> None:
        nonlocal steps
        steps += 1
        assert steps < 100
        os_fsync(fd)

    os_fsync = os.fsync
    monkeypatch.setattr(os, "fsync", fsync)
    remove_tree(tree)
    assert steps > 0
    assert not tree.exists()


def test_no_directory(tmp_path: Path) -> None:
    remove_tree(tmp_path / "none", ignore_errors=True)
    with pytest.raises(FileNotFoundError):
        remove_tree(tmp_path / "none")
