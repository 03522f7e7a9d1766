"""The systemd unit, for verbs that stop and start it."""

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

from chromad.errors import ChromadError, PermissionProblem
from chromad.host import privileges, signals
from chromad.host.privileges import Step

UNIT = "chromadb.service"
_TICK = 0.2  # seconds


class LeftOff(ChromadError):
    """Nobody waits any more for what systemd was asked for; it goes on with it."""


def available() -> bool:
    """Whether systemd runs this host (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def active() -> bool:
    """Whether the unit runs, is being started, or is about to be started again."""
    state = subprocess.run(
        ["systemctl", "is-active", UNIT], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    ).stdout.strip()
    return state in ("active", "activating", "reloading", "deactivating")


def permitted() -> bool:
    """Whether we may control the unit: as root, or with root's part of this program, see `privileges`."""
    return os.geteuid() == 0 or privileges.may("stop")


def need_root(action: str) -> None:
    """Raises PermissionProblem for users who may not control the unit."""
    if not permitted():
        raise PermissionProblem(f"only root may {action} {UNIT}", f"sudo chromactl … (it runs systemctl {action})")


def control(action: str) -> None:
    """Runs `systemctl start`, `stop` or `restart` on the unit and waits for it, whatever signals come. Raises when it fails, and
    LeftOff in root's part when whoever wanted it was killed."""
    need_root(action)
    if privileges.may(action):
        privileges.ask(action)
        return
    with signals.deferred():
        result = _wait_for(action)
    if result.returncode:
        raise ChromadError(f"systemctl {action} {UNIT} failed: {result.stderr.strip()}", f"journalctl -u {UNIT} -n 50")


def _wait_for(action: str) -> "subprocess.CompletedProcess[str]":
    options = ["--no-block"] if privileges.given_up() else []
    # In a session of its own: Ctrl-C in a terminal reaches us alone.
    process = subprocess.Popen(
        ["systemctl", action, *options, UNIT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while True:
        try:
            _, errors = process.communicate(timeout=_TICK)
        except subprocess.TimeoutExpired:
            if privileges.given_up() and not options:
                process.kill()
                process.communicate()
                raise LeftOff(
                    f"nobody waits any more for systemctl {action} {UNIT}, which goes on", f"systemctl status {UNIT}"
                ) from None
        else:
            return subprocess.CompletedProcess(process.args, process.returncode, stderr=errors)


def steps() -> dict[str, Step]:
    """What root does for a verb that works as the service user, by its word."""
    return {action: partial(control, action) for action in ("start", "stop", "restart")}
