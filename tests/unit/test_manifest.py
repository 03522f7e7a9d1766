"""manifest.json: read, or refused with a reason."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from chromad.backup import manifest
from chromad.chroma import segment
from chromad.errors import BackupError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SEGMENT = "00000000-0000-4000-8000-000000000002"
ONE = manifest.CollectionEntry(
    "00000000-0000-4000-8000-000000000001",
    "default_tenant",
    "default_database",
    "one",
    3,
    12,
    SEGMENT,
    7,
    {"team": "blue"},
    [manifest.Sample("a", "00", ["a", "b"], [0.0, 0.5])],
)
SEGMENT_FILES = [manifest.Entry(f"{SEGMENT}/{name}", 1, "11") for name in sorted(segment.FILES)]
GOOD = manifest.Manifest(
    format=2,
    created="2026-01-02T00:00:00+00:00",
    base_created="2026-01-01T00:00:00+00:00",
    base_seq_id=9,
    last_seq_id=12,
    continues=4,
    chromad_version="0.1.0",
    engine_version="1.5.9",
    sqlite_version="3.40.0",
    data_id="d" * 32,
    collections=[ONE],
    files=[manifest.Entry("chroma.sqlite3", 5, "00"), manifest.Entry("log.sqlite3", 7, "22"), *SEGMENT_FILES],
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


def with_file(**values: object) -> dict[str, Any]:
    """A manifest with one more file."""
    more = {"path": "x", "size": 1, "sha256": "00"} | values
    return document() | {"files": [*document()["files"], more]}


def test_round_trip(tmp_path: Path) -> None:
    (tmp_path / manifest.FILE).write_text(GOOD.to_json(), encoding="utf-8")
    assert manifest.read(tmp_path) == GOOD
    assert (GOOD.size, GOOD.records) == (12 + len(SEGMENT_FILES), 12)


def test_parsed_text_is_named(tmp_path: Path) -> None:
    assert manifest.parse(GOOD.to_json().encode(), "the manifest of x") == GOOD
    with pytest.raises(BackupError, match=r"^the manifest of x is damaged"):
        manifest.parse(b"{", "the manifest of x")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xff", b"null", b"[]", b"1", b'"x"', b"[" * 100_000])
def test_not_a_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / manifest.FILE).write_bytes(content)
    with pytest.raises(BackupError, match="is damaged"):
        manifest.read(tmp_path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="No such file"):
        manifest.read(tmp_path)


def test_newer_format(tmp_path: Path) -> None:
    write(tmp_path, document() | {"format": 3})
    with pytest.raises(BackupError, match="has format 3; this chromad knows up to 2"):
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
    write(tmp_path, with_file(path=path))
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
    write(tmp_path, with_file(size=size))
    with pytest.raises(BackupError, match="is damaged"):
        manifest.read(tmp_path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["path", "size", "sha256"]), JSON)
def test_any_value_in_a_file_entry(tmp_path: Path, key: str, value: object) -> None:
    write(tmp_path, with_file(**{key: value}))
    try:
        entry = manifest.read(tmp_path).files[-1]
    except BackupError:
        return
    assert (type(entry.path), type(entry.size), type(entry.sha256)) == (str, int, str)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([field.name for field in fields(manifest.CollectionEntry)]), JSON)
def test_any_value_in_a_collection_entry(tmp_path: Path, key: str, value: object) -> None:
    write(tmp_path, document() | {"collections": [document()["collections"][0] | {key: value}]})
    try:
        entry = manifest.read(tmp_path).collections[0]
    except BackupError:
        return
    assert {type(text) for text in (entry.id, entry.tenant, entry.database, entry.name, entry.segment)} == {str}
    assert type(entry.records) is int
    assert all(type(sample) is manifest.Sample for sample in entry.samples)


@pytest.mark.parametrize(
    "path", ["chroma.sqlite3", "log.sqlite3", f"{SEGMENT}/header.bin", f"{SEGMENT}/index_metadata.pickle"]
)
def test_file_that_a_restore_needs_is_not_listed(tmp_path: Path, path: str) -> None:
    files = [entry for entry in document()["files"] if entry["path"] != path]
    assert len(files) == len(document()["files"]) - 1
    write(tmp_path, document() | {"files": files})
    with pytest.raises(BackupError, match=f"it lacks {path}"):
        manifest.read(tmp_path)


def test_segment_that_the_log_rebuilds_needs_no_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        document()
        | {"collections": [document()["collections"][0] | {"seq_id": None}], "files": document()["files"][:2]},
    )
    assert manifest.read(tmp_path).collections[0].seq_id is None


def test_file_listed_twice(tmp_path: Path) -> None:
    write(tmp_path, with_file(path="chroma.sqlite3"))
    with pytest.raises(BackupError, match="is damaged"):
        manifest.read(tmp_path)


def test_whole_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(3_000_000))
    sizes: list[int] = []
    entry = manifest.hash_file(tmp_path / "a", lambda _: None)
    manifest.check_file(tmp_path / "a", entry, sizes.append)
    assert sum(sizes) == entry.size == 3_000_000


@pytest.mark.parametrize("content", [b"", b"12345", b"1234", b"123456"])
def test_changed_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(b"54321")
    entry = manifest.hash_file(tmp_path / "a", lambda _: None)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(BackupError, match="damaged"):
        manifest.check_file(tmp_path / "a", entry, lambda _: None)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="is missing"):
        manifest.check_file(tmp_path / "a", manifest.Entry("a", 0, ""), lambda _: None)


def test_directory_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="Is a directory"):
        manifest.check_file(tmp_path, manifest.Entry("a", 0, ""), lambda _: None)


@pytest.mark.parametrize("key", ["base_seq_id", "last_seq_id", "continues"])
@pytest.mark.parametrize("number", [-1, 1 << 63, 10**400])
def test_number_that_sqlite_does_not_hold(tmp_path: Path, key: str, number: int) -> None:
    write(tmp_path, document() | {key: number})
    with pytest.raises(BackupError, match="is damaged"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("key", ["created", "base_created"])
@pytest.mark.parametrize("time", ["", "now", "2026-01-01T00:00:00"])
def test_time_without_a_meaning(tmp_path: Path, key: str, time: str) -> None:
    write(tmp_path, document() | {key: time})
    with pytest.raises(BackupError, match="is damaged"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("number", [float("inf"), float("nan"), -float("inf")])
def test_number_that_json_does_not_have_is_not_written(number: float) -> None:
    sample = replace(ONE.samples[0], distances=[0.0, number])
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(GOOD, collections=[replace(ONE, samples=[sample])]).to_json()


def test_distances_of_an_earlier_chromad(tmp_path: Path) -> None:
    """It wrote null for what was out of range; such a backup can be restored."""
    content = document()
    content["collections"][0]["samples"][0]["distances"] = [0.0, None]
    write(tmp_path, content)
    (sample,) = manifest.read(tmp_path).collections[0].samples
    assert sample.distances == [0.0, None]
