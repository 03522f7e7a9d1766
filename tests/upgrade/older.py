"""An older release of Chromad, made of this one: the same but for its Chroma. python -m tests.upgrade.older DIRECTORY

older.lock has its Chroma, as `uv pip compile --no-deps --universal --generate-hashes` gives it; all else is the same.
"""

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.hosts.system import REPOSITORY

ENGINE = "1.0.20"
LOCK = Path(__file__).with_name("older.lock")
_ENTRY = re.compile(r"^(?=[A-Za-z0-9])(?:.*\\\n)*.*\n", re.MULTILINE)
# What differs in Chroma 1.0
_PATCHES = {
    "daemon/chromad/chroma/sqlite.py": {'"sysdb": 10, "metadb": 6': '"sysdb": 9, "metadb": 5'},
    "daemon/pyproject.toml": {'version = "0.1.0"': 'version = "0.0.9"', "chromadb==1.5.9": f"chromadb=={ENGINE}"},
}


def copy(target: Path, patches: Mapping[str, Mapping[str, str]]) -> None:
    """Writes this release into a new directory, with other texts in the files that are named."""
    for name in ("ansible", "daemon", "systemd"):
        shutil.copytree(
            REPOSITORY / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        )
    for name, texts in patches.items():
        text = (target / name).read_text()
        for old, new in texts.items():
            if old not in text:
                raise SystemExit(f"{name} has no {old!r} any more")
            text = text.replace(old, new)
        (target / name).write_text(text)


def make(target: Path) -> None:
    """Writes the release into a new directory."""
    copy(target, _PATCHES)
    lock = target / "daemon/requirements.lock"
    others = [entry for entry in _ENTRY.findall(lock.read_text()) if not entry.startswith("chromadb==")]
    lock.write_text("".join([*others, LOCK.read_text()]))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
