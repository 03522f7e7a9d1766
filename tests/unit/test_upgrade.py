"""The copy of the data that an upgrade makes: first while the service runs, then when it has stopped."""

import os
import shutil
import time
from pathlib import Path

from chromad.config import Config
from chromad.maintenance.upgrade import Upgrade
from chromad.maintenance.upgrade_journal import Journal
from chromad.maintenance.upgrade_steps import RootSteps

from tests.segments import engine


def test_copy_follows_what_changes_and_what_goes(two: Path, tmp_path: Path) -> None:
    config = Config.model_validate({"data_dir": str(two)})
    steps = RootSteps(config, tmp_path / "chromad.yml")
    upgrade = Upgrade(config, steps, lambda: (_ for _ in ()).throw(AssertionError), lambda *_: None)
    copy = tmp_path / "copy"
    copy.mkdir()
    upgrade._journal = Journal(1, "", Path("/old"), Path("/new"), "1.5.9", two, two.stat().st_ino, copy, compared=False)
    stays, goes = engine.segment(two, "stays"), engine.segment(two, "goes")
    long_ago = time.time() - 3600
    for path in two.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    upgrade._copy()
    shutil.rmtree(goes)
    (stays / "length.bin").write_bytes(b"changed")
    upgrade._copy()
    files = {path.relative_to(two): path.read_bytes() for path in two.rglob("*") if path.is_file()}
    assert {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == files
