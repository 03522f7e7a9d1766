"""What the service user puts in place of a file or a directory that a verb touches."""

import os
import shutil
import socket
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import canaries
from .layout import ASIDE, BACKUPS, CHECKPOINTS, DATA, HOME, QUARANTINE, RESTORE, RUN, as_service

# A copy of a directory in which everything has the name that it should have, and is root's
MIRROR = Path("/etc/attacked/mirror")


def _file(place: Path) -> None:
    place.symlink_to(canaries.SECRET)


def _readable(place: Path) -> None:
    place.symlink_to(canaries.READABLE)


def _absent(place: Path) -> None:
    place.symlink_to(canaries.ABSENT)


def _closed(place: Path) -> None:
    place.symlink_to(canaries.CLOSED)


def _mirror(place: Path) -> None:
    place.symlink_to(MIRROR)


def _loop(place: Path) -> None:
    place.symlink_to(place)


def _pipe(place: Path) -> None:
    os.mkfifo(place)


def _socket(place: Path) -> None:
    os.chdir(place.parent)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(place.name)


def _directory(place: Path) -> None:
    place.mkdir()
    (place / "x").write_text("x", encoding="ascii")


def _plain(place: Path) -> None:
    place.write_text("x", encoding="ascii")


# link-*: symbolic links. mirror: to a directory of root's in which all has the right name.
KINDS: dict[str, Callable[[Path], None]] = {
    "link-file": _file,
    "link-readable": _readable,
    "link-absent": _absent,
    "link-closed": _closed,
    "link-mirror": _mirror,
    "link-loop": _loop,
    "pipe": _pipe,
    "socket": _socket,
    "directory": _directory,
    "plain": _plain,
    "hard": _plain,  # see `put`
}


def kinds(place: Path) -> list[str]:
    """What can be put there, of what is not the same as what is there."""
    left_out = {"directory"} if place.is_dir() else {"link-mirror", "plain"} if place.is_file() else {"link-mirror"}
    return [kind for kind in KINDS if kind not in left_out]


def put(place: Path, kind: str) -> str:
    """Puts it there as the service user; what was there is aside. Gives why it could not, empty when it could."""
    make_mirror(place if kind == "link-mirror" else None)
    if problem := as_service(lambda: _aside(place)):
        return problem
    if kind == "hard":
        # Where protected_hardlinks is 1 the kernel forbids it; for where it is not, root does it here.
        try:
            os.link(canaries.READABLE, place)  # EXDEV in /run
        except OSError as error:
            return str(error)
        return ""
    return as_service(lambda: KINDS[kind](place))


def _was(place: Path) -> Path:
    """Where it is meanwhile, on the same file system."""
    return RUN / "was" if RUN in place.parents else ASIDE / "was"


def _aside(place: Path) -> None:
    if os.path.lexists(place):
        place.rename(_was(place))


def take_away(place: Path) -> None:
    """What was there is there again, whatever is now."""
    if os.path.lexists(place):
        if stat.S_ISDIR(place.lstat().st_mode):
            shutil.rmtree(place)
        else:
            place.unlink()
    if os.path.lexists(_was(place)):
        _was(place).rename(place)
    shutil.rmtree(MIRROR, ignore_errors=True)


def make_mirror(place: Path | None) -> None:
    """Makes the one of a directory, or none."""
    shutil.rmtree(MIRROR, ignore_errors=True)
    if place is None or not place.is_dir():
        return
    shutil.copytree(place, MIRROR, symlinks=True, ignore=_no_pipes)
    token = canaries.TOKEN.read_bytes()
    for path in (MIRROR, *MIRROR.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
        if path.is_file() and not path.is_symlink() and path.stat().st_size == 0:
            path.write_bytes(token)


def _no_pipes(top: str, names: list[str]) -> list[str]:
    modes = {name: os.lstat(os.path.join(top, name)).st_mode for name in names}
    return [name for name, mode in modes.items() if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)]


def refused_by_the_kernel() -> dict[str, str]:
    """What the service user cannot do in the first place, and what the kernel says to it."""
    tries: dict[str, Callable[[], object]] = {
        "a device": lambda: os.mknod(ASIDE / "device", 0o600 | stat.S_IFBLK, os.makedev(7, 0)),
        "a file in the home": (HOME / "mine").touch,
        "a file beside the repository": (BACKUPS.parent / "mine").touch,
        "a file in an environment": (HOME / "venv/mine").touch,
    }
    for top in (DATA, CHECKPOINTS, QUARANTINE, RESTORE, BACKUPS):
        tries[f"another name for {top}"] = partial(top.rename, top.with_name("mine"))
    if Path("/proc/sys/fs/protected_hardlinks").read_text(encoding="ascii").strip() == "1":
        tries["a hard link to a file of root's"] = lambda: os.link(canaries.READABLE, ASIDE / "hard")
    return {name: as_service(work) for name, work in tries.items()}
