"""Names out of data, before they are a path."""

import os
import sqlite3
from pathlib import Path

import pytest
from chromad import names
from chromad.backup.repository import Repository, Snapshot
from chromad.chroma import sqlite
from chromad.errors import BackupError, ConfigurationError

from tests.segments.workload import Workload

UUID = "01234567-89ab-4def-8123-456789abcdef"

# A repository of somebody else's: whatever is restored, FILES are made below the target
RESTIC = """#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = --target ] && cd "$2"; shift; done
{files}
"""


@pytest.mark.parametrize(
    "text", ["", "..", "/etc", "../../etc", UUID.upper(), UUID.replace("-", ""), f"{UUID}\n", 7, None]
)
def test_no_uuid(text: object) -> None:
    assert not names.is_uuid(text)


def test_uuid() -> None:
    assert names.is_uuid(UUID)


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "/", "a\n", "\0", "x" * 256])
def test_no_plain_name(text: str) -> None:
    assert not names.is_plain(text)
    assert not names.is_absolute(f"/{text}") or text == "a/b"


@pytest.mark.parametrize("text", ["", "a", "/a/../b", "/..", "/a//b", "//a", "/a/.", "/a/", "/a\n"])
def test_no_path_that_goes_down(text: str) -> None:
    assert not names.is_absolute(text)


@pytest.mark.parametrize("column", ["collections", "segments"])
@pytest.mark.parametrize("name", ["/etc", "../victim", ""])
def test_database_whose_ids_are_paths(recorded: tuple[Path, Workload], tmp_path: Path, column: str, name: str) -> None:
    (tmp_path / sqlite.FILE).write_bytes((recorded[0] / sqlite.FILE).read_bytes())
    with sqlite3.connect(tmp_path / sqlite.FILE) as connection:
        if column == "collections":
            connection.execute("UPDATE segments SET collection = ?", (name,))
            connection.execute("UPDATE collections SET id = ?", (name,))
        else:
            connection.execute("UPDATE segments SET id = ? WHERE scope = 'VECTOR'", (name,))
    with pytest.raises(ConfigurationError, match="which is no UUID"):
        sqlite.collections(tmp_path, counted=False)


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("{victim}", "true"),
        ("/../victim", "true"),
        ("/x/../../victim", "mkdir x"),
        ("/../../../../../../..{victim}", "true"),
        ("/link/victim", "ln -s {top} link"),
        ("/link", "ln -s {victim} link"),
        ("/x/link", "mkdir x && ln -s {victim} x/link"),
        ("/", "true"),
        ("", "true"),
        ("x", "mkdir x"),
        ("/x", "mkdir x && ln -s {victim} x/link"),
        ("/x", "mkdir x && mkfifo x/pipe"),
        ("/x", "mkdir x && ln {victim}/kept x/hard"),
        ("/x", "mkdir -p x/y && ln -s {victim}/kept x/y/file"),
    ],
)
def test_snapshot_that_leads_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, files: str) -> None:
    victim, tools, target = tmp_path / "victim", tmp_path / "tools", tmp_path / "in" / "target"
    for each in (victim, tools, target.parent):
        each.mkdir()
    (victim / "kept").write_text("kept", encoding="ascii")
    (tools / "restic").write_text(RESTIC.format(files=files.format(victim=victim, top=tmp_path)), encoding="ascii")
    (tools / "restic").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    repository = Repository("/none", b"key", cache_dir=None)
    snapshot = Snapshot("0" * 8, "", "", path.format(victim=victim), frozenset(), {})
    with pytest.raises(BackupError):
        repository.restore(snapshot, target, 0, lambda _done, _total: None)
    assert (victim / "kept").read_text(encoding="ascii") == "kept"
    assert os.listdir(target.parent) == []
