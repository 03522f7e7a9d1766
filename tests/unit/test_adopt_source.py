"""A directory that is taken over: what writes it meanwhile is noticed."""

from pathlib import Path

import pytest
from chromad.chroma import sqlite
from chromad.maintenance.adopt_source import Source

from tests.segments import engine


@pytest.mark.parametrize("change", ["nothing", "in place", "longer", "gone", "more"])
def test_changed_since_it_was_copied(two: Path, tmp_path: Path, change: str) -> None:
    """SQLite and the engine write in place: the size of a file says little."""
    source = Source(two)
    source.copy_to(tmp_path / "copy", lambda: None)
    level0 = engine.segment(two, "stays") / "data_level0.bin"
    if change == "in place":
        content = level0.read_bytes()
        level0.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif change == "longer":
        with open(two / sqlite.FILE, "ab") as file:
            file.write(bytes(4096))
    elif change == "gone":
        level0.unlink()
    elif change == "more":
        (two / f"{sqlite.FILE}-wal").write_bytes(b"more")
    assert source.unchanged() == (change == "nothing")
