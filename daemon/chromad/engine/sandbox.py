"""The sandbox of the engines that a verb of root's starts: a unit of systemd's own, as tight as the service's.

Such an engine opens what came out of a repository or out of somebody else's directory. As a child of the part that works for
root it would be the service user, but see all of the host, and write wherever that user may. So root's part starts it, asked by
a word, in a transient unit; what it may write there is said by root's part alone: the copy that the verb works on.

Not all of the part that works is in such a unit: it needs root's terminal, a repository on the network, and what only root could
read before, so it would have to be told everything once more. And the properties are not read from the unit that is installed:
it is of another release during an upgrade, and there is none where nothing is left but a repository. They stand here, and a test
compares them with the unit.

The unit ends with those whom it is for: its process, `room`, has a socket to the one that works and ends when that is
closed, and root's part kills what is left of it. Where systemd, or its bus, does not run, an engine is a child as before: the
service user, without a way to more rights.
"""

import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from chromad.engine import binds
from chromad.engine.room import ENDED, STARTED
from chromad.host import privileges, service
from chromad.host.privileges import Account, Descriptors, Step

# As in chromadb.service, but for what is said beside it
PROPERTIES = (
    "LimitNOFILE=1048576",
    "LimitCORE=0",
    "OOMPolicy=stop",
    "UMask=0077",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "PrivateUsers=yes",
    "PrivateIPC=yes",
    "PrivateMounts=yes",
    "IPAddressDeny=any",
    "IPAddressAllow=localhost",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "RemoveIPC=yes",
    # No AF_UNIX: it talks to nobody but us, and the user who has called sudo may be of a group with a socket such as Docker's.
    "RestrictAddressFamilies=AF_INET AF_INET6",
    "RestrictNamespaces=net user",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "SystemCallFilter=capset",
    "SystemCallErrorNumber=EPERM",
)

_WORD = "engine"
_BUS = Path("/run/dbus/system_bus_socket")
# How long systemd may take to answer on a slow host; its own limit is 25 s
_ANSWER = "10min"
_END = 10.0  # seconds that a unit may take to end when nobody needs it any more
_SOON = 1.0  # the same, when somebody has tried several times to end the verb
_TICK = 0.2  # seconds
_LONGEST = 64  # bytes of a message
_LOST = 1


def available() -> bool:
    """Whether units can be started on this host."""
    return service.available() and shutil.which("systemd-run") is not None and _BUS.is_socket()


def wanted() -> bool:
    """Whether an engine of ours is to be started by root's part."""
    return privileges.may(_WORD)


class Units:
    """Root's part: starts the units, and sees that they end."""

    def __init__(self, account: Account, places: Callable[[], Iterable[Path]]) -> None:
        """account: whom the engines run as. places: directories in which they may write, asked for at each start; those that
        are not there do not count."""
        self._account = account
        self._places = places
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def steps(self) -> dict[str, Step]:
        """What root does for a verb that works as the service user, by its word: nothing where there are no units."""
        return {_WORD: self._start} if available() else {}

    def end(self) -> None:
        """No process of theirs is left after that."""
        for name, process in self._running.items():
            for _ in range(2):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_SOON if privileges.given_up() else _END)
                    break
                # Somebody may have stopped it: then it hears nothing.
                subprocess.run(
                    ["systemctl", "kill", "--signal=SIGKILL", name],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=False,
                )

    def _start(self) -> Descriptors:
        """Gives a socket to the unit's process, and its standard output and error to be read. That process has begun by then."""
        name = f"chromadb-engine-{secrets.token_hex(8)}"
        account = self._account
        programs = [Path(each) for each in dict.fromkeys((sys.prefix, sys.base_prefix))]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as stack:
            stack.enter_context(ours)
            paths = stack.enter_context(binds.held(name, self._places(), programs))
            with theirs:
                process = subprocess.Popen(
                    [
                        *("systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={name}.service"),
                        *("--description=Engine of chromactl", f"--uid={account.uid}", f"--gid={account.gid}"),
                        *(f"--property={each}" for each in (*PROPERTIES, *paths)),
                        *("--", sys.executable, "-I", "-m", "chromad.engine.room"),
                    ],
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_BUS_TIMEOUT": _ANSWER},
                    # Ctrl-C in a terminal reaches us alone.
                    start_new_session=True,
                )
            self._running[f"{name}.service"] = process
            _await(ours, process)
            assert process.stdout and process.stderr
            with process.stdout as output, process.stderr as errors:
                return Descriptors([ours.detach(), os.dup(output.fileno()), os.dup(errors.fileno())])


def _await(pipe: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    """Until the unit's process has begun, or never will: then the one that works learns it from the pipe."""
    while not select.select([pipe], [], [], _TICK)[0]:
        if process.poll() is not None or privileges.given_up():
            return
    pipe.recv(_LONGEST)


class SandboxedProcess:
    """An engine in such a unit, for the part that works; what it has in common with subprocess.Popen is as there.

    lost: the unit has ended, or was never had, and the engine with it.
    """

    def __init__(self, environment: Mapping[str, str], descriptors: Sequence[int]) -> None:
        """descriptors: of its configuration, of its directory's lock, and of its door."""
        pipe, output, errors = privileges.ask(_WORD)
        self._pipe = socket.socket(fileno=pipe)
        self._lock = threading.Lock()
        self.stdout: IO[str] = os.fdopen(output, encoding="utf-8", errors="replace")
        self.stderr: IO[str] = os.fdopen(errors, encoding="utf-8", errors="replace")
        self.pid = 0
        self.returncode: int | None = None
        self.lost = False
        with suppress(OSError):  # it is gone, which is heard
            socket.send_fds(self._pipe, [json.dumps(environment).encode()], descriptors, socket.MSG_NOSIGNAL)

    def poll(self) -> int | None:
        """The code with which it ended."""
        with self._lock:
            while self.returncode is None:
                try:
                    told = self._pipe.recv(_LONGEST, socket.MSG_DONTWAIT).decode()
                except BlockingIOError:
                    break
                except OSError:
                    told = ""
                what, _, number = told.partition(" ")
                if what == STARTED:
                    self.pid = int(number)
                    continue
                self.lost = what != ENDED
                self.returncode = _LOST if self.lost else int(number)
                # With that the unit ends.
                with suppress(OSError):
                    self._pipe.shutdown(socket.SHUT_RDWR)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Returns the code when it has ended. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = _TICK if deadline is None else min(_TICK, deadline - time.monotonic())
            if timeout is not None and left <= 0:
                raise subprocess.TimeoutExpired("engine", timeout)
            select.select([self._pipe], [], [], left)
        return code

    def terminate(self) -> None:
        """Asks it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with suppress(OSError):
            self._pipe.send(str(int(number)).encode(), socket.MSG_NOSIGNAL)
