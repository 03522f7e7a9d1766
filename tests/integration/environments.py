"""Virtual environments between which a host can be upgraded, though they hold the same."""

import site
import subprocess
import sys
from pathlib import Path

from tests.integration.account import BIN


def make(path: Path) -> None:
    """Makes one that has what the tests' own has, and a chromactl that runs from it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    inside = path / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (inside / "ours.pth").write_text(
        "".join(f"import site; site.addsitedir({each!r})\n" for each in site.getsitepackages())
    )
    program = (BIN / "chromactl").read_text(encoding="utf-8").splitlines()
    (path / "bin/chromactl").write_text("\n".join([f"#!{path}/bin/python", *program[1:]]) + "\n", encoding="utf-8")
    (path / "bin/chromactl").chmod(0o755)
