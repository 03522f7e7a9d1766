"""What makes a start unsafe. `directory` runs before the directory lock is taken, `occupancy` after."""

import errno
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from chromad import versions
from chromad.checks import Result, fail, ok
from chromad.chroma import sqlite
from chromad.config import Config, Listen, Metrics
from chromad.errors import ChromadError, ConfigurationError, PermissionProblem, TryAgain, passes
from chromad.host import files, processes
from chromad.store import lock, state

# What PrivateUsers= shows in place of users other than root and the service's own, user_namespaces(7)
_OVERFLOW_UID = 65534


def directory(config: Config) -> Iterator[Result]:
    """The data directory and the user that works on it."""
    path = config.data_dir
    yield _user(config)
    try:
        status = path.stat()
    except FileNotFoundError:
        yield fail(
            "data_dir",
            ConfigurationError,
            f"{path} does not exist",
            f"create it: install -d -m 0750 -o {_me()} {path} (is a volume not mounted?)",
        )
        return
    except PermissionError:
        yield fail(
            "data_dir",
            PermissionProblem,
            f"{path} cannot be reached by {_me()}",
            "give its parents search permission (chmod o+x)",
        )
        return
    except NotADirectoryError:
        yield fail("data_dir", ConfigurationError, f"a parent of {path} is not a directory", "correct data_dir")
        return
    except OSError as error:
        kind, hint = (
            (ChromadError, "look at its disk (dmesg)") if passes(error) else (ConfigurationError, "correct data_dir")
        )
        yield fail("data_dir", kind, f"{path}: {error.strerror}", hint)
        return
    if not stat.S_ISDIR(status.st_mode):
        yield fail(
            "data_dir", ConfigurationError, f"{path} is not a directory", "move the file aside, or correct data_dir"
        )
        return
    yield _owner(path, status.st_uid)
    # A root shell that used the files leaves files of root behind.
    for name in (sqlite.FILE, state.FILE):
        try:
            yield _owner(path / name, (path / name).stat().st_uid)
        except OSError:
            continue
    yield _mode(path, status.st_mode)
    yield _writable(path)


def occupancy(config: Config, engine_version: str) -> Iterator[Result]:
    """Other processes, and data that this engine does not understand."""
    alone = foreign(config)
    yield alone
    if alone.status == "fail":
        return  # It may keep the database locked.
    yield version(config.data_dir, engine_version)
    yield _port(config.listen, "listen")
    if config.metrics.port:
        yield _port(config.metrics, "metrics")


def _user(config: Config) -> Result:
    if os.geteuid() == 0 and not config.allow_root:
        return fail(
            "user",
            PermissionProblem,
            "chromad runs as root",
            "run it as the service user; allow_root: true permits it for trials and containers",
        )
    return ok("user", f"runs as {_me()}")


def _owner(path: Path, uid: int) -> Result:
    if uid != os.geteuid():
        return fail(
            "owner",
            PermissionProblem,
            f"{path} belongs to {_user_name(uid)}, not to {_me()}",
            f"chown -R {_me()} {path}",
        )
    return ok("owner", f"{path} belongs to {_me()}")


def _mode(path: Path, mode: int) -> Result:
    shown = f"{stat.S_IMODE(mode):04o}"
    if mode & 0o022:
        return fail(
            "mode", PermissionProblem, f"{path} has mode {shown}: others than its owner can write", f"chmod 0750 {path}"
        )
    return ok("mode", f"{path} has mode {shown}")


def _writable(path: Path) -> Result:
    try:
        files.try_write(path)
    except OSError as error:
        hint = {
            errno.ENOSPC: "free some space",
            errno.EDQUOT: "raise the quota",
            errno.EIO: "look at its disk (dmesg)",
            errno.EROFS: "mount it read-write; under systemd, see ReadWritePaths=",
        }.get(error.errno or 0, "look at its mode, its attributes (lsattr) and the mount")
        kind = ChromadError if passes(error) else PermissionProblem
        return fail("writable", kind, f"{path}: a test write failed: {error.strerror}", hint)
    return ok("writable", f"{path} takes a write and an fsync")


def foreign(config: Config) -> Result:
    """Whether another process has the database open, as far as can be seen."""
    found = processes.with_open_database(
        config.data_dir / sqlite.FILE, ignore={os.getpid(), lock.backup_holder(config.backup_dir) or -1}
    )
    if found:
        names = ", ".join(str(process) for process in found)
        return fail(
            "single_writer",
            TryAgain,
            f"{config.data_dir / sqlite.FILE} is open in {names}",
            "stop it: two writers destroy the vector files",
        )
    return ok("single_writer", f"no other process has {sqlite.FILE} open")


def version(data_dir: Path, engine_version: str) -> Result:
    """Whether an engine understands the data."""
    before = state.read(data_dir)
    hint = f"install Chroma {before.engine_version if before else 'as new as the data'} again, or restore a backup that this version wrote"
    if before and versions.numbers(before.engine_version) > versions.numbers(engine_version):
        fact = (
            f"{data_dir} was last written by Chroma {before.engine_version}; the installed engine is {engine_version}"
        )
        return fail("version", ConfigurationError, fact, hint)
    if sqlite.exists(data_dir):
        unknown = sqlite.unknown_migrations(data_dir)
        if unknown:
            fact = f"{data_dir / sqlite.FILE} has migrations that Chroma {engine_version} does not know: {', '.join(unknown)}"
            return fail("version", ConfigurationError, fact, hint)
        if sqlite.has_tables(data_dir) and sqlite.outdated(data_dir):
            fact = f"{data_dir / sqlite.FILE} was written by a Chroma older than {engine_version}"
            return fail("version", ConfigurationError, fact, f"sudo chromactl adopt {data_dir}")
    return ok("version", f"data and engine go together (Chroma {engine_version})")


def _port(listen: Listen | Metrics, key: str) -> Result:
    """key: of the section that says where to listen."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                holder = processes.with_listening_port(listen.port)
                return fail(
                    "port", TryAgain, f"{listen} is taken by {holder}", f"stop it, or choose another {key}.port"
                )
            if error.errno == errno.EACCES:
                return fail(
                    "port",
                    PermissionProblem,
                    f"{_me()} may not listen on {listen}",
                    f"choose a {key}.port of 1024 or above",
                )
            if error.errno == errno.EADDRNOTAVAIL:
                return fail(
                    "port",
                    TryAgain,
                    f"cannot listen on {listen}: this host has no such address",
                    f"it may come with the network; else {key}.host must be another one",
                )
            return fail(
                "port",
                ConfigurationError,
                f"cannot listen on {listen}: {error.strerror}",
                f"{key}.host must be an address of this host",
            )
    return ok("port", f"{listen} is free")


def _me() -> str:
    return _user_name(os.geteuid())


def _user_name(uid: int) -> str:
    if uid == _OVERFLOW_UID:
        return "another user"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
