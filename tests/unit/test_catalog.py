"""Names in the backup directory."""

from pathlib import Path

import pytest
from chromad.backup import catalog
from chromad.errors import BackupError


def test_nothing_yet(tmp_path: Path) -> None:
    assert catalog.backups(tmp_path) == []
    assert catalog.backups(tmp_path / "missing") == []


def test_only_finished_backups_count(tmp_path: Path) -> None:
    for name in (
        "20260102T000000Z",
        "20260101T000000Z",
        ".unfinished-20260103T000000Z",
        "notes",
        "20260101T000000Z.old",
    ):
        (tmp_path / name).mkdir()
    assert [backup.name for backup in catalog.backups(tmp_path)] == ["20260101T000000Z", "20260102T000000Z"]


def test_latest_is_the_newest_name(tmp_path: Path) -> None:
    for name in ("20260102T000000Z", "20251231T235959Z"):
        (tmp_path / name).mkdir()
    assert catalog.find(tmp_path, "latest").name == "20260102T000000Z"


def test_unreadable_manifest_is_listed_with_its_problem(tmp_path: Path) -> None:
    (tmp_path / "20260101T000000Z").mkdir()
    [found] = catalog.backups(tmp_path)
    assert found.manifest is None
    assert "manifest.json" in found.problem


@pytest.mark.parametrize("name", ["latest", "20260101T000000Z", "..", "", "/etc", "../20260101T000000Z"])
def test_unknown_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackupError, match="no backup") as caught:
        catalog.find(tmp_path, name)
    assert caught.value.hint


def test_file_instead_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackupError, match="not a directory"):
        catalog.backups(tmp_path / "file")
