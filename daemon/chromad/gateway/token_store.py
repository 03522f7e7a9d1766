"""Where the tokens are kept: `tokens.json` says what holds, `tokens.map` and a running gateway are brought to it each time.

Root alone writes here. Whoever is killed between two of these steps leaves a map that is behind: whatever is asked of the tokens
next puts that right.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from chromad import documents
from chromad.config import GatewaySettings
from chromad.errors import ChromadError, ConfigurationError, PermissionProblem, TryAgain
from chromad.gateway import admin
from chromad.gateway.tokens import FORMAT, Tokens
from chromad.host import files

FILE = "tokens.json"
MAP = "tokens.map"
LOCK = "tokens.lock"

_PATIENCE = 10.0  # seconds that one waits for another who changes something
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Applied:
    """tokens: that there are now. running: whether a gateway runs, and holds them. problem: why it may not, though the files are
    written; None where all went well."""

    tokens: Tokens
    running: bool
    problem: ChromadError | None = None


def change(settings: GatewaySettings, edit: Callable[[Tokens], Tokens]) -> Applied:
    """Changes what tokens there are, for one at a time, and has the gateway know it. edit: from those that there are to those that
    there shall be; what it raises leaves all as it is.

    Raises ConfigurationError without the directory or with a file that cannot be read, PermissionProblem where others than root
    could write there, TryAgain when somebody else is at it for long.
    """
    directory = settings.directory
    _need_directory(directory)
    with _turn(directory / LOCK):
        before = read(directory)
        try:
            after = edit(before).swept(datetime.now(UTC))
        except ChromadError as error:
            # What is said of the tokens here, as that one is gone already, has to be true of those that are let in.
            if problem := _apply(settings, before).problem:
                raise type(problem)(f"{error.message}; and {problem.message}", problem.hint) from None
            raise
        _write(directory / FILE, f"{after.model_dump_json(indent=1)}\n", 0o600)
        return _apply(settings, after)


def _apply(settings: GatewaySettings, tokens: Tokens) -> Applied:
    """Brings map and gateway to these."""
    directory, entries = settings.directory, tokens.entries()
    try:
        _write(directory / MAP, "".join(f"{key} {value}\n" for key, value in entries.items()), 0o640)
    finally:
        # One that runs need not let in who is gone because there is no room for a file.
        try:
            applied = Applied(tokens, admin.bring_up_to_date(settings.admin_socket, directory / MAP, entries))
        except ChromadError as problem:
            applied = Applied(tokens, running=True, problem=problem)
    return applied


def read(directory: Path) -> Tokens:
    """The tokens that there are. Raises ConfigurationError when their file is not one that chromactl writes."""
    path = directory / FILE
    try:
        text = files.read_plain(path)
    except FileNotFoundError:
        return Tokens()
    try:
        form = documents.parse(text)["format"]
        if isinstance(form, int) and form > FORMAT:
            raise ConfigurationError(f"{path} has format {form}", "install the newer chromad again")
        return Tokens.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        why = f"at {'.'.join(map(str, first['loc'])) or 'the top'}: {first['msg']}"
    except (LookupError, TypeError, ValueError):
        why = "it is no document of tokens"
    raise ConfigurationError(
        f"{path} is damaged, {why}",
        f"bring back a copy of it; without one, all tokens have to be made anew: mv {path} {path}.bad",
    )


def _write(path: Path, text: str, mode: int) -> None:
    """Writes a file where it is not so already."""
    try:
        fd = files.open_plain(path, os.O_RDONLY)
    except FileNotFoundError:
        pass
    else:
        with open(fd, "rb") as file:
            status, above = os.fstat(fd), path.parent.stat()
            owner = status.st_uid == above.st_uid and status.st_gid == above.st_gid
            if owner and stat.S_IMODE(status.st_mode) == mode and file.read() == text.encode():
                return
    files.write_atomically(path, text, mode)


def _need_directory(path: Path) -> None:
    try:
        with files.directory(path) as fd:
            status = os.fstat(fd)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigurationError(
            f"{path} is not there: this host has no gateway",
            "the role chromadb_gateway makes it, see playbooks/site.yml",
        ) from None
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
        raise PermissionProblem(
            f"others than root can write to {path}",
            f"chown root {path} && chmod 0750 {path}, then look at what is in it",
        )


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """One after the other."""
    fd = files.open_plain(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TryAgain(
                        f"another chromactl token has been at it for {_PATIENCE:.0f} s", f"fuser {path} says which"
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(fd)
