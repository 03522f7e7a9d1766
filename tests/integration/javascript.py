"""Chroma's official client for JavaScript, as the files in javascript/ pin it, and a node that runs it."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests import packages
from tests.hosts.system import CACHE, building, digest, lock

FILES = Path(__file__).with_name("javascript")
# Set where there can be no node: tests that need it are left out then.
LEAVE_OUT = "CHROMAD_TESTS_WITHOUT_NODE"


def left_out() -> str:
    """Why there is no node and need be none; empty when there has to be one."""
    return f"{LEAVE_OUT} is set" if os.environ.get(LEAVE_OUT) else ""


def need_node() -> None:
    """Installs it where it is missing. Raises packages.Missing where that cannot be."""
    try:
        packages.need({"node": "nodejs", "npm": "npm"})
    except packages.Missing as error:
        raise packages.Missing(f"{error}. HINT: {LEAVE_OUT}=1 leaves out what needs it") from None


def modules() -> Path:
    """The directory with the client and what it needs, from a cache."""
    wanted = [(FILES / name).read_bytes() for name in ("package.json", "package-lock.json")]
    directory = CACHE / "javascript" / digest(*wanted)
    with lock("javascript"):
        if not directory.exists():
            with building(directory) as temporary:
                for name in ("package.json", "package-lock.json"):
                    shutil.copy(FILES / name, temporary)
                # What is optional makes embeddings, and is for other machines.
                command = ["npm", "ci", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
                subprocess.run(command, cwd=temporary, check=True, timeout=300)
    return directory / "node_modules"


def run(program: Path, *words: str, directory: Path, environment: Mapping[str, str]) -> str:
    """What a program prints. directory: of its own, where it finds the client."""
    shutil.copy(program, directory)
    (directory / "node_modules").symlink_to(modules())
    done = subprocess.run(
        ["node", directory / program.name, *words],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
