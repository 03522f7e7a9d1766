"""manifest.json: read, or refused with a reason."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from chromad.backup import manifest
from chromad.errors import BackupError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GOOD = manifest.Manifest(
    format=1,
    name="20260101T000000Z",
    created="2026-01-01T00:00:00+00:00",
    chromad_version="0.1.0",
    engine_version="1.5.9",
    sqlite_version="3.40.0",
    data_id="d" * 32,
    last_seq_id=12,
    collections=[manifest.CollectionEntry("c1", "default_tenant", "default_database", "one", 3, 12, None)],
    files=[manifest.Entry("chroma.sqlite3", 5, "00"), manifest.Entry("segment/header.bin", 7, "11")],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(GOOD.to_json())
    return loaded


def write(directory: Path, content: object) -> None:
    (directory / manifest.FILE).write_text(json.dumps(content), encoding="utf-8")


def test_round_trip(tmp_path: Path) -> None:
    (tmp_path / manifest.FILE).write_text(GOOD.to_json(), encoding="utf-8")
    assert manifest.read(tmp_path) == GOOD
    assert (GOOD.size, GOOD.records) == (12, 12)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xff", b"null", b"[]", b"1", b'"x"', b"[" * 100_000])
def test_not_a_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / manifest.FILE).write_bytes(content)
    with pytest.raises(BackupError, match="is damaged"):
        manifest.read(tmp_path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="No such file"):
        manifest.read(tmp_path)


def test_newer_format(tmp_path: Path) -> None:
    write(tmp_path, document() | {"format": 2})
    with pytest.raises(BackupError, match="has format 2"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("key", list(document()))
def test_missing_key(tmp_path: Path, key: str) -> None:
    content = document()
    del content[key]
    write(tmp_path, content)
    with pytest.raises(BackupError):
        manifest.read(tmp_path)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "..", "", ".", "a/b/c", "a\0b", "manifest.json/../../x"]
)
def test_path_outside_of_the_backup(tmp_path: Path, path: str) -> None:
    write(tmp_path, document() | {"files": [{"path": path, "size": 1, "sha256": "00"}]})
    with pytest.raises(BackupError, match="is damaged"):
        manifest.read(tmp_path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(document())), JSON)
def test_any_value_of_a_key(tmp_path: Path, key: str, value: object) -> None:
    write(tmp_path, document() | {key: value})
    try:
        manifest.read(tmp_path)
    except BackupError as error:
        assert error.hint


@pytest.mark.parametrize("size", [float("inf"), float("nan"), -1, "5", 5.5, None, True])
def test_size_that_no_file_has(tmp_path: Path, size: object) -> None:
    write(tmp_path, document() | {"files": [{"path": "x", "size": size, "sha256": "00"}]})
    with pytest.raises(BackupError, match="is damaged"):
        manifest.read(tmp_path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["path", "size", "sha256"]), JSON)
def test_any_value_in_a_file_entry(tmp_path: Path, key: str, value: object) -> None:
    write(tmp_path, document() | {"files": [{"path": "x", "size": 1, "sha256": "00"} | {key: value}]})
    try:
        entry = manifest.read(tmp_path).files[0]
    except BackupError:
        return
    assert (type(entry.path), type(entry.size), type(entry.sha256)) == (str, int, str)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["id", "tenant", "database", "name", "dimension", "records", "seq_id"]), JSON)
def test_any_value_in_a_collection_entry(tmp_path: Path, key: str, value: object) -> None:
    write(tmp_path, document() | {"collections": [document()["collections"][0] | {key: value}]})
    try:
        entry = manifest.read(tmp_path).collections[0]
    except BackupError:
        return
    assert {type(text) for text in (entry.id, entry.tenant, entry.database, entry.name)} == {str}
    assert type(entry.records) is int


def test_copy_verified(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(3_000_000))
    entry = manifest.hash_file(tmp_path / "a", lambda _: None)
    sizes: list[int] = []
    manifest.copy_verified(tmp_path / "a", tmp_path / "b", entry, sizes.append)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert sum(sizes) == entry.size == 3_000_000


@pytest.mark.parametrize("content", [b"", b"12345", b"1234", b"123456"])
def test_copy_of_a_changed_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(b"54321")
    entry = manifest.hash_file(tmp_path / "a", lambda _: None)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(BackupError, match="damaged"):
        manifest.copy_verified(tmp_path / "a", tmp_path / "b", entry, lambda _: None)


def test_copy_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="is missing"):
        manifest.copy_verified(tmp_path / "a", tmp_path / "b", manifest.Entry("a", 0, ""), lambda _: None)
