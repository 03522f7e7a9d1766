"""What backups, drills and restores put on disk: nothing of copies that are thrown away, as commits would wait for that."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromad.backup import assemble, manifest
from chromad.chroma import sqlite

from tests.integration import mounts
from tests.integration.site import Site

pytestmark = pytest.mark.root

_MIB = 1 << 20
# What an engine replays of these takes more than the 1000 pages after which SQLite moves them into the file.
_CHANGED = 250


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    # Not below pytest's own directory, which the service's user cannot enter.
    with tempfile.TemporaryDirectory(prefix="chromad-disk-") as name:
        place = Path(name)
        place.chmod(0o755)
        with mounts.disk(tmp_path / "image", place, 512 * _MIB):
            yield place


@pytest.fixture
def large(disk: Path) -> Iterator[Site]:
    """A site on a disk of its own, with a backup; what the next one adds is little beside the database."""
    made = Site(disk)
    made.serve()
    _write(made, 1000, "first")
    made.backup()
    _write(made, _CHANGED, "second")
    assert (made.data / sqlite.FILE).stat().st_size > 40 * _MIB
    mounts.sync(disk)
    yield made
    made.remove()


def _write(site: Site, count: int, text: str) -> None:
    collection = site.daemon.client().get_or_create_collection("large", embedding_function=None)
    for start in range(0, count, 50):
        keys = [f"{number}" for number in range(start, start + 50)]
        metadata: list[Any] = [{"text": f"{text} {key} " + "x" * 20_000} for key in keys]
        collection.upsert(ids=keys, embeddings=np.ones((50, 2), np.float32), metadatas=metadata)


def test_backup(large: Site, disk: Path) -> None:
    before = mounts.written(disk)
    assert large.backup()["base"] == ""
    assert mounts.written(disk) - before < 30 * _MIB


@pytest.mark.parametrize("part", [0.0, 1.0])
def test_copy_that_is_large_beside_the_memory(
    large: Site, disk: Path, monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    """It goes to the disk, past the cache, as the kernel would put it there anyway; what is read page by page is in the
    cache then."""
    monkeypatch.setattr(assemble, "_UNWRITTEN", part)
    assemble.copy(large.current, manifest.read(large.current), disk / "copy", lambda *_: None)
    assert _cached(disk / "copy" / sqlite.FILE)
    assert (mounts.sync(disk) < _MIB) == (part == 0.0)


def _cached(path: Path) -> bool:
    """Whether nothing of a file has to be read from the disk."""
    with path.open("rb", buffering=0) as file:
        block = bytearray(64 << 10)
        try:
            return all(
                os.preadv(file.fileno(), [block], offset, os.RWF_NOWAIT) > 0
                for offset in range(0, path.stat().st_size, len(block))
            )
        except BlockingIOError:
            return False


def test_drill(large: Site, disk: Path) -> None:
    large.backup()
    mounts.sync(disk)
    before = mounts.written(disk)
    assert large.chromactl("verify").code == 0
    assert mounts.written(disk) - before < 30 * _MIB


def test_restored_directory(large: Site, disk: Path) -> None:
    """It stays, so all of it is on disk when the command ends."""
    large.backup()
    target = disk / "restored"
    assert large.chromactl("restore", "latest", "--target", str(target)).code == 0
    assert (target / sqlite.FILE).stat().st_size > 40 * _MIB
    assert mounts.sync(disk) < _MIB
