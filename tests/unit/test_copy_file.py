"""Copies of files, on file systems with and without direct I/O, and on one that gets full."""

import errno
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromad.chroma import segment

pytestmark = pytest.mark.root

_MIB = 1 << 20
_SIZES = (0, 1, 4095, 4096, 4097, 2 * _MIB - 1, 2 * _MIB, 2 * _MIB + 1, 5 * _MIB + 4097)


@pytest.fixture(params=["ext4", "tmpfs"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB: ext4, which has direct I/O, or tmpfs, which may have none."""
    place = tmp_path / "mounted"
    place.mkdir()
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", place], check=True)
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(16 * _MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("flush", [True, False])
def test_a_new_copy_is_equal(mounted: Path, tmp_path: Path, flush: bool) -> None:
    """Whatever its size: the times of the original come with it."""
    source = tmp_path / "source"
    for size in _SIZES:
        source.write_bytes(random.Random(size).randbytes(size))
        os.utime(source, ns=(1_000_000_007, 2_000_000_011))
        target = mounted / str(size)
        segment.copy_file(source, target, flush=flush)
        assert target.read_bytes() == source.read_bytes(), size
        assert target.stat().st_mtime_ns == 2_000_000_011
        target.unlink()


def test_an_old_copy_becomes_equal(mounted: Path, tmp_path: Path) -> None:
    """Longer before or shorter, or with another block in the middle."""
    source = tmp_path / "source"
    content = bytearray(random.Random(1).randbytes(5 * _MIB + 4097))
    target = mounted / "target"
    for size, changed in ((3 * _MIB, 0), (5 * _MIB + 4097, 2 * _MIB + 5), (_MIB + 1, 7)):
        content[changed] ^= 0xFF
        source.write_bytes(content[:size])
        segment.copy_file(source, target)
        assert target.read_bytes() == content[:size]


@pytest.mark.parametrize("flush", [True, False])
def test_a_full_disk_is_an_error(mounted: Path, tmp_path: Path, flush: bool) -> None:
    """Also when the disk takes a part of the last block: the copy must not end in zeros."""
    source = tmp_path / "source"
    statistics = os.statvfs(mounted)
    free = statistics.f_bavail * statistics.f_frsize
    with source.open("wb") as file:
        file.write(random.Random(2).randbytes(free // (2 * _MIB) * 2 * _MIB - _MIB))
    filler = mounted / "filler"
    filler.write_bytes(bytes(free - source.stat().st_size + _MIB // 2))
    with pytest.raises(OSError) as raised:
        segment.copy_file(source, mounted / "target", flush=flush)
    assert raised.value.errno == errno.ENOSPC
