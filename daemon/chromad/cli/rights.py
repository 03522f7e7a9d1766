"""Who does the work of a verb that root has started, see `privileges`."""

import os
import pwd
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from chromad import service
from chromad.cli import ui
from chromad.config import Config
from chromad.errors import PermissionProblem
from chromad.host import privileges
from chromad.host.privileges import Account, Step
from chromad.store import swap

# Users of hosts without data of the service, the first one that there is
_OTHERS = ("chromadb", "nobody")


def owner(config: Config, *, strict: bool = True) -> Account | None:
    """Whom a verb that root starts works as: the owner of the data. None to go on as we are: not root, or nobody's data but
    root's. strict: raise PermissionProblem for data of root's which the configuration does not permit."""
    if os.geteuid() != 0:
        return None
    for path in (config.data_dir, config.checkpoint_dir):
        try:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode) and status.st_uid != 0:
                raise PermissionProblem(f"{path} is a symbolic link that root has not made", "name what it points to")
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_uid != 0:
            return Account(status.st_uid, status.st_gid)
        if strict and not config.allow_root:
            raise PermissionProblem(f"{path} belongs to root", "give it to the service's user, or set allow_root: true")
        return None
    return None


def become_owner(
    config: Config,
    steps: Mapping[str, Step] | None = None,
    *,
    account: Account | None = None,
    ended: Callable[[], None] = lambda: None,
    strict: bool = True,
) -> None:
    """As root, goes on as the owner of the data, for good; what root has to do is done by `privileges.part`. Comes after
    everything that only root can read has been read.

    steps: beside those of the service and of the exchange of directories. account: another one than the owner. ended: called at
    the end, as root.
    """
    account = account or owner(config, strict=strict)
    if account is None or privileges.split():
        return
    known = {**service.steps(), **swap.steps(config.data_dir), **(steps or {})}
    privileges.part(account, known, ended, lambda text: ui.err.print(f"ERROR: {text}", style="red", markup=False))


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
