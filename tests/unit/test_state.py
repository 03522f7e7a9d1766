"""chromad.json: written whole, read or refused."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from chromad.daemon import startup
from chromad.errors import ConfigurationError
from chromad.store import state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MARK = state.CleanMark({"chroma.sqlite3": (1, 4096, 7)}, {"0" * 36: {"header.bin": (2, 100, 9)}})
GOOD = state.State(1, "d" * 32, "1.5.9", "0123abcd", True, "2026-11-23T00:00:00+00:00", MARK)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def write(path: Path, document: object) -> None:
    (path / state.FILE).write_text(json.dumps(document), encoding="utf-8")


def test_round_trip(tmp_path: Path) -> None:
    state.write(tmp_path, GOOD)
    assert state.read(tmp_path) == GOOD


def test_mode_and_no_leftover(tmp_path: Path) -> None:
    state.write(tmp_path, GOOD)
    assert [path.name for path in tmp_path.iterdir()] == [state.FILE]
    assert (tmp_path / state.FILE).stat().st_mode & 0o777 == 0o640


def test_none_before_the_first_run(tmp_path: Path) -> None:
    assert state.read(tmp_path) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b"[]", b"\xff", b"{}", b"0", b"[" * 100_000])
def test_damaged(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / state.FILE).write_bytes(damage)
    with pytest.raises(ConfigurationError, match="is damaged") as caught:
        state.read(tmp_path)
    assert "mv " in caught.value.hint


def test_no_mark_of_an_earlier_chromad(tmp_path: Path) -> None:
    write(tmp_path, {name: value for name, value in asdict(GOOD).items() if name not in ("mark", "former")})
    assert state.read(tmp_path) == replace(GOOD, mark=None)


@pytest.mark.parametrize("key", sorted(asdict(GOOD).keys() - {"mark", "former"}))
def test_missing_key(tmp_path: Path, key: str) -> None:
    write(tmp_path, {name: value for name, value in asdict(GOOD).items() if name != key})
    with pytest.raises(ConfigurationError, match="is damaged"):
        state.read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", "1"), ("format", None), ("engine_version", 159), ("clean", "false"), ("boot_id", None), ("clean", 1)],
)
def test_wrong_type(tmp_path: Path, key: str, value: object) -> None:
    write(tmp_path, asdict(GOOD) | {key: value})
    with pytest.raises(ConfigurationError, match="is damaged"):
        state.read(tmp_path)


def test_newer_format(tmp_path: Path) -> None:
    write(tmp_path, asdict(GOOD) | {"format": 2})
    with pytest.raises(ConfigurationError, match="has format 2"):
        state.read(tmp_path)


def test_unknown_keys_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, asdict(GOOD) | {"later": 1})
    assert state.read(tmp_path) == GOOD


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries(dict.fromkeys(asdict(GOOD), JSON)))
def test_any_values(tmp_path: Path, document: dict[str, Any]) -> None:
    write(tmp_path, document)
    try:
        found = state.read(tmp_path)
    except ConfigurationError:
        return
    assert found is not None
    assert isinstance(found.clean, bool)
    assert isinstance(found.engine_version, str)


def test_boot_id_is_that_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHROMAD_BOOT_ID", raising=False)
    kernel = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    assert state.boot_id() == kernel.strip().replace("-", "")


def test_boot_id_of_the_unit_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMAD_BOOT_ID", "aaaa-bbbb\n")
    assert state.boot_id() == "aaaabbbb"


def test_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(fd: int) -> None:
        calls.append(f"fsync {os.readlink(f'/proc/self/fd/{fd}')}")
        fsync(fd)

    def note_rename(source: str, target: str, **directories: int) -> None:
        calls.append(f"rename {tmp_path / source}")
        rename(source, target, **directories)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    state.write(tmp_path, GOOD)
    first, second, third = calls
    assert second == f"rename {first.removeprefix('fsync ')}"
    assert third == f"fsync {tmp_path}"


@pytest.mark.parametrize("boot_id", ["", "here", "there"])
def test_files_of_another_or_an_unknown_boot_are_those_of_a_power_cut(
    boot_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "boot_id", lambda: "" if not boot_id else "here")
    before = replace(GOOD, clean=False, mark=None, boot_id=boot_id)
    assert startup._trust(before) == ("boot" if boot_id == "here" else "power")
