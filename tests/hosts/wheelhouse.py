"""Directories with everything that a host's pip needs for daemon/requirements.lock, since hosts have no way out."""

import platform
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

from .system import CACHE, REPOSITORY, building, digest, lock, run

_PYTHON = {"debian12": "3.11", "debian13": "3.13"}
_LOCK = REPOSITORY / "daemon/requirements.lock"
# The Chroma of an older release, for upgrades
_OLDER_LOCK = REPOSITORY / "tests/upgrade/older.lock"
_OLDEST_GLIBC_MINOR = 36  # Debian 12 has glibc 2.36; wheels for it run on Debian 13 as well.


def wheelhouse(image: str) -> Path:
    """Give the wheelhouse for an image's Python, downloading it, hashes checked, when the cache does not have it."""
    python = _PYTHON[image]
    # Two runs of pip: it takes no package twice.
    wanted = ["".join(_for_python(each.read_text(), python)) for each in (_LOCK, _OLDER_LOCK)]
    directory = CACHE / "wheels" / f"python{python}-{digest(*wanted)}"
    with lock(f"wheels-{python}"):
        if not directory.exists():
            with building(directory) as temporary:
                for text in wanted:
                    requirements = temporary / "requirements.txt"
                    requirements.write_text(text)
                    run(
                        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
                        *("--requirement", requirements, "--dest", temporary, "--python-version", python),
                        *(f"--platform={tag}" for tag in _platforms()),
                    )
    return directory


def _for_python(text: str, python: str) -> list[str]:
    """Give the entries of a lock file that hold for a version of Python, without their markers.

    pip download judges markers by the Python it runs under, even when it is told another version.
    """
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    entries: list[str] = re.findall(r"^(?=[A-Za-z0-9])(?:.*\\\n)*.*\n", text, re.MULTILINE)
    kept = []
    for entry in entries:
        marker = Requirement(entry.split("\\\n")[0].strip()).marker
        if marker is None or marker.evaluate(environment):
            kept.append(re.sub(r" ;.*(?= \\\n)", "", entry, count=1))
    return kept


def _platforms() -> list[str]:
    """Give the wheel tags that the oldest of our systems accepts: pip does not expand them itself for other systems."""
    machine = platform.machine()
    numbered = [f"manylinux_2_{minor}_{machine}" for minor in range(_OLDEST_GLIBC_MINOR, 4, -1)]
    return [*numbered, f"manylinux2014_{machine}", f"linux_{machine}"]
