"""A file that is far larger than what it holds is told from one that a file system compresses."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from chromad.chroma import segment as segments
from chromad.errors import BackupError

from tests.integration import mounts
from tests.segments import writer

_SIZE = 80 << 20


def test_torn_links(segment: Path, tmp_path: Path) -> None:
    for name, size in (("link_lists.bin", 1 << 40), ("data_level0.bin", 1 << 36), ("index_metadata.pickle", 1 << 40)):
        copy = Path(shutil.copytree(segment, segment.parent / name))
        os.truncate(copy / name, size)
        assert segments.monster(copy) == str(copy / name)
        with pytest.raises(BackupError, match=f"claims {size} bytes"):
            segments.copy_file(copy / name, tmp_path / "copy")


def test_torn_links_with_a_torn_header(segment: Path) -> None:
    for header in (b"", b"\xff" * 100, bytes(100)):
        (segment / "header.bin").write_bytes(header)
        os.truncate(segment / "link_lists.bin", 1 << 40)
        assert segments.monster(segment) == str(segment / "link_lists.bin")


def test_torn_links_with_data_at_their_end(segment: Path) -> None:
    with open(segment / "link_lists.bin", "r+b") as file:
        file.seek(1 << 40)
        file.write(bytes(range(256)))
    assert segments.monster(segment) == str(segment / "link_lists.bin")


@pytest.mark.root
def test_compressing_file_system(tmp_path: Path) -> None:
    """ZFS gives few blocks to what compresses well, and none before it is on the disk."""
    healthy = tmp_path / "source" / "healthy"
    writer.write(healthy, 20_000, 1200)
    # All vectors alike: nearly nothing is left of them.
    size = int(segments.HEADER.unpack((healthy / "header.bin").read_bytes())[4])
    block = np.fromfile(healthy / "data_level0.bin", np.uint8).reshape(-1, size)
    block[:, 200:-8] = 1
    block.tofile(healthy / "data_level0.bin")
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounts.compressed(tmp_path / "source", tmp_path / "image", disk):
        level0 = disk / "healthy" / "data_level0.bin"
        status = level0.stat()
        assert status.st_size > (64 << 20) + 8 * 512 * status.st_blocks, "the case is there"
        assert segments.monster(level0.parent) == ""
        segments.copy_file(level0, tmp_path / "copy")
        # Nor by the bytes alone, where there is no header to believe
        assert not segments._is_hollow(status.st_size, _written(level0))


def _written(path: Path) -> int:
    with open(path, "rb") as file:
        return segments._written(file.fileno(), path.stat().st_size)


def test_holes_where_nothing_but_zeros_is(tmp_path: Path) -> None:
    """ZFS makes holes of zeros; what the header accounts for is no monster."""
    directory = tmp_path / "zeros"
    writer.write(directory, 100, 500_000)
    size = os.path.getsize(directory / "data_level0.bin")
    assert size > _SIZE
    os.truncate(directory / "data_level0.bin", 0)
    os.truncate(directory / "data_level0.bin", size)
    assert segments.monster(directory) == ""
    os.truncate(directory / "data_level0.bin", 2 * size)
    assert segments.monster(directory) == str(directory / "data_level0.bin")
