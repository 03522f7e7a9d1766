"""Who does the work of a verb that root has started, see `privileges`."""

import os
import pwd
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from chromad.checks import host
from chromad.cli import ui
from chromad.config import Config
from chromad.engine import sandbox
from chromad.errors import ChromadError, PermissionProblem
from chromad.host import privileges, service
from chromad.host.privileges import Account, Step
from chromad.store import copies, swap

# Users of hosts without data of the service, the first one that there is
_OTHERS = ("chromadb", "nobody")


def owner(config: Config, *, strict: bool = True) -> Account | None:
    """Whom a verb that root starts works as: the owner of the data, or `somebody` where there are none. None to go on as we are:
    not root, or data of root's, or none, where the configuration permits that they are root's. strict: raise PermissionProblem
    for data of root's which it does not permit; else they are taken for the service user's, who cannot see much of them."""
    if os.geteuid() != 0:
        return None
    for path in (config.data_dir, config.checkpoint_dir):
        try:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                if status.st_uid != 0:
                    raise PermissionProblem(
                        f"{path} is a symbolic link that root has not made", "name what it points to"
                    )
                status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_uid != 0:
            return Account(status.st_uid, _group(status))
        if config.allow_root:
            return None
        if strict:
            raise PermissionProblem(f"{path} belongs to root", "give it to the service's user, or set allow_root: true")
        found = host.service_user()
        return Account(found.pw_uid, found.pw_gid) if found and found.pw_uid else somebody(config.backup.local_path)
    return None if config.allow_root else somebody(config.backup.local_path)


def _group(status: os.stat_result) -> int:
    """The group of the owner of a directory: its own one says nothing, the owner could have given it to any of theirs."""
    try:
        gid = pwd.getpwuid(status.st_uid).pw_gid
    except KeyError:  # as in a container
        gid = status.st_gid
    if gid == 0:
        raise PermissionProblem(
            f"the data belong to {status.st_uid}, whose group is root's", "give that user a group of its own"
        )
    return gid


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class RootPart:
    """What stays with root. steps: by their words, beside those of the service and of the exchange of directories. ended: called
    at the end. places: directories that engines are to work on, beside the copy that is exchanged and those of backups. resumes:
    the verb itself puts right what one that was killed has left, before the service starts."""

    steps: Mapping[str, Step] = field(default_factory=dict)
    ended: Callable[[], None] = _nothing
    places: Callable[[], Iterable[Path]] = tuple
    resumes: bool = False


_PLAIN = RootPart()


def become_owner(
    config: Config, root: RootPart = _PLAIN, *, account: Account | None = None, strict: bool = True
) -> None:
    """As root, goes on as the owner of the data, for good; what root has to do is done by `privileges.part`. Comes after
    everything that only root can read has been read.

    account: another one than the owner.
    """
    account = account or owner(config, strict=strict)
    if account is None or privileges.split():
        return
    unit = _Unit(config.data_dir, resumes=root.resumes)
    known = {**unit.steps(), **swap.steps(config.data_dir), **root.steps}
    beside = copies.settled(copies.location(config.data_dir))
    engines = sandbox.Units(account, lambda: (beside, config.backup_dir, *root.places()))

    def end() -> None:
        try:
            engines.end()
        finally:
            root.ended()

    tell = partial(ui.err.print, style="red", markup=False)
    privileges.part(account, {**known, **engines.steps()}, end, lambda text: tell(f"ERROR: {text}"), unit.killed)


class _Unit:
    """The service, which root's part stops and starts. One that was stopped for somebody who is killed would stay so."""

    def __init__(self, data_dir: Path, *, resumes: bool) -> None:
        self._resumes = resumes
        self._data_dir = data_dir
        # The data that it was stopped with
        self._stopped: tuple[int, int] | None = None
        # What systemd goes on with, and how one learns what becomes of it
        self._left_off = ""

    def steps(self) -> dict[str, Step]:
        """Those of the service, by their words."""
        known = service.steps()

        def stop() -> None:
            self._stopped = self._stopped or self._data()
            known["stop"]()

        def start() -> None:
            self._start(known["start"])
            self._stopped = None

        return {"stop": stop, "start": start, "restart": partial(self._start, known["restart"])}

    def _start(self, step: Step) -> None:
        try:
            step()
        except service.LeftOff as error:
            self._left_off = f"{error.message}: {error.hint}"
            raise

    def killed(self) -> str:
        """Starts it again where the data are those that it was stopped with; gives what there is to say."""
        if self._left_off or not self._stopped:
            return self._left_off
        try:
            if self._resumes or self._data() != self._stopped:
                return f"{service.UNIT} is stopped, and the data or the environment may be others: give the same command again"
            service.control("start")
        except (ChromadError, OSError) as error:
            told = error.message if isinstance(error, ChromadError) else str(error)
            return f"{service.UNIT} is stopped: {told}; look at chromactl doctor, then systemctl start {service.UNIT}"
        return f"{service.UNIT}, which was stopped for it, is {'being ' if privileges.given_up() else ''}started again"

    def _data(self) -> tuple[int, int]:
        try:
            status = self._data_dir.stat()
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino


def somebody(repository: Path | None) -> Account:
    """Whom root works as where no data tell: the owner of a repository on this host, the user who has called sudo, the service's
    user, or nobody."""
    uid = int(found) if (found := os.environ.get("SUDO_UID", "")).isdecimal() else 0
    if repository and repository.is_dir():
        uid = repository.stat().st_uid or uid
    for entry in pwd.getpwall() if uid else ():
        if entry.pw_uid == uid:
            return Account(uid, entry.pw_gid)
    for name in _OTHERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise PermissionProblem("there is no user to work as", "run as another user than root")
