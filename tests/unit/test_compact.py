"""Compacting, where there is room for its copy twice, and where there is not."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from chromad.chroma import sqlite
from chromad.errors import TryAgain
from chromad.store import compact


@pytest.mark.parametrize(("times", "fits"), [(0.5, False), (1.5, False), (2.5, True)])
def test_room(two: Path, times: float, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy goes to temporary files, then through the WAL."""
    before = (two / sqlite.FILE).read_bytes()
    free = int(times * len(before))
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free, f_frsize=1))
    if fits:
        assert compact.run(two, lambda *_: None)[0] == len(before)
        return
    with pytest.raises(TryAgain, match="compacting needs"):
        compact.run(two, lambda *_: None)
    assert (two / sqlite.FILE).read_bytes() == before
