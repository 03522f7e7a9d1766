"""Owners and modes of everything that the service reads and writes."""

import os
import pwd
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from chromad import errors
from chromad.checks import Fix, Result, drift, fail, gateway, ok, skip, tokens, warn
from chromad.checks.host import Host, group_name, service_user, user_name
from chromad.errors import ChromadError, ConfigurationError, PermissionProblem, one_line
from chromad.host import files, privileges, service, trees
from chromad.host.privileges import Step
from chromad.maintenance import environment

_SHOWN = 5
_LONGEST = 1000  # characters of names that anybody may have chosen
# Where the role puts what calls the service's programs, and their manual
_WRAPPERS = (Path("/usr/local/bin/chromactl"), Path("/usr/local/bin"))
_MANUAL = Path("/usr/local/share/man")


def look(host: Host) -> Iterator[Result]:
    """As `check`, by the part of this program that may see all of it."""
    if not privileges.may("look at files"):
        yield from check(host)
        if os.geteuid() == 0:
            yield from tokens.check(host)
            yield from gateway.check(host)
        return
    done: dict[str, str] = {}

    def mend(what: str) -> None:
        if not done:
            # All of what was shown
            done.update(privileges.ask("mend files"))
        if problem := done.get(what, ""):
            raise ChromadError(problem)

    for name, status, fact, hint, kind, data, what in privileges.ask("look at files"):
        fix = Fix(what, partial(mend, what)) if what else None
        yield Result(name, status, fact, hint, getattr(errors, kind), data, fix)


def steps(host: Host, *, fix: bool) -> dict[str, Step]:
    """What root does for a doctor that works as the service user, by its word: it looks at owners and modes. fix: and sets
    them."""

    def see() -> list[list[object]]:
        return [
            [
                each.name,
                each.status,
                each.fact,
                each.hint,
                each.error.__name__,
                dict(each.data),
                each.fix and each.fix.what,
            ]
            for each in (*check(host), *tokens.check(host), *gateway.check(host), *drift.programs())
        ]

    def mend() -> dict[str, str]:
        return {each.fix.what: _outcome(each.fix) for each in check(host) if each.fix}

    return {"look at files": see, **({"mend files": mend} if fix else {})}


def _outcome(fix: Fix) -> str:
    try:
        fix.do()
    except (ChromadError, OSError) as error:
        return one_line(str(error), _LONGEST)
    return ""


def check(host: Host) -> Iterator[Result]:
    """Directories, what is in them, the way to them, and the files that hold secrets."""
    config = host.config
    data_dir = config.data_dir
    if not data_dir.is_dir():
        yield fail(
            "data_dir",
            ConfigurationError,
            f"{data_dir} is not a directory",
            "mount or create it, or correct data_dir",
        )
        return
    owner = _service_user(host)
    if owner == 0 and not config.allow_root:
        fact = f"{data_dir} belongs to root, and nothing tells here whose it should be"
        yield fail("owner", PermissionProblem, fact, f"chown -R the service's user: {shlex.quote(str(data_dir))}")
    tops = [data_dir, config.checkpoint_dir, config.quarantine_dir]
    for top in tops:
        if top.is_dir():
            yield _strangers(top, owner)
            yield _directory_mode(top)
        else:
            yield _missing(top, owner)
    blocked = [path for path in data_dir.parents if not _may_pass(path, owner)]
    if blocked:
        fact = f"{user_name(owner)} cannot pass {blocked[-1]}, which is above {data_dir}"
        yield fail("parents", PermissionProblem, fact, f"chmod o+x {shlex.quote(str(blocked[-1]))}")
    else:
        yield ok("parents", f"{user_name(owner)} can reach {data_dir}")
    yield from _above(host, owner)
    yield _programs(owner)
    yield _configuration_file(host.path, owner)
    backup = config.backup
    for secret in (backup.password_file, backup.environment_file, backup.copy_to and backup.copy_to.password_file):
        if secret and secret.exists():
            yield _secret(secret)


def _service_user(host: Host) -> int:
    """Whose the data should be: their owner's, or the service's user where root has taken them."""
    uid = host.config.data_dir.stat().st_uid
    if uid or host.config.allow_root:
        return uid
    found = service_user()
    return found.pw_uid if found else uid


def _missing(top: Path, owner: int) -> Result:
    command = f"install -d -m 0750 -o {user_name(owner)} -g {group_name(owner)} {shlex.quote(str(top))}"
    fix = Fix(command, lambda: files.make_directory(top, 0o750, (owner, _group(owner))))
    return warn("directories", f"{top} does not exist", command, fix=fix)


def _strangers(top: Path, owner: int) -> Result:
    try:
        found = [path for path, uid in trees.owners(top) if uid != owner]
    except OSError as error:
        # The others are looked at all the same.
        fact = f"{top} cannot be looked through: {error.strerror}"
        return fail("owner", PermissionProblem, fact, f"find {shlex.quote(str(top))} shows what is there")
    if not found:
        return ok("owner", f"all below {top} belongs to {user_name(owner)}")
    names = one_line(", ".join(map(str, found[:_SHOWN])), _LONGEST) + (" …" if len(found) > _SHOWN else "")
    count = "1 file" if len(found) == 1 else f"{len(found)} files"
    fact = f"{count} at or below {top} not of {user_name(owner)}: {names}"
    command = f"chown -R {user_name(owner)}: {shlex.quote(str(top))}"
    fix = Fix(command, lambda: trees.take_tree(top, owner, _group(owner))) if owner else None
    return fail("owner", PermissionProblem, fact, command, {"files": len(found)}).with_fix(fix)


def _above(host: Host, owner: int) -> Iterator[Result]:
    """Where the service user could put a link in the place of one of its own directories, for root to follow."""
    config = host.config
    tops = filter(None, (config.data_dir, config.checkpoint_dir, config.backup.local_path))
    found = dict.fromkeys(path for top in tops for path in top.parents if may_change(path, owner))
    if owner != 0 and service.available():
        for path in found:
            fact = f"{user_name(owner)} can change {path}, and so put a link in the place of a directory that root works in"
            yield warn("parents", fact, f"chown root {shlex.quote(str(path))}")


def _programs(owner: int) -> Result:
    """What root runs and reads by the way, which the service user must not be able to change."""
    top = Path(sys.prefix).resolve()
    if owner == 0 or (top.stat().st_uid == owner and not service.available()):
        return skip("programs", f"{top} is not root's, or the service runs as root")
    looked = dict.fromkeys((*_environments(top), *top.parents, *_called(), *_manual()))
    found = [path for path in looked if may_change(path, owner)]
    if not found:
        return ok("programs", f"{user_name(owner)} can change neither {top} nor what is called from it")
    names = ", ".join(map(str, found[:_SHOWN])) + (" …" if len(found) > _SHOWN else "")
    return fail(
        "programs",
        PermissionProblem,
        f"{user_name(owner)} can change what root runs: {names}",
        f"chown -h root and chmod go-w these, when you know what is in them; {top}: apply playbooks/site.yml again",
    )


def _environments(top: Path) -> Iterator[Path]:
    """All of an environment; of those beside it as well, between which an upgrade switches, with the link and its journal."""
    yield from _everything(top)
    try:
        home = environment.home()
    except ConfigurationError:
        return
    yield from (home, home.parent / "venv")
    for path in sorted(home.iterdir()):
        yield from _everything(path)


def _called() -> Iterator[Path]:
    """Where the role puts what calls the programs, and what root finds in its own path."""
    yield from _WRAPPERS
    for name in ("chromactl", "chromad", "chroma"):
        if found := shutil.which(name):
            path = Path(os.path.abspath(found))
            yield from (path, *path.parents, path.resolve())


def _manual() -> Iterator[Path]:
    """The manual pages, and the directories that they are in."""
    yield from (_MANUAL, *_MANUAL.parents)
    for directory in _MANUAL.glob("man*"):
        yield directory
        yield from directory.glob("chrom*")


def may_change(path: Path, uid: int) -> bool:
    """Whether a user may write a file, or put another one into a directory; not what is there no more."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    mode = status.st_mode
    if status.st_uid == uid or stat.S_ISLNK(mode) or mode & stat.S_ISVTX:
        return status.st_uid == uid
    groups = os.getgrouplist(user_name(uid), _group(uid)) if mode & stat.S_IWGRP else []
    return bool(mode & stat.S_IWOTH) or status.st_gid in groups


def _everything(top: Path) -> Iterator[Path]:
    yield top
    for directory, names, plain in os.walk(top):
        yield from (Path(directory, name) for name in (*names, *plain))


def _directory_mode(path: Path) -> Result:
    mode = stat.S_IMODE(path.stat().st_mode)
    command, fix = _chmod(path, 0o750)
    data = {"mode": f"{mode:04o}"}
    if mode & 0o022:
        return fail("mode", PermissionProblem, f"others can write {path} ({mode:04o})", command, data).with_fix(fix)
    if mode & 0o007:
        return warn("mode", f"others can read {path} ({mode:04o})", command, data, fix)
    return ok("mode", f"{path} has mode {mode:04o}", data)


def _configuration_file(path: Path, owner: int) -> Result:
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022:
        command, fix = _chmod(path, mode & ~0o022)
        return fail("mode", PermissionProblem, f"others can write {path} ({mode:04o})", command).with_fix(fix)
    if status.st_uid == owner != 0 and status.st_uid != os.geteuid():
        hint = f"chown root {shlex.quote(str(path))}"
        return warn("mode", f"{path} belongs to {user_name(owner)}, so the service could change it", hint)
    return ok("mode", f"{path} has mode {mode:04o}")


def _secret(path: Path) -> Result:
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & 0o077:
        return ok("mode", f"{path} is for its owner alone")
    command, fix = _chmod(path, 0o400)
    return fail("mode", PermissionProblem, f"{path} holds a secret, and has mode {mode:04o}", command).with_fix(fix)


def _chmod(path: Path, mode: int) -> tuple[str, Fix]:
    command = f"chmod {mode:04o} {shlex.quote(str(path))}"
    return command, Fix(command, lambda: files.set_mode(path, mode))


def _may_pass(path: Path, uid: int) -> bool:
    status = path.stat()
    if uid in (0, status.st_uid):
        return uid == 0 or bool(status.st_mode & stat.S_IXUSR)
    groups = os.getgrouplist(user_name(uid), _group(uid))
    return bool(status.st_mode & (stat.S_IXGRP if status.st_gid in groups else stat.S_IXOTH))


def _group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return -1
