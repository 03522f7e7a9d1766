"""How chromactl finds its verbs."""

import re
import subprocess
import sys

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


@pytest.mark.parametrize("word", ["statu", "bakups", "verify_persistence"])
def test_a_verb_that_is_misspelt_is_guessed(word: str) -> None:
    told = run(word)
    assert told.returncode == 2
    assert "Did you mean" in told.stderr


def test_help_tells_of_all_verbs() -> None:
    told = run("--help").stdout
    for verb in cli.VERBS:
        assert re.search(rf"^\W+{verb} +[A-Z]", told, re.MULTILINE)
