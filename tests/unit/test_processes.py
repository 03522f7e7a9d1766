"""Who has a file open."""

import os
from pathlib import Path

from chromad.host import processes


def test_what_a_link_points_to_is_somebody_elses(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with other.open("w"):
        assert [each.pid for each in processes.with_open_database(other, ignore=set())] == [os.getpid()]
        link = tmp_path / "chroma.sqlite3"
        link.symlink_to(other)
        assert processes.with_open_database(link, ignore=set()) == []
    assert processes.with_open_database(tmp_path / "none", ignore=set()) == []
