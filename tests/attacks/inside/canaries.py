"""What must not change: everything outside of the service's own directories, above all files that are root's alone.

A secret is in each of those that only root may read; it must not turn up in what the service user owns, or in what a verb says.
"""

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from .layout import DATA, HOME, KEPT, LOOK, OLD, OWN, THEIRS, service_user

TOKEN = Path("/root/attacks.token")
# Files and directories that attacks point at, and what else an attack might make there
CLOSED = Path("/root/closed")
OPEN = Path("/etc/attacked")
SECRET, READABLE = CLOSED / "secret", OPEN / "readable"
ABSENT = OPEN / "absent"
VICTIMS = (CLOSED, OPEN)
# Of root's in the service's directories, for a doctor to mend
ALLOWED = {DATA / "of-root"}

_ROOTS = ("/etc", "/root", "/home", "/opt", "/srv", "/usr/local", "/var", "/tmp", "/boot")
# Of systemd, of journals, of this suite, and what the controller's Ansible leaves
_PASSED_OVER = {
    *map(str, OWN),
    str(KEPT),
    str(LOOK),
    str(HOME / "venv"),
    str(HOME / "venvs"),
    "/srv/attacks",
    "/srv/mirror",
    "/srv/wheelhouse",
    "/var/log",
    "/var/cache",
    "/var/lib/systemd",
    "/var/lib/sudo",
    "/root/.ansible",
    "/root/.ansible_async",
    "/home/admin/.ansible",
}
# Copies of the data on their way, which are the service user's
_PASSED_BY_NAME = ("systemd-private-", ".data.upgrade-", ".staging-", ".replaced-")
# Directories in which something may come and go
_BUSY = {"/opt/chromadb", "/srv", "/tmp", "/var/tmp", "/root", "/home/admin", "/var/backups", "/var/lib"}
_LARGEST = 64 << 20  # bytes of a file that is searched

State = dict[str, tuple[object, ...]]


def make() -> None:
    """Makes what attacks point at, anew where an attack has had its way."""
    if not TOKEN.exists():
        TOKEN.write_text(f"SECRET-{secrets.token_hex(16)}", encoding="ascii")
        TOKEN.chmod(0o600)
    token = TOKEN.read_text(encoding="ascii")
    for top, top_mode in ((CLOSED, 0o700), (OPEN, 0o755)):
        shutil.rmtree(top, ignore_errors=True)
        top.mkdir(mode=top_mode)
    for path, mode in ((SECRET, 0o600), (READABLE, 0o644)):
        path.write_text(f"{token}\n", encoding="ascii")
        path.chmod(mode)
    for top in VICTIMS:
        (top / "inner").mkdir(mode=0o700)
        (top / "inner/file").write_text(f"{token}\n", encoding="ascii")


def look(*, whole: bool = False) -> State:
    """What there is. whole: all of the system's programs as well."""
    found: State = {}
    for top in (*_ROOTS, *(("/usr", str(HOME / "venvs")) if whole else ())):
        found |= dict(_walk(top))
    return found


def _walk(top: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    with os.scandir(top) as entries:
        for entry in entries:
            path = entry.path
            if path in _PASSED_OVER or entry.name.startswith(_PASSED_BY_NAME):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield path, _facts(path, status)
            if stat.S_ISDIR(status.st_mode) and status.st_dev == _device():
                yield from _walk(path)


def _device() -> int:
    return os.stat("/etc").st_dev


def _facts(path: str, status: os.stat_result) -> tuple[object, ...]:
    owner = (status.st_uid, status.st_gid, status.st_mode, status.st_ino)
    if path in _BUSY:
        return owner
    if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
        # The number of names of a file, which an attack may have given another, changes its ctime.
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_relative_to(OPEN) else ""
        return (*owner, status.st_size, status.st_mtime_ns, digest)
    if any(Path(path).is_relative_to(top) for top in VICTIMS) and stat.S_ISREG(status.st_mode):
        return (*owner, status.st_size, status.st_mtime_ns, hashlib.sha256(Path(path).read_bytes()).hexdigest())
    return (*owner, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def changes(before: State, after: State) -> list[str]:
    """What is otherwise, a line each."""
    found = []
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old != new:
            what = "is gone" if new is None else "is new" if old is None else f"was {old}, is {new}"
            found.append(f"outside: {path} {what}")
    return found


def leaks(*outputs: bytes) -> list[str]:
    """Where the secret has turned up, and what in the service's directories is not the service user's."""
    token = TOKEN.read_bytes()
    uid = service_user().pw_uid
    foreign = _inodes()
    found = ["the output has the secret" for output in outputs if token in output]
    for top in (*OWN, LOOK):
        for path in _below(top):
            status = path.lstat()
            if (status.st_dev, status.st_ino) in foreign:
                continue  # another name of root's file, which an attack has made
            if status.st_uid != uid and top not in (LOOK, THEIRS) and path not in ALLOWED:
                found.append(f"inside: {path} belongs to {status.st_uid}")
            if stat.S_ISREG(status.st_mode) and 0 < status.st_size < _LARGEST and _holds(path, token):
                found.append(f"inside: {path} has the secret")
    return found


def _holds(path: Path, token: bytes) -> bool:
    try:
        return token in path.read_bytes()
    except FileNotFoundError:
        return False


def _below(top: Path) -> Iterator[Path]:
    for directory, names, plain in os.walk(top):
        yield from (Path(directory, name) for name in (*names, *plain))


def _inodes() -> set[tuple[int, int]]:
    found = set()
    for top in (*VICTIMS, OLD):
        for path in (top, *_below(top)):
            status = path.lstat()
            found.add((status.st_dev, status.st_ino))
    return found
