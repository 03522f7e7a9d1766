"""What the checks of a host look at, and small questions that several of them ask."""

import grp
import pwd
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from chromad import control
from chromad.config import Config
from chromad.control.messages import StatusReport
from chromad.errors import ChromadError, PermissionProblem, TryAgain
from chromad.host import service


@dataclass(frozen=True)
class Host:
    """path: of the configuration file. answer: what the running daemon says of itself, None when none runs. loaded: the
    configuration that it runs with. silent: why it says nothing although it runs."""

    config: Config
    path: Path
    answer: StatusReport | None = None
    loaded: Config | None = None
    silent: str = ""


def loaded(config: Config) -> Config | None:
    """The configuration that the daemon runs with; None when it is of another version, which does not say or is not understood.

    Raises TryAgain and PermissionProblem as `control.ask`: then nothing is known of it.
    """
    try:
        return Config.model_validate(control.ask(config.control_socket, "configuration"))
    except (TryAgain, PermissionProblem):
        raise
    except (ChromadError, ValidationError):
        return None


def user_name(uid: int) -> str:
    """The name of a user, `uid N` where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def group_name(uid: int) -> str:
    """The name of a user's own group, `the group of uid N` where there is none."""
    try:
        return grp.getgrgid(pwd.getpwuid(uid).pw_gid).gr_name
    except KeyError:
        return f"the group of {user_name(uid)}"


def service_user() -> pwd.struct_passwd | None:
    """The user of the service's unit, or of the name that it has by default; None where there is none."""
    name = ""
    with suppress(subprocess.TimeoutExpired):  # systemd does not answer
        name = unit_properties(service.UNIT, "User").get("User", "")
    try:
        return pwd.getpwnam(name or "chromadb")
    except KeyError:
        return None


def unit_properties(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit as `systemctl show` gives them; empty where systemd does not run this host or has no such unit."""
    if not service.available():
        return {}
    asked = ["systemctl", "show", unit, f"--property=LoadState,{','.join(names)}"]
    result = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=10)
    found = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
    return found if found.get("LoadState") == "loaded" else {}
