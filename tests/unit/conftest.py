"""Real segments, made once for all tests that look at them."""

import os
import shutil
from pathlib import Path

import pytest
from chromad.host import files, service

from tests.segments import engine, workload
from tests.segments.workload import Workload


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Workload]:
    """The data directory of a collection with adds, updates, deletes, a restart and resizes, persisted to its end."""
    data = tmp_path_factory.mktemp("recorded") / "data"
    found = workload.make(7)
    found.threshold, found.dimension, found.space, found.neighbors, found.largest = 2, 5, "cosine", 4, 40
    for _ in range(2):
        found, _ = engine.run(workload.phase, data, found, 12)
    return data, found


@pytest.fixture(scope="session")
def _two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("two") / "data"
    # What was written last comes first in a cycle.
    engine.run(engine.fill, data, ["stays", "goes"], 30)
    return data


@pytest.fixture
def two(_two: Path, tmp_path: Path) -> Path:
    """A data directory with two collections of 30 records each, `stays` and `goes`, all persisted, and their whole log."""
    return Path(shutil.copytree(_two, tmp_path / "data"))


@pytest.fixture
def segment(recorded: tuple[Path, Workload], tmp_path: Path) -> Path:
    """A copy of its segment, to be damaged."""
    data, found = recorded
    return Path(shutil.copytree(engine.segment(data, found.name), tmp_path / "segment"))


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is fsynced, exchanged, and done with the service, in its order."""
    done: list[str] = []
    fsync, exchange = os.fsync, files.exchange

    def note_fsync(fd: int) -> None:
        done.append(f"fsync {os.readlink(f'/proc/self/fd/{fd}')}")
        fsync(fd)

    def note_exchange(one: Path, other: Path) -> None:
        done.append("exchange")
        exchange(one, other)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(files, "exchange", note_exchange)
    monkeypatch.setattr(service, "control", done.append)
    return done
