"""Where things are on the host: what is the service user's, what is root's alone, and states of it that are put back."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

HOME = Path("/opt/chromadb")
VENVS = HOME / "venvs"
LINK = HOME / "venv"
JOURNAL = VENVS / "upgrade.json"
DATA, CHECKPOINTS, QUARANTINE, RESTORE = (HOME / name for name in ("data", "checkpoints", "quarantine", "restore"))
BACKUPS = Path("/var/backups/chromadb")
# A directory of the service user's elsewhere, with a database of stock Chroma, and its tools
THEIRS = Path("/srv/theirs")
# What it can write; what it may lead root into is elsewhere
OWN = (DATA, CHECKPOINTS, QUARANTINE, RESTORE, BACKUPS, THEIRS)
# Made by systemd with each start
RUN = Path("/run/chromadb")
ASIDE = THEIRS / "aside"
# Of root: a database of stock Chroma, the place of restores, and copies of OWN to put back
OLD, LOOK, KEPT = Path("/srv/old"), Path("/srv/look"), Path("/srv/kept")
UNIT = "chromadb.service"
_STARTED = 30.0  # seconds
# What belongs into the directory of the service, beside what is in OWN
_PARTS = {"venv", "venvs", "packages"}


def service_user() -> pwd.struct_passwd:
    """The account of the service."""
    return pwd.getpwnam("chromadb")


def as_service(work: Callable[[], object]) -> str:
    """Does something as the service user; gives the error that it met, empty for none."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        text = ""
        try:
            os.close(reader)
            become_service()
            work()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode()[:4000])
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


def become_service() -> None:
    """Goes on as the service user, in a process that has nothing else to do."""
    user = service_user()
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)


def keep(scene: str) -> None:
    """Keeps what there is now under a name. The service has been stopped."""
    place = KEPT / scene
    place.mkdir(mode=0o700, parents=True)
    for top in OWN:
        run("cp", "-a", top, place / top.name)
    (place / "home").mkdir()
    for path in HOME.iterdir():
        if path.name not in _PARTS and path not in OWN:
            run("cp", "-a", path, place / "home" / path.name)
    (place / "link").symlink_to(os.readlink(LINK))
    if JOURNAL.exists():
        shutil.copy2(JOURNAL, place / JOURNAL.name)


def put_back(scene: str) -> None:
    """Stops the service, and brings back what was kept."""
    stop()
    place = KEPT / scene
    left = [path for path in HOME.iterdir() if path.name not in _PARTS and path not in OWN]
    run("rm", "-rf", "--one-file-system", *OWN, *left, LOOK)
    for parent in {top.parent for top in OWN}:
        run("cp", "-a", *(place / top.name for top in OWN if top.parent == parent), parent)
    for path in (place / "home").iterdir():
        run("cp", "-a", path, HOME)
    link = os.readlink(place / "link")
    if os.readlink(LINK) != link:
        LINK.unlink()
        LINK.symlink_to(link)
    JOURNAL.unlink(missing_ok=True)
    if (place / JOURNAL.name).exists():
        shutil.copy2(place / JOURNAL.name, JOURNAL)


def start() -> bool:
    """Starts the service; gives whether it serves."""
    # A unit that has failed very often would not start any more.
    subprocess.run(["systemctl", "reset-failed", "chromadb*"], check=False, capture_output=True)
    done = subprocess.run(["systemctl", "start", UNIT], check=False, capture_output=True, timeout=_STARTED * 2)
    return done.returncode == 0


def stop() -> None:
    """Stops the service, by force: what it leaves is put back anyway."""
    subprocess.run(["systemctl", "kill", "--signal=KILL", UNIT], check=False, capture_output=True)
    subprocess.run(["systemctl", "stop", UNIT], check=True, capture_output=True, timeout=_STARTED * 4)


def serves() -> bool:
    """Whether the unit is up."""
    return subprocess.run(["systemctl", "is-active", "--quiet", UNIT], check=False).returncode == 0


def run(*words: str | Path) -> str:
    """Runs a command; gives its output."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition holds within a time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
