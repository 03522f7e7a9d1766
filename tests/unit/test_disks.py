"""How full a file system is, for whom it is."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from chromad.host import disks


def test_what_is_kept_for_root_is_neither_free_nor_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As df(1) counts it: the service cannot write there."""
    status = SimpleNamespace(f_blocks=100, f_bfree=20, f_bavail=15, f_frsize=4096, f_files=10, f_favail=9)
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    found = disks.usage(Path("/srv"))
    assert (found.free, found.of) == (15 * 4096, "space")
    assert found.percent == pytest.approx(100 * 80 / 95)
