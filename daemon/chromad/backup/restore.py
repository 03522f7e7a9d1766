"""Putting a backup in place of the data directory, or into a new one.

Everything that can fail is done beside the data first, opening it included; then one rename(2) swaps the directories. The
data that were there stay in `<data>/../restore/replaced-…` until an operator removes them.
"""

import os
import re
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from chromad import versions
from chromad.backup import stage, workspace
from chromad.backup.manifest import CollectionEntry
from chromad.backup.stage import Choice, Order, Staged
from chromad.config import Config
from chromad.control import ask_status
from chromad.engine import ways
from chromad.engine.api import Api
from chromad.errors import BackupError, ConfigurationError, EngineError, NotFound, PermissionProblem, TryAgain
from chromad.host import files, privileges, service, signals, trees
from chromad.host.privileges import Step
from chromad.store import copies, history, leftovers, lock, state
from chromad.store.copies import Staging
from chromad.store.swap import DataSwap

Progress = Callable[[str, int, int], None]

# See `make_within`
_WITHIN = re.compile(r"\.chromad-restore-[0-9a-f]{16}")


@dataclass(frozen=True)
class Restored:
    """replaced: where the former data are, None for a new directory. restarted: whether the service was stopped and started.
    changed: collections that clients wrote since the start. notes: what is not exact."""

    id: str
    created: str
    collections: int
    records: int
    directory: Path
    replaced: Path | None
    restarted: bool
    changed: list[str]
    notes: list[str]


def run_in_place(order: Order, *, may_stop: bool) -> Restored:
    """Restores a backup over the data directory.

    may_stop: permission to stop (and start again) the service. Raises TryAgain when the service runs without that permission, BackupError when the backup is not sound, or not exact, or its
    collections do not come up; then the former data are in place.
    """
    config = order.config
    data_dir = config.data_dir
    check_place(config)
    restart = check_service(config, may_stop=may_stop)
    workspace.prepare(config)
    with lock.backup_lock(config.backup_dir) as held, Staging(copies.place(data_dir)) as staging:
        order.repository.lock_fd = held.fd
        staged = stage.stage(config, order.repository, order.choice, staging, order.progress)
        need_exact(staged.notes, order.inexact)
        mode = data_dir.stat().st_mode & 0o7777
        dress(staged.directory, versions.engine(), data_dir, mode, staged.manifest.data_id)
        replaced = DataSwap(config, staging, f"restored {order.choice.snapshot.id}", restart=restart).run()
        changed = _changed(config, staged.entries) if restart else []
    outcome = _outcome(order.choice, staged, data_dir)
    return replace(outcome, replaced=replaced, restarted=restart, changed=changed)


def run_aside(order: Order, target: Path, *, within: Path) -> Restored:
    """Restores a backup into a directory that does not exist or is empty; no service is touched. within: where the copy is made,
    the parent of the target or what root's part has made there."""
    check_target(order.config, target)
    leftovers.sweep(within)
    with Staging(within) as staging:
        staged = stage.stage(order.config, order.repository, order.choice, staging, order.progress)
        need_exact(staged.notes, order.inexact)
        like, mode = within, 0o750
        if not privileges.may("put in place"):
            like, mode = _like(target)
        dress(staged.directory, versions.engine(), like, mode, staged.manifest.data_id)
        # A history that is damaged is told of by the next start.
        with suppress(ConfigurationError, OSError):
            history.accept_target(order.config.checkpoint_dir, staged.directory)
        with signals.deferred():
            if privileges.may("put in place"):
                privileges.ask("put in place")
            else:
                _put_in_place(staged.directory, target)
            signals.finished()
    return _outcome(order.choice, staged, target)


def _like(target: Path) -> tuple[Path, int]:
    """What tells the owner of what is restored into a directory; and its mode."""
    return (target, target.stat().st_mode & 0o7777) if target.exists() else (target.parent, 0o750)


def _put_in_place(copy: Path, target: Path) -> None:
    if target.exists():
        files.remove_directory(target)
    files.rename(copy, target)
    files.sync(target.parent)


def make_within(target: Path, uid: int, gid: int) -> Path:
    """Makes a directory beside a target, or above it, in which a user works for root; removes those of the killed."""
    place = _reachable(target.parent, uid, gid)
    with files.directory(place) as parent:
        for name in filter(_WITHIN.fullmatch, os.listdir(parent)):
            # Anybody may have made one where everybody may write.
            with suppress(FileNotFoundError):
                owner = os.stat(name, dir_fd=parent, follow_symlinks=False).st_uid
                if owner in (0, uid) and not lock.is_held_directory(place / name):
                    files.remove_tree(place / name, ignore_errors=True)
    within = place / f".chromad-restore-{secrets.token_hex(8)}"
    files.make_directory(within, 0o700, (uid, gid))
    lock.hold_directory(within)
    return within


def _reachable(path: Path, uid: int, gid: int) -> Path:
    """The directory itself, or else the nearest one above it, on the same file system, that a user can get to."""
    blocked = [each for each in (path, *path.parents) if not _lets_pass(each.stat(), uid, gid)]
    place = blocked[-1].parent if blocked else path
    return place if place.stat().st_dev == path.stat().st_dev else path


def _lets_pass(status: os.stat_result, uid: int, gid: int) -> bool:
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IXUSR)
    return bool(status.st_mode & (stat.S_IXGRP if status.st_gid == gid else stat.S_IXOTH))


def steps(target: Path, within: Path, uid: int) -> dict[str, Step]:
    """What root does for a restore into a directory, by its word. uid: of the one who works for it."""

    def put_in_place() -> None:
        copy = copies.settled(within)
        like, mode = _like(target)
        owner = like.stat()
        with trees.taken_away(within):
            trees.give_tree(copy, uid, owner.st_uid, owner.st_gid)
            files.set_mode(copy, mode)
            given = copy.lstat()
            _put_in_place(copy, target)
            if not os.path.samestat(given, target.lstat()):
                raise PermissionProblem(f"something has taken the place of {target}", "look at it, then try again")

    return {"put in place": put_in_place}


def check_target(config: Config, target: Path) -> None:
    """Raises ConfigurationError when nothing can be restored into a directory. Root's part has looked before."""
    if privileges.may("put in place"):
        return
    if not target.is_absolute():
        raise ConfigurationError(f"the path {target} is relative", "give an absolute one")
    places = [config.data_dir, config.checkpoint_dir, config.quarantine_dir, config.backup.local_path]
    if target.resolve() == config.data_dir.resolve():
        # With nothing but a repository there is no other one.
        if config.checkpoint_dir.exists():
            raise ConfigurationError(f"{target} is data_dir", "chromactl restore without --target restores into it")
        places.remove(config.data_dir)
    for place in filter(None, places):
        if target.resolve().is_relative_to(place.resolve()):
            raise ConfigurationError(f"{target} lies inside {place}", "give a directory elsewhere")
    _check_new(target)


def _check_new(target: Path) -> None:
    """Raises what `check_target` would for what there is at a path."""
    if target.is_symlink():
        raise ConfigurationError(f"{target} is a symbolic link", f"give {target.resolve()}")
    if target.exists() and _is_mount_point(target.resolve()):
        raise ConfigurationError(f"{target} is a mount point and cannot be renamed", "give a new directory below it")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"{target} exists and is not an empty directory", "give a new one")
    if not target.parent.is_dir():
        raise ConfigurationError(f"{target.parent} does not exist", "create it first")
    if not os.access(target.parent, os.W_OK):
        raise PermissionProblem(f"{target.parent} is not writable for this user", "run as root")


def need_exact(notes: list[str], inexact: bool) -> None:
    """Raises BackupError when something is not exact and nobody has permitted that. notes: what that is."""
    if notes and not inexact:
        raise BackupError(
            "it cannot be exact:\n" + "\n".join(f"  {note}" for note in notes),
            "--inexact restores it all the same; nothing was touched",
        )


def check_place(config: Config) -> None:
    """Raises ConfigurationError or PermissionProblem when the data directory is not one that can be swapped."""
    data_dir = config.data_dir
    if not data_dir.is_dir():
        raise ConfigurationError(
            f"{data_dir} does not exist", "create it with the service's owner and mode first, or correct data_dir"
        )
    if data_dir.is_symlink():
        raise ConfigurationError(f"{data_dir} is a symbolic link", f"set data_dir to {data_dir.resolve()}")
    if _is_mount_point(data_dir):
        raise ConfigurationError(
            f"{data_dir} is a mount point and cannot be renamed",
            f"mount the volume at {data_dir.parent} or above, so that copies lie beside the data",
        )
    history.check_readable(config.checkpoint_dir)
    if not privileges.may("exchange") and not os.access(data_dir.parent, os.W_OK):
        raise PermissionProblem(f"{data_dir.parent} is not writable for this user", "run as root")


def check_service(config: Config, *, may_stop: bool, verb: str = "restore") -> bool:
    """Whether the service is to be stopped and started. Raises TryAgain when it runs and may not be stopped.

    verb: what chromactl was told to do.
    """
    running = ask_status(config.control_socket)
    supervised = running.supervised if running else service.available() and service.active()
    if (running or supervised) and not may_stop:
        raise TryAgain("the service is running", f"chromactl {verb} … --stop stops it, and starts it again afterwards")
    if running and not supervised:
        raise TryAgain(
            f"chromad runs outside systemd (pid {running.pid})", "stop it first, and start it again afterwards"
        )
    if supervised and not service.permitted():
        raise PermissionProblem(f"only root may stop {service.UNIT}", f"sudo chromactl {verb} …")
    return bool(supervised)


def _outcome(choice: Choice, staged: Staged, directory: Path) -> Restored:
    """Of a new directory."""
    return Restored(
        choice.snapshot.id,
        staged.manifest.created,
        len(staged.entries),
        sum(entry.records for entry in staged.entries),
        directory,
        replaced=None,
        restarted=False,
        changed=[],
        notes=staged.notes,
    )


def dress(directory: Path, engine_version: str, like: Path, mode: int, former: str = "") -> None:
    """Gives a staged directory a history of its own, an owner and modes, and puts it on disk. mode: of the directory itself.
    former: the history that it was restored from."""
    state.write(directory, state.clean(state.new_data_id(), engine_version, state.mark(directory), former))
    hand_over(directory, like, mode)


def hand_over(directory: Path, like: Path, mode: int) -> None:
    """Gives all in a directory the owner that `like` has, unless root's part does, and modes, and puts it on disk. mode: of the
    directory itself."""
    owner = like.stat()
    for path in (directory, *directory.rglob("*")):
        os.chmod(path, 0o750 if path.is_dir() else 0o640)
        if not privileges.split():
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        if path.is_dir():
            files.fsync_path(path)
        else:
            files.fsync_file(path)
    os.chmod(directory, mode)
    files.fsync_path(directory.parent)


def _is_mount_point(path: Path) -> bool:
    # Path.is_mount does not see a directory of the same file system that is mounted here.
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines())
    return str(path) in (re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point) for point in points)


def _changed(config: Config, entries: list[CollectionEntry]) -> list[str]:
    """The collections that are served otherwise than the backup has them: clients are at work since the start."""
    api = Api(ways.of_service(config))
    changed = []
    for entry in entries:
        try:
            count = api.count(entry.tenant, entry.database, entry.id)
        except NotFound:
            changed.append(f"{entry.name}: deleted")
        except (EngineError, OSError) as error:
            changed.append(f"{entry.name}: not counted, {error}")
        else:
            if count != entry.records:
                changed.append(f"{entry.name}: {count} records, {entry.records} in the backup")
    return changed
