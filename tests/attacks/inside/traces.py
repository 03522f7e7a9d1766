"""Which paths below the service user's directories a verb touches: told by strace, not guessed."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .layout import HOME, OWN, RUN

# The controller's strace, with its libraries: the host has no way out to fetch one.
_TOOL = Path("/srv/attacks/strace")
_WHERE = Path("/srv/attacks/trace")
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^<>"]*)>, )?"((?:[^"\\]|\\.)+)"')
_RAN = re.compile(r"^execve\(.*\) = 0$", re.MULTILINE)
_ENGINE = re.compile(r'chromad\.engine\.main|"restic"')
_OPTIONS = ["-ff", "-y", "-a", "1", "-s", "4096", "-e", "trace=%file,connect,setresuid,clone,clone3,fork,vfork"]
_CALL = re.compile(r"\w+\(")
# Names that nobody can know before
_UNKNOWN = re.compile(
    r"/(staging-|replaced-|failed-|\.staging-|\.replaced-|\.chromad-restore-|\.unfinished)|[0-9a-f]{16}\.new"
    r"|\.[0-9a-f]{16}|-tmp-|/tmp[^/]*$|/restic-|etilqs|/locks/"
)


@dataclass(frozen=True)
class Touched:
    """A path, and whether it was root's part that touched it."""

    path: Path
    by_root: bool


def strace() -> list[str]:
    """The command that traces, up to its options."""
    if not _TOOL.exists():
        return ["strace"]
    return [str(next(_TOOL.glob("ld-*"))), "--library-path", str(_TOOL), str(_TOOL / "strace")]


def touched(
    argv: Sequence[str | Path], environment: dict[str, str], seconds: float
) -> tuple[int, bytes, list[Touched]]:
    """Runs a verb; gives how it ended, what it said, and what it touched under names that can be known before."""
    shutil.rmtree(_WHERE, ignore_errors=True)
    _WHERE.mkdir(mode=0o700)
    done = subprocess.run(
        [*strace(), *_OPTIONS, "-o", str(_WHERE / "of"), *map(str, argv)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=seconds,
    )
    return done.returncode, done.stdout, _read(_WHERE, apart=True)


def touched_by_ssh(play: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes, list[Touched]]:
    """As `touched`, of what is done on the host by way of sshd."""
    shutil.rmtree(_WHERE, ignore_errors=True)
    _WHERE.mkdir(mode=0o700)
    words = ["systemctl", "show", "--property=MainPID", "--value", "ssh.service"]
    pid = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    tracer = subprocess.Popen([*strace(), "-q", *_OPTIONS, "-o", str(_WHERE / "of"), "-p", pid])
    try:
        code, said = play()
    finally:
        tracer.terminate()
        tracer.wait()
    return code, said, _read(_WHERE, apart=False)


def _read(where: Path, *, apart: bool) -> list[Touched]:
    """What is in traces. apart: whether the program became two, see `privileges`; else all of it is root's."""
    texts = _texts(where)
    servants = _servants(texts) if apart else set()
    found: dict[Path, bool] = {}
    for pid, text in texts.items():
        for line in text.splitlines():
            if not _CALL.match(line) or line.startswith("execve("):
                continue
            for parent, name in _PATH.findall(line):
                path = Path(os.path.normpath(os.path.join(parent or "/", _unescape(name))))
                if (name.startswith("/") or parent) and _is_known(path):
                    found[path] = found.get(path, False) or pid not in servants
    return [Touched(path, found[path]) for path in sorted(found)]


def engines_of_root() -> list[str]:
    """The engines and restics of the last trace that were root's."""
    texts = _texts(_WHERE)
    servants = _servants(texts)
    ran = [line for pid, text in texts.items() if pid not in servants for line in _RAN.findall(text)]
    return [line[:200] for line in ran if _ENGINE.search(line)]


def _texts(where: Path) -> dict[int, str]:
    return {int(path.suffix[1:]): path.read_text(encoding="utf-8", errors="replace") for path in where.iterdir()}


def _unescape(name: str) -> str:
    return name.encode("latin-1", "replace").decode("unicode_escape", "replace")


def _is_known(path: Path) -> bool:
    return any(top in path.parents for top in (*OWN, RUN, *HOME.glob(".data.upgrade-*"))) and not _UNKNOWN.search(
        f"{path}/"
    )


def _servants(texts: dict[int, str]) -> set[int]:
    """The processes that became another user, and all that they have started."""
    children = {
        pid: [int(each) for each in re.findall(r"^(?:clone|clone3|fork|vfork)\(.*\) = (\d+)", text, re.MULTILINE)]
        for pid, text in texts.items()
    }
    found: set[int] = set()
    new = [pid for pid, text in texts.items() if re.search(r"setresuid\(([1-9]\d*), \1, \1\) = 0", text)]
    while new:
        pid = new.pop()
        if pid not in found:
            found.add(pid)
            new += children.get(pid, [])
    return found
