"""How chromactl finds its verbs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from chromad import cli

_RUN = """
import sys
from chromad import cli
sys.argv = ["chromactl", *sys.argv[1:]]
try:
    cli.main()
finally:
    print(*sorted(name for name in sys.modules if name.startswith("chromad.")), sep="\\n")
"""


_MASK = """
import os
from chromad import cli
os.umask(0o022)
cli._run = lambda: print(f"{os.umask(0):03o}")
cli.main()
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _RUN, *words], capture_output=True, text=True, check=False)


def test_a_verb_imports_no_other() -> None:
    told = run("status", "--help")
    assert told.returncode == 0
    assert "chromad.cli.status" in told.stdout.splitlines()
    assert not {"chromad.cli.restore", "chromad.maintenance.adopt", "chromad.backup.run"} & set(
        told.stdout.splitlines()
    )


def test_others_read_nothing_that_a_verb_makes() -> None:
    """Copies and restored data are all that the service holds."""
    told = subprocess.run([sys.executable, "-c", _MASK], capture_output=True, text=True, check=True)
    assert told.stdout == "027\n"


_UNFORESEEN = """
from chromad import cli
def fail():
    raise KeyError("a\x1b[2Jname")
cli._run = fail
cli.main()
"""


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_what_nobody_foresaw_is_a_line(words: list[str]) -> None:
    """What was read may be anything: no traceback, and nothing for the terminal but text."""
    told = subprocess.run([sys.executable, "-c", _UNFORESEEN, *words], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    said = told.stdout + told.stderr
    assert "an error that nobody foresaw in <string>, line 4: KeyError: " in said
    assert "Traceback" not in said
    assert "\x1b" not in said


_PHASE = """
import sys
from rich.console import Console
from chromad.cli import ui
ui.err = Console(stderr=True, force_terminal=True, width=200)
with ui.progress() as report:
    report("[/\x1bc\x1bP+q544e\x1b\\\\x]", 1, 10)
"""


def test_phase_is_text(tmp_path: Path) -> None:
    """It comes from whoever listens on the socket."""
    told = subprocess.run([sys.executable, "-c", _PHASE], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "\x1bc" not in told.stderr
    assert "\x1bP" not in told.stderr


@pytest.mark.parametrize("word", ["statu", "bakups", "verify_persistence"])
def test_a_verb_that_is_misspelt_is_guessed(word: str) -> None:
    told = run(word)
    assert told.returncode == 2
    assert "Did you mean" in told.stderr


def test_help_tells_of_all_verbs() -> None:
    told = run("--help").stdout
    for verb in cli.VERBS:
        assert re.search(rf"^\W+{verb} +[A-Z]", told, re.MULTILINE)
