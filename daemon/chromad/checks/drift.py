"""Environment drift: versions, interpreters and variables that are not those of the service."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from chromad import versions
from chromad.checks import Result, fail, ok, preflight, skip, warn
from chromad.checks.host import Host
from chromad.errors import ConfigurationError
from chromad.host import privileges
from chromad.host.disks import Aside
from chromad.maintenance import environment, upgrade_journal

# The oldest that Debian 12 has, and that repositories are tested with
_RESTIC = (0, 14)
_TIMEOUT = 10.0  # seconds
_PYTHON_VARIABLES = ("PYTHONPATH", "PYTHONHOME")
_VERSION_OF_CHROMADB = "from importlib.metadata import version; print(version('chromadb'))"


def check(host: Host) -> Iterator[Result]:
    """Versions first, then what this shell would run instead of what the service runs."""
    yield _data(host)
    yield _pins()
    yield _running(host)
    yield _restic(host)
    # Root's part has looked with the others, see `files`.
    if not privileges.may("look at files"):
        yield from programs()
    yield _python()
    yield _environments()
    yield _variables()
    yield _upgrade()


def _data(host: Host) -> Result:
    installed = versions.engine()
    if not host.config.data_dir.is_dir():
        return skip("version", f"there are no data; Chroma {installed} is installed")
    found = preflight.version(host.config.data_dir, installed)
    if found.status != "ok":
        return found
    data = {"engine": installed, "chromad": versions.chromad(), "sqlite": sqlite3.sqlite_version}
    names = f"Chroma {installed}, chromad {data['chromad']}, SQLite {data['sqlite']}"
    return ok("version", f"data and engine go together: {names}", data)


def _pins() -> Result:
    """Whether the packages are those that chromad was made with."""
    pinned = [re.fullmatch(r"([\w.-]+)==([\w.]+)", each) for each in requires("chromad") or []]
    wrong = []
    for match in filter(None, pinned):
        try:
            found = version(match[1])
        except PackageNotFoundError:
            found = "missing"
        if found != match[2]:
            wrong.append(f"{match[1]} is {found}, chromad was made for {match[2]}")
    if wrong:
        fact = f"in {sys.prefix}: {', '.join(wrong)}"
        return fail("packages", ConfigurationError, fact, "run the playbook again, or install the locked requirements")
    return ok("packages", "the environment holds the versions that chromad was made for")


def _running(host: Host) -> Result:
    here = str(Path(sys.prefix).resolve())
    if host.answer is None:
        return skip("running", "no service to compare with")
    there, engine = host.answer.environment or here, host.answer.engine_version
    if there != here:
        fact = f"the service runs from {there}, this chromactl is of {here}"
        return warn("running", fact, f"systemctl restart chromadb takes the new one; or call {there}/bin/chromactl")
    if engine != versions.engine():
        fact = f"Chroma {versions.engine()} is installed, the service runs {engine}"
        return warn("running", fact, "systemctl restart chromadb")
    return ok("running", f"the service runs from {there}")


def _restic(host: Host) -> Result:
    path = shutil.which("restic")
    used = (host.config.backup_dir / "ledger.json").exists() or _holds_repository(host)
    if not path:
        if used:
            return fail(
                "restic", ConfigurationError, "it is not installed: no backup can be taken", "apt install restic"
            )
        return skip("restic", "it is not installed, and no backup was ever taken")
    said = subprocess.run(
        [path, "version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_TIMEOUT
    ).stdout
    match = re.match(r"restic (\d+)\.(\d+)\S*", said)
    if not match:
        return warn("restic", f"{path} does not say its version", "apt install --reinstall restic")
    if (int(match[1]), int(match[2])) < _RESTIC:
        return warn("restic", f"{match[0]} is older than 0.14", "install a newer one")
    return ok("restic", match[0], {"version": match[0].split()[1]})


def _holds_repository(host: Host) -> bool:
    path = host.config.backup.local_path
    if path is None:
        return False
    aside = Aside(path)
    # What is on a file system that does not answer cannot be asked for.
    return aside.answers() and os.path.exists(path / "config")


def programs() -> Iterator[Result]:
    """Programs of ours in the path of the user who calls."""
    here = Path(sys.prefix).resolve() / "bin"
    other = []
    for name in ("chromactl", "chromad", "chroma"):
        path = shutil.which(name)
        if path and Path(path).resolve().parent != here:
            other.append(name)
            fact = f"{name} in PATH is {path}, which is not of {here}"
            yield warn("path", fact, f"remove it or call {here / name}: it may be another version")
    if not other:
        yield ok("path", "chromactl, chromad and chroma in PATH are the service's own")


def _python() -> Result:
    """What a script that says `import chromadb` would get."""
    path = shutil.which("python3")
    if not path or Path(path).parent.resolve() == Path(sys.prefix).resolve() / "bin":
        return ok("python", "python3 in PATH is the service's own, or there is none")
    asked = [path, "-I", "-c", _VERSION_OF_CHROMADB]
    said = subprocess.run(
        asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_TIMEOUT
    )
    found = said.stdout.strip()
    if said.returncode or not found:
        return ok("python", f"{path} has no chromadb of its own")
    if found == versions.engine():
        return ok("python", f"{path} has chromadb {found}, as the service")
    fact = f"{path} has chromadb {found}, the service runs {versions.engine()}"
    return warn(
        "python", fact, f"{path} -m pip uninstall chromadb; clients need chromadb-client alone", {"version": found}
    )


def _environments() -> Result:
    here = Path(sys.prefix).resolve()
    active = os.environ.get("VIRTUAL_ENV")
    if active and Path(active).resolve() != here:
        fact = f"the virtual environment {active} is active here, the service's is {here}"
        return warn("environments", fact, "deactivate")
    others = sorted(path.name for path in here.parent.iterdir() if path != here and (path / "pyvenv.cfg").is_file())
    kept = f"; beside it: {', '.join(others)}" if others else ""
    return ok("environments", f"{here} is the one in use{kept}")


def _variables() -> Result:
    found = sorted(key for key in os.environ if key.startswith("CHROMA_") or key in _PYTHON_VARIABLES)
    if found:
        fact = f"{', '.join(found)} change what programs do in this shell, not in the service"
        return warn("environment", fact, f"unset {' '.join(found)}; chromad.yml configures the service")
    return ok("environment", "no variable of Chroma or Python is set")


def _upgrade() -> Result:
    try:
        environment.home()
    except ConfigurationError:
        return skip("upgrade", "the service has one environment, which is changed in place")
    journal = upgrade_journal.read()
    if journal:
        fact = f"an upgrade to Chroma {journal.engine} began at {journal.begun} and did not come to its end"
        return fail(
            "upgrade", ConfigurationError, fact, "sudo chromactl upgrade --undo, or playbooks/upgrade.yml again"
        )
    return ok("upgrade", "no upgrade was interrupted")
