"""What an operator wants to know before users notice: a look at a host from outside, with the service up or down.

Nothing is changed. Each function gives the results of one room; one that cannot look says so and the others go on.
"""

import os
import pwd
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from chromad import versions
from chromad.backup import ledger
from chromad.checks import Result, fail, ok, processes, skip, warn
from chromad.config import Config
from chromad.errors import BackupError, ChromadError, ConfigurationError, PermissionProblem, TryAgain
from chromad.guard import usage
from chromad.output import human_bytes
from chromad.store import fence, log, segment, soundness, sqlite, state

# On these SQLite's locks or its shared memory do not work, https://www.sqlite.org/wal.html and faq.html#q5
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "9p", "afs"}
# A daily backup and a weekly drill, and a day more
_BACKUP_AGE, _DRILL_AGE = timedelta(days=2), timedelta(days=8)
# Files that the engine holds open for each collection, and beside those
_FILES, _OTHER_FILES = 4, 64
_SHOWN = 5

Service = dict[str, Any] | None


@dataclass(frozen=True)
class Host:
    """What is looked at. service: what the running daemon says of itself, None when none runs. silent: why it says nothing
    although it runs."""

    config: Config
    service: Service
    silent: str = ""


def examine(host: Host, *, deep: bool) -> Iterator[Result]:
    """All checks. deep: reads all of the database and of the vector segments, which takes long."""
    rooms: list[Callable[[Host], Iterator[Result]]] = [
        _service,
        _owners,
        _places,
        _disks,
        _writers,
        _versions,
        _environment,
        _database,
        _quarantine,
        _backups,
        _exposure,
    ]
    for room in [*rooms, *([_integrity] if deep else [])]:
        try:
            yield from room(host)
        except (ChromadError, OSError, sqlite3.Error) as error:
            fact = error.message if isinstance(error, ChromadError) else str(error)
            yield skip(room.__name__.strip("_"), f"could not look: {fact}")


def _service(host: Host) -> Iterator[Result]:
    found = host.service
    if host.silent:
        yield fail("service", TryAgain, host.silent, "journalctl -u chromadb says what it does")
        return
    if found is None:
        before = state.read(host.config.data_dir)
        if before and not before.clean:
            yield warn("service", "it does not run, and its last run did not end well", "systemctl start chromadb")
        else:
            yield warn("service", "it does not run", "systemctl start chromadb")
        return
    if found["state"] != "serving":
        yield warn("service", f"it is {found['state']}", "wait for it; journalctl -u chromadb tells what it does")
    else:
        yield ok("service", f"serving {found['collections']} collections, {found['records']} records")
    if found["last_stop"] == "unclean":
        done = (
            ", ".join(f"{each['collection']} {each['action']}" for each in found["recovered"]) or "nothing was broken"
        )
        yield warn(
            "last_stop", f"the run before this one did not end well: {done}", "journalctl -u chromadb -b -p warning"
        )
    else:
        yield ok("last_stop", "the run before this one ended well")
    for kind, reason in found["fences"].items():
        yield fail("fence", ChromadError, f"writes are refused ({kind}): {reason}", "chromactl unfence, or free space")
    if found["checkpoint"]["error"]:
        yield fail("checkpoints", ChromadError, found["checkpoint"]["error"], "the log grows; journalctl -u chromadb")
    else:
        yield ok("checkpoints", f"newest of {found['checkpoint']['newest'] or 'none yet'}")
    yield _open_files(found)


def _open_files(found: dict[str, Any]) -> Result:
    pid = found["engine_pid"]
    lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
    limit = int(next(line for line in lines if line.startswith("Max open files")).split()[3])
    needed = _FILES * found["collections"] + _OTHER_FILES
    fact = f"the engine may open {limit} files, {found['collections']} collections take up to {needed}"
    if needed > limit:
        return fail("open_files", ChromadError, fact, "raise LimitNOFILE= of chromadb.service")
    return (
        warn("open_files", fact, "raise LimitNOFILE= of chromadb.service")
        if 2 * needed > limit
        else ok("open_files", fact)
    )


def _owners(host: Host) -> Iterator[Result]:
    data_dir = host.config.data_dir
    if not data_dir.is_dir():
        yield fail(
            "data_dir", ConfigurationError, f"{data_dir} is not a directory", "mount or create it, or correct data_dir"
        )
        return
    owner = data_dir.stat().st_uid
    if owner == 0 and not host.config.allow_root:
        yield fail("owner", PermissionProblem, f"{data_dir} belongs to root", f"chown -R chromadb:chromadb {data_dir}")
    for top in (data_dir, host.config.checkpoint_dir, host.config.quarantine_dir):
        if top.is_dir():
            yield _strangers(top, owner)
            yield _mode(top)
    blocked = [path for path in data_dir.parents if not _may_pass(path, owner)]
    if blocked:
        yield fail(
            "parents", PermissionProblem, f"{_name(owner)} cannot pass {blocked[-1]}", f"chmod o+x {blocked[-1]}"
        )
    else:
        yield ok("parents", f"{_name(owner)} can reach {data_dir}")


def _strangers(top: Path, owner: int) -> Result:
    found = [path for path in _everything(top) if path.lstat().st_uid != owner]
    if not found:
        return ok("owner", f"all below {top} belongs to {_name(owner)}")
    names = ", ".join(str(path) for path in found[:_SHOWN]) + (" …" if len(found) > _SHOWN else "")
    return fail(
        "owner",
        PermissionProblem,
        f"{len(found)} files below {top} do not belong to {_name(owner)}: {names}",
        f"chown -R {_name(owner)} {top}",
    )


def _everything(top: Path) -> Iterator[Path]:
    yield top
    for directory, names, files in os.walk(top):
        yield from (Path(directory, name) for name in (*names, *files))


def _mode(path: Path) -> Result:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o022:
        return fail("mode", PermissionProblem, f"others can write {path} ({mode:04o})", f"chmod 0750 {path}")
    if mode & 0o007:
        return warn("mode", f"others can read {path} ({mode:04o})", f"chmod 0750 {path}")
    return ok("mode", f"{path} has mode {mode:04o}")


def _may_pass(path: Path, uid: int) -> bool:
    status = path.stat()
    if uid in (0, status.st_uid):
        return uid == 0 or bool(status.st_mode & stat.S_IXUSR)
    try:
        groups = os.getgrouplist(_name(uid), pwd.getpwuid(uid).pw_gid)
    except KeyError:
        groups = []
    return bool(status.st_mode & (stat.S_IXGRP if status.st_gid in groups else stat.S_IXOTH))


def _places(host: Host) -> Iterator[Result]:
    data_dir, checkpoint_dir = host.config.data_dir, host.config.checkpoint_dir
    kind = _file_system(data_dir)
    if kind in _NETWORK:
        yield fail(
            "file_system", ConfigurationError, f"{data_dir} is on {kind}: SQLite needs a local one", "move the data"
        )
    else:
        yield ok("file_system", f"{data_dir} is on {kind}")
    if checkpoint_dir.exists() and checkpoint_dir.stat().st_dev != data_dir.stat().st_dev:
        yield warn(
            "checkpoint_dir",
            f"{checkpoint_dir} is not on the file system of {data_dir}",
            "move it there: recovery and backups link and copy between them",
        )


def _file_system(path: Path) -> str:
    """The type of the file system of a path, by the longest mount point that holds it (proc_pid_mountinfo(5))."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        inside = str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def _disks(host: Host) -> Iterator[Result]:
    config = host.config
    places = [config.data_dir, config.checkpoint_dir, *([config.backup.local_path] if config.backup.local_path else [])]
    seen = set()
    for path in places:
        if not path.exists() or path.stat().st_dev in seen:
            continue
        seen.add(path.stat().st_dev)
        found = usage(path)
        fact = f"the file system of {path} is {found.percent:.0f} % full ({found.of}), {human_bytes(found.free)} free"
        hint = "delete records and run chromactl compact, keep fewer backups, or give it more space"
        if found.percent >= config.disk.fence_percent:
            yield fail("disk", ChromadError, fact, hint)
        elif found.percent >= config.disk.warn_percent:
            yield warn("disk", fact, hint)
        else:
            yield ok("disk", fact)


def _writers(host: Host) -> Iterator[Result]:
    ours = {os.getpid()}
    if host.service:
        ours |= {host.service["pid"], host.service["engine_pid"]}
    found = processes.with_open_database(host.config.data_dir / sqlite.FILE, ignore=ours)
    # Backups read it.
    found = [each for each in found if "chromactl" not in each.command]
    if found:
        names = ", ".join(str(each) for each in found)
        yield fail(
            "single_writer", TryAgain, f"{sqlite.FILE} is open in {names}", "stop it: two writers destroy vectors"
        )
    else:
        yield ok("single_writer", f"nobody else has {sqlite.FILE} open")


def _versions(host: Host) -> Iterator[Result]:
    installed = versions.engine()
    before = state.read(host.config.data_dir)
    if before and versions.numbers(before.engine_version) > versions.numbers(installed):
        yield fail(
            "version",
            ConfigurationError,
            f"the data were written by Chroma {before.engine_version}, {installed} is installed",
            f"install Chroma {before.engine_version} again",
        )
    elif host.service and host.service["engine_version"] != installed:
        yield warn(
            "version",
            f"Chroma {installed} is installed, the service runs {host.service['engine_version']}",
            "systemctl restart chromadb",
        )
    else:
        yield ok("version", f"Chroma {installed}, chromad {versions.chromad()}")


def _environment(host: Host) -> Iterator[Result]:
    here = Path(sys.executable).parent.resolve()
    for name in ("chromactl", "chromad", "chroma"):
        path = shutil.which(name)
        if path and Path(path).resolve().parent != here:
            yield warn(
                "path",
                f"{name} in PATH is {path}, which is not of {here}",
                f"remove it or call {here / name}: it may be another version",
            )
    set_here = sorted(key for key in os.environ if key.startswith("CHROMA_"))
    if set_here:
        yield warn(
            "environment",
            f"{', '.join(set_here)} change what Chroma does in this shell, not in the service",
            "unset them; chromad.yml configures the service",
        )
    else:
        yield ok("environment", "no variable of Chroma is set")


def _database(host: Host) -> Iterator[Result]:
    data_dir = host.config.data_dir
    if not sqlite.exists(data_dir):
        yield skip("database", f"{data_dir} holds no database yet")
        return
    sqlite.check_schema(data_dir)
    with sqlite.connect(data_dir, busy_timeout=1.0) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        size, _ = log.size_after(connection, 0)
        (pages, free, page) = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    if mode == "wal":
        yield ok("journal_mode", "the database is in WAL mode")
    else:
        yield warn("journal_mode", f"the database is in {mode} mode", "systemctl restart chromadb puts it right")
    bound = 4 * host.config.checkpoint.after_log
    fact = f"the log holds {human_bytes(size)}"
    if size > bound:
        hint = "it is kept until checkpoints and the last backup cover it: chromactl status says which of them fails"
        yield warn("log", fact, hint)
    else:
        yield ok("log", fact)
    fact = f"{human_bytes(free * page)} of the database's {human_bytes(pages * page)} are free"
    yield (
        warn("free_pages", fact, "chromactl compact gives them back")
        if 2 * free > pages > 65536
        else ok("free_pages", fact)
    )


def _quarantine(host: Host) -> Iterator[Result]:
    config = host.config
    fenced = fence.read(config.data_dir) if sqlite.exists(config.data_dir) else {}
    for uuid in sorted(fenced.keys() - {fence.OPERATOR, fence.DISK}):
        yield fail(
            "quarantine", ChromadError, f"the collection {uuid} refuses writes", "chromactl repair, or restore a backup"
        )
    left = sorted(config.quarantine_dir.glob("*-broken-*")) if config.quarantine_dir.is_dir() else []
    if left:
        size = human_bytes(sum(segment.allocated(path) for path in left))
        yield warn(
            "leftovers",
            f"{len(left)} broken segments ({size}) are in {config.quarantine_dir}",
            "remove them when the collections are in order",
        )
    else:
        yield ok("quarantine", "it holds no broken segment")


def _backups(host: Host) -> Iterator[Result]:
    try:
        known = ledger.read(host.config.backup_dir)
    except BackupError as error:
        yield fail("backup", BackupError, error.message, error.hint)
        return
    now = datetime.now(UTC)
    if known.problem:
        yield fail("backup", BackupError, f"the last one failed: {known.problem}", "journalctl -u chromadb-backup")
    elif not known.last_good:
        yield warn("backup", "there is no good one of these data", "sudo chromactl backup")
    elif now - datetime.fromisoformat(known.last_good) > _BACKUP_AGE:
        yield warn(
            "backup", f"the last good one is of {known.last_good}", "systemctl list-timers chromadb-backup.timer"
        )
    else:
        yield ok("backup", f"the last good one is of {known.last_good}")
    drill = known.drills[-1] if known.drills else None
    if drill and drill.problem:
        yield fail("drill", BackupError, f"the last one failed: {drill.problem}", "journalctl -u chromadb-verify")
    elif drill is None and known.last_good:
        yield warn("drill", "no restore was ever tried", "sudo chromactl verify")
    elif drill and now - datetime.fromisoformat(drill.ended) > _DRILL_AGE:
        yield warn("drill", f"the last one was at {drill.ended}", "systemctl list-timers chromadb-verify.timer")
    elif drill:
        yield ok("drill", f"the last one, at {drill.ended}, went well")


def _exposure(host: Host) -> Iterator[Result]:
    listen = host.config.listen
    if listen.loopback:
        yield ok("exposure", f"{listen} is reachable from this host alone")
    else:
        fact = f"{listen} is reachable from the network, and Chroma asks nobody who they are"
        yield warn("exposure", fact, "listen on 127.0.0.1, with a proxy that authenticates")


def _integrity(host: Host) -> Iterator[Result]:
    config = host.config
    if not sqlite.exists(config.data_dir):
        return
    with sqlite.connect(config.data_dir) as connection:
        verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict == "ok":
        yield ok("integrity", f"{sqlite.FILE} is sound")
    else:
        yield fail("integrity", ChromadError, f"{sqlite.FILE} is damaged: {verdict}", "restore a backup")
    if host.service:
        yield skip("segments", "the engine has them open; stop the service to look at them, it does so after a crash")
        return
    for path, found in soundness.examine(segment.directories(config.data_dir), lambda: None).items():
        if found.problem:
            yield fail("segments", ChromadError, f"{path} is not sound: {found.problem}", "the next start mends it")
        else:
            yield ok("segments", f"{path} is sound")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
