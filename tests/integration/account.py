"""Users and processes: the daemon runs as an unprivileged user, also when the tests run as root."""

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import pytest

BIN = Path(sys.executable).parent
AS_ROOT = os.geteuid() == 0

# What lets a user read where doors are closed to it, see `open_doors`.
_READER = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")

T = TypeVar("T")
doors_are_open = False


@dataclass(frozen=True)
class Account:
    name: str
    uid: int
    gid: int


def current() -> Account:
    """The user of the tests."""
    try:
        return _account(pwd.getpwuid(os.geteuid()))
    except KeyError:  # as in a container
        return Account(f"uid {os.geteuid()}", os.geteuid(), os.getegid())


def service() -> Account:
    """The user of the daemon: `daemon` for root, else the user of the tests."""
    return _account(pwd.getpwnam("daemon")) if AS_ROOT else current()


def stranger() -> Account:
    """A user who has nothing to do with the service; needs root to become."""
    return _account(pwd.getpwnam("games"))


def popen(
    argv: Sequence[str | Path], account: Account, output: IO[bytes] | int, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a command as a user, with a bare environment; output: for both of its streams."""
    words = [str(word) for word in argv]
    reader = doors_are_open and account.uid != 0
    if reader:
        words = ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups", *_READER, *words]
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "COLUMNS": "200", **(environment or {})},
        user=None if reader else account.uid,
        group=None if reader else account.gid,
        # Only root may change them.
        extra_groups=[] if AS_ROOT and not reader else None,
    )


def open_doors() -> None:
    """Lets other users read everything from now on: for a checkout or a Python below a directory that is root's alone."""
    global doors_are_open  # noqa: PLW0603 (set once, for the whole run)
    doors_are_open = True


def need_closed_doors() -> None:
    """Skips a test that is about what a user may not read, where `open_doors` had to be called."""
    if doors_are_open:
        pytest.skip("the checkout or its Python lies where only root may read, so the service user was let in")


def why_unreachable(account: Account) -> str:
    """Why the account cannot run our interpreter; empty when it can."""
    try:
        process = popen([sys.executable, "-c", "import chromad, chromadb_rust_bindings"], account, subprocess.PIPE)
    except OSError as error:
        reason = str(error)
    else:
        output, _ = process.communicate()
        if process.returncode == 0:
            return ""
        reason = output.decode(errors="replace")
    return (
        f"user {account.name} cannot run {sys.executable} ({Path(sys.executable).resolve()}): {reason}\n"
        "Make the virtual environment from an interpreter that every user may execute, such as /usr/bin/python3."
    )


def until(condition: Callable[[], T | None], what: str, timeout: float = 60.0, pause: float = 0.01) -> T:
    """Polls until the condition holds and gives its value; fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:.0f} s for {what}")
        time.sleep(pause)
    return value


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
