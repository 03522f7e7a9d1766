"""Backups that are not what they say are refused before anything is touched."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration import records
from tests.integration.site import Site


@pytest.fixture(scope="module")
def pristine(serving: Site) -> Path:
    """A backup of two collections, one of them persisted; the service is stopped."""
    client = serving.daemon.client()
    records.fill(client, "persisted", 150, sync_threshold=100)
    records.fill(client, "in-log", 10)
    result = serving.chromactl("backup", "--json")
    serving.daemon.stop()
    return Path(result.json()["path"])


@pytest.fixture
def backup(serving: Site, pristine: Path) -> Path:
    """A copy of that backup to be damaged, the only one in its directory."""
    directory = serving.root / "damaged"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(pristine, directory / pristine.name)
    serving.configure({"backup.directory": str(directory)})
    return directory / pristine.name


def edit(backup: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = backup / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def entry_of(document: dict[str, Any], ending: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in document["files"] if entry["path"].endswith(ending))
    return found


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def segment_file(backup: Path, name: str) -> Path:
    return next(backup.glob(f"*/{name}"))


def assert_refused(serving: Site, code: int, fact: str) -> None:
    before = serving.tree(), serving.asides()
    result = serving.chromactl("restore", "latest")
    assert result.code == code, result.output
    assert "Traceback" not in result.output
    assert fact in result.output
    assert "HINT: " in result.output
    assert (serving.tree(), serving.asides()) == before


@pytest.mark.parametrize("name", ["data_level0.bin", "index_metadata.pickle"])
def test_bit_flipped_in_a_segment(serving: Site, backup: Path, name: str) -> None:
    flip_a_bit(segment_file(backup, name))
    assert_refused(serving, 1, f"{name} is not what the manifest says (damaged)")


def test_bit_flipped_in_the_database(serving: Site, backup: Path) -> None:
    flip_a_bit(backup / "chroma.sqlite3")
    assert_refused(serving, 1, "chroma.sqlite3 is not what the manifest says (damaged)")


def test_truncated_database(serving: Site, backup: Path) -> None:
    with open(backup / "chroma.sqlite3", "r+b") as file:
        file.truncate(8192)
    assert_refused(serving, 1, "chroma.sqlite3 is not what the manifest says (damaged)")


@pytest.mark.parametrize("name", ["chroma.sqlite3", "link_lists.bin"])
def test_missing_file(serving: Site, backup: Path, name: str) -> None:
    next(backup.rglob(name)).unlink()
    assert_refused(serving, 1, f"{name} is missing from the backup")


def test_directory_in_place_of_a_file(serving: Site, backup: Path) -> None:
    path = segment_file(backup, "length.bin")
    path.unlink()
    path.mkdir()
    assert_refused(serving, 1, "length.bin")


def test_missing_manifest(serving: Site, backup: Path) -> None:
    (backup / "manifest.json").unlink()
    assert_refused(serving, 1, "manifest.json: No such file or directory")


@pytest.mark.parametrize("content", ["", "{", "null"])
def test_manifest_is_no_json(serving: Site, backup: Path, content: str) -> None:
    (backup / "manifest.json").write_text(content, encoding="utf-8")
    assert_refused(serving, 1, "manifest.json is damaged")


def test_listed_with_its_problem(serving: Site, backup: Path) -> None:
    (backup / "manifest.json").write_text("{", encoding="utf-8")
    [found] = serving.chromactl("backups", "--json").json()["backups"]
    assert "manifest.json is damaged" in found["problem"]
    assert found["records"] is None


def test_counts_edited(serving: Site, backup: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["collections"][0]["records"] += 1

    edit(backup, change)
    assert_refused(serving, 1, "does not hold the collections of its manifest")


def test_collection_left_out_of_the_manifest(serving: Site, backup: Path) -> None:
    edit(backup, lambda document: document["collections"].pop())
    assert_refused(serving, 1, "does not hold the collections of its manifest")


def test_file_left_out_of_the_manifest(serving: Site, backup: Path) -> None:
    edit(backup, lambda document: document["files"].remove(entry_of(document, "data_level0.bin")))
    assert_refused(serving, 1, "manifest")


def test_segment_left_out_of_the_manifest(serving: Site, backup: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["files"] = [entry for entry in document["files"] if "/" not in entry["path"]]

    edit(backup, change)
    assert_refused(serving, 1, "manifest")


def test_database_left_out_of_the_manifest(serving: Site, backup: Path) -> None:
    edit(backup, lambda document: document["files"].remove(entry_of(document, "chroma.sqlite3")))
    assert_refused(serving, 1, "chroma.sqlite3")


def test_newer_format(serving: Site, backup: Path) -> None:
    edit(backup, lambda document: document.update(format=2))
    assert_refused(serving, 1, "has format 2; this chromad knows")


def test_newer_engine(serving: Site, backup: Path) -> None:
    edit(backup, lambda document: document.update(engine_version="99.0.0"))
    assert_refused(serving, 78, "was taken by Chroma 99.0.0")


def test_more_data_than_space(serving: Site, backup: Path) -> None:
    edit(backup, lambda document: entry_of(document, "chroma.sqlite3").update(size=1 << 60))
    assert_refused(serving, 1, "bytes free")


@pytest.mark.parametrize("path", ["../../victim", "/tmp/victim", "a/../../../victim"])
def test_path_traversal(serving: Site, backup: Path, path: str) -> None:
    victim = serving.root / "victim"
    victim.write_text("untouched", encoding="utf-8")
    shutil.copy(backup / "chroma.sqlite3", backup.parent / "victim")
    edit(backup, lambda document: entry_of(document, "chroma.sqlite3").update(path=path))
    assert_refused(serving, 1, "manifest.json is damaged")
    assert victim.read_text(encoding="utf-8") == "untouched"


def test_untouched_copy_is_accepted(serving: Site, backup: Path) -> None:
    """Last in this file: it shows that the others were refused for their damage alone."""
    assert serving.chromactl("restore", backup.name).code == 0
