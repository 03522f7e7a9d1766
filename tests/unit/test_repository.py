"""How restic is run, and what of it is believed."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from chromad.backup import repository
from chromad.backup.repository import Repository, Snapshot
from chromad.errors import BackupError

_PROGRAM = """
import os, signal, subprocess
from chromad.host import signals
from chromad.backup import restic

processes = []

def start():
    processes.append(subprocess.Popen(["sleep", "60"]))
    os.kill(os.getpid(), signal.SIGINT)
    return processes[0]

signals.raise_on_end()
with signals.ending():
    try:
        restic._follow(start, None, None)
    finally:
        print(processes[0].returncode, flush=True)
"""


def test_interrupt_while_the_process_is_started_ends_it() -> None:
    told = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (130, "-15\n"), told.stderr


def test_files_of_a_snapshot_are_found_by_its_path_and_by_no_link(tmp_path: Path) -> None:
    """Whoever has the key can store a link, and one whose path leads elsewhere."""
    parent = tmp_path / "parent"
    (parent / "var/current").mkdir(parents=True)
    (tmp_path / "outside/current").mkdir(parents=True)
    (parent / "link").symlink_to(tmp_path / "outside")
    (parent / "last").symlink_to(tmp_path / "outside/current")
    found = Snapshot("11111111", "2026-01-01T00:00:00+00:00", "here", "/var/current", frozenset(), {})
    assert repository._within(parent, found) == parent / "var/current"
    for path in ("/link/current", "/last", "/none", "/", "", "relative", "/var/../../outside", "/var//current"):
        with pytest.raises(BackupError, match="does not hold"):
            repository._within(parent, replace(found, path=path))


@pytest.mark.parametrize(
    "said", ["", 'Ignoring "1a2b3c4d", could not load: ciphertext verification failed', "Fatal: unable to open"]
)
def test_snapshots_that_restic_cannot_read_are_not_passed_over(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It calls that a success: the newest of the rest would be taken for the newest."""
    program = tmp_path / "restic"
    program.write_text(f"#!/bin/sh\necho '[]'\n[ -z '{said}' ] || echo '{said}' >&2\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    place = Repository("/none", b"secret", cache_dir=None, options={}, environment={})
    if not said:
        assert place.snapshots() == []
        return
    with pytest.raises(BackupError, match="restic snapshots: "):
        place.snapshots()
