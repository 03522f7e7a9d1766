"""Virtual environments side by side: `<home>/venvs/<name>`, and the link `<home>/venv` to the one that the service runs from."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from chromad import documents, versions
from chromad.errors import ConfigurationError
from chromad.host import files

_TIMEOUT = 60.0  # seconds
_VERSIONS = (
    "import json; from importlib.metadata import version; print(json.dumps([version('chromadb'), version('chromad')]))"
)


@dataclass(frozen=True)
class Environment:
    """path: resolved. engine, chromad: the versions of the packages in it."""

    path: Path
    engine: str
    chromad: str

    @property
    def chromactl(self) -> Path:
        """Its program."""
        return self.path / "bin/chromactl"

    def __str__(self) -> str:
        return f"Chroma {self.engine} (chromad {self.chromad})"


def own() -> Environment:
    """The one that this program is of."""
    return Environment(Path(sys.prefix).resolve(), versions.engine(), versions.chromad())


def at(path: Path) -> Environment:
    """Another one. Raises ConfigurationError when it cannot say what is in it."""
    try:
        answer = subprocess.run(
            [path / "bin/python", "-I", "-c", _VERSIONS],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT,
        )
        engine, chromad = documents.parse(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigurationError(
            f"{path} is no working environment: {error}", "apply playbooks/site.yml again"
        ) from None
    return Environment(path, engine, chromad)


def home() -> Path:
    """The directory with all of them. Raises ConfigurationError where this program is not in one of them."""
    venvs = own().path.parent
    if venvs.name != "venvs" or not (venvs.parent / "venv").is_symlink():
        raise ConfigurationError(
            f"{sys.prefix} is not one of several environments on this host",
            "ansible-playbook playbooks/upgrade.yml makes a new one beside the old, and calls its chromactl",
        )
    return venvs


def active() -> Path:
    """Where the link points."""
    return (home().parent / "venv").resolve()


def switch(path: Path) -> None:
    """Lets the link point to an environment: to the old one or to this one, whenever one looks."""
    files.make_link(home().parent / "venv", f"venvs/{path.name}")
