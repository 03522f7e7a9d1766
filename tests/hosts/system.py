"""What the other modules share: errors, commands, locks and the tools of the controller."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import packages

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path("/var/cache/chromad-test")
STATE = Path("/var/lib/chromad-test")
RUN = Path("/run/chromad-test")

_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}
_DEBIAN_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class HostsError(Exception):
    """A failure to tell the user in one line, with a hint how to get further."""

    def __init__(self, message: str, hint: str = "") -> None:
        """Take the fact and, when there is one, the way out."""
        super().__init__(message)
        self.message = message
        self.hint = hint


def run(*command: str | Path, timeout: float | None = None) -> str:
    """Run a command and give its standard output; HostsError with the end of its errors when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise HostsError(f"{' '.join(map(str, command))}: no answer within {timeout:.0f} s") from None
    if done.returncode:
        said = " | ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise HostsError(f"{' '.join(map(str, command[:4]))} … exit {done.returncode}: {said}")
    return done.stdout


def prepare_controller() -> None:
    """Make sure that this machine can boot hosts: root, the right to mount, and the tools (installed when missing)."""
    if os.geteuid() != 0:
        raise HostsError("test hosts need root", "run it with sudo; make test-fast needs no root")
    missing = sorted({package for tool, package in _TOOLS.items() if not shutil.which(tool)})
    if not _DEBIAN_KEYS.exists():
        missing.append("debian-archive-keyring")
    try:
        packages.install(missing)
    except packages.Missing as error:
        raise HostsError(str(error), "the controller must be a Debian or Ubuntu") from None
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        raise HostsError(
            "this machine does not allow mounts (no CAP_SYS_ADMIN), so no host can be booted",
            "run it on a machine or virtual machine, or in a privileged container",
        )


def digest(*parts: str | bytes) -> str:
    """Give the cache key of the parts: the first 12 hexadecimal digits of their SHA-256."""
    whole = b"\0".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(whole).hexdigest()[:12]


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold a lock among the processes of this tool; the kernel drops it when the holder dies."""
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Give a temporary directory that becomes target when the block ends well, and vanishes when it does not."""
    temporary = target.with_name(f"{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file with its mode from the first moment, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as handle:
        handle.write(text)
