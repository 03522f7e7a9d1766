"""Words for chromactl in shells: what the role installs, in the shells that are here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.account import BIN

FILES = Path(__file__).resolve().parents[2] / "ansible/roles/chromadb/files"
_BASH = 'source "$1"; COMP_WORDS=($2 $3); COMP_CWORD=$4; _chromactl chromactl; printf "%s\\n" "${COMPREPLY[@]}"'
# What _arguments would show
_ZSH = '_arguments() { print -r -- "$@" }; words=($2 $3); CURRENT=$4; source "$1"'
_FISH = 'source $argv[1]; complete --do-complete "$argv[2] $argv[3]"'


@pytest.mark.parametrize(
    ("shell", "script", "file"),
    [("bash", _BASH, "chromactl.bash"), ("zsh", _ZSH, "_chromactl"), ("fish", _FISH, "chromactl.fish")],
)
def test_words(shell: str, script: str, file: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    words = {
        "bash": ["$", "-c", script, "sh"],
        "zsh": ["", "-fc", script, "sh"],
        "fish": ["", "--no-config", "-c", script],
    }[shell][1:]
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def said(words_so_far: str, number: int) -> str:
        argv = [shell, *words, str(FILES / file), "chromactl", words_so_far, str(number)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment, timeout=60)
        return done.stdout

    assert {"backup", "backups"} <= set(
        said("ba", 2 if shell == "zsh" else 1).replace('"', " ").replace("(", " ").split()
    )
    assert "verify-persistence" in said("verify-", 2 if shell == "zsh" else 1)
