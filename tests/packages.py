"""Debian packages that tests need: installed when missing, by one process at a time."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

_LOCK = Path("/var/cache/chromad-test/apt.lock")
# Seconds that others, such as unattended upgrades, may have dpkg's lock
_PATIENCE = 600


class Missing(Exception):
    """Packages that are not there and cannot be installed here; says which."""


def need(tools: Mapping[str, str]) -> None:
    """tools: programs, and the packages that they are in. Raises Missing."""
    install(package for program, package in tools.items() if not shutil.which(program))


def install(packages: Iterable[str]) -> None:
    """Installs packages. Raises Missing for users who may not, and where there is no apt."""
    wanted = sorted(set(packages))
    if not wanted:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Missing(f"not installed: {' '.join(wanted)} (apt install, as root)")
    apt("update")
    apt("install", "--yes", "--no-install-recommends", *wanted)


def apt(*words: str, directory: Path = Path("/")) -> None:
    """Runs apt-get. directory: where it works, for `download`."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with open(_LOCK, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ("apt-get", "--quiet", "-o", f"DPkg::Lock::Timeout={_PATIENCE}", *words)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, check=True, cwd=directory, env=environment, stdout=subprocess.DEVNULL)
