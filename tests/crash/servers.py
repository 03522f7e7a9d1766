"""The services under test: chromad, and Chroma's own server for comparison, on the same kind of site."""

import json
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import Protocol

from tests.crash import api, processes
from tests.integration import account as accounts
from tests.integration.account import BIN, Account, current, popen
from tests.integration.daemon import Daemon
from tests.integration.site import Site

_START_LIMIT = 60.0
# What systemd does by itself is no help: Restart=on-failure, but not after these (systemd/chromadb.service).
_RESTARTS = 3
_NO_RESTART = (77, 78)


class NeedsHelp(Exception):
    """The service does not come back by itself."""


class Server(Protocol):
    """One service on one site. boot_id: of the boot that it believes to be in; a power cut gives it another one."""

    name: str
    site: Site
    boot_id: str

    def start(self) -> None:
        """Starts the process and returns at once."""

    def is_ready(self) -> bool:
        """Whether clients may come."""

    def phase(self) -> str:
        """What it last said that it does."""

    def ask(self, verb: str) -> socket.socket | None:
        """Sends a request to the control socket; None where there is none."""

    @property
    def process(self) -> "subprocess.Popen[bytes]": ...


class Chromad:
    """The daemon, told of its boot by the environment or, `honest`, by the kernel's file in a mount namespace.

    wrapper: a command that executes the daemon in its place; as root it runs as root.
    """

    name = "chromad"

    def __init__(self, site: Site) -> None:
        self.site = site
        self.boot_id = str(uuid.uuid4())
        self.honest = False
        self.wrapper: list[str] = []
        self._daemon: Daemon | None = None

    def start(self) -> None:
        if self._daemon:
            self._daemon.notify.close()
        boot = {"CHROMAD_BOOT_ID": self.boot_id}
        if self.honest:
            self._daemon = self.site.start(account=current(), wrapper=self._namespace())
        elif self.wrapper:
            self._daemon = self.site.start(boot, current(), [*self.wrapper, *_becoming(self.site.account)])
        else:
            self._daemon = self.site.start(boot)

    def is_ready(self) -> bool:
        assert self._daemon
        return "READY=1" in self._daemon.notify.lines

    def phase(self) -> str:
        assert self._daemon
        statuses = self._daemon.notify.statuses()
        return statuses[-1].split()[0].rstrip(":") if statuses else "before its first words"

    def ask(self, verb: str) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(10)
        try:
            connection.connect(str(self.site.control))
            connection.sendall(json.dumps({"verb": verb}).encode() + b"\n")
        except OSError:
            connection.close()
            return None
        return connection

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._daemon
        return self._daemon.process

    def _namespace(self) -> list[str]:
        file = self.site.run / "boot_id"
        file.write_text(f"{self.boot_id}\n", encoding="ascii")
        file.chmod(0o444)
        script = f'mount --bind {file} /proc/sys/kernel/random/boot_id && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", *_becoming(self.site.account)]


class Stock:
    """`chroma run`."""

    name = "stock"

    def __init__(self, site: Site) -> None:
        self.site = site
        self.boot_id = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def start(self) -> None:
        command: list[str | Path] = [BIN / "chroma", "run", "--path", self.site.data, "--port", str(self.site.port)]
        with open(self.site.root / f"log-stock-{self._starts}", "wb") as output:
            self._process = popen(command, self.site.account, output, {"HOME": str(self.site.run)})
        self._starts += 1

    def is_ready(self) -> bool:
        return api.heartbeat(self.site.port)

    def phase(self) -> str:
        return "serving" if self.is_ready() else "starting"

    def ask(self, verb: str) -> socket.socket | None:
        return None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process
        return self._process


KINDS: dict[str, type[Chromad] | type[Stock]] = {kind.name: kind for kind in (Chromad, Stock)}


def _becoming(account: Account) -> list[str]:
    """The command that executes another one as a user, or nothing for who is that user."""
    if account == current():
        return []
    words = ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
    if accounts.doors_are_open:
        words += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return words


def kill(server: Server) -> None:
    """Ends all processes of the service at once."""
    processes.kill(server.process)


def terminate(server: Server) -> None:
    """Asks the service to stop, and does not wait."""
    server.process.send_signal(signal.SIGTERM)


def await_ready(server: Server) -> tuple[float, int]:
    """Seconds until a service that was just started takes clients, and how often it had to be restarted, as systemd does.

    Raises NeedsHelp when it does not get so far.
    """
    began = time.monotonic()
    restarts = 0
    while True:
        if server.is_ready():
            return time.monotonic() - began, restarts
        code = server.process.poll()
        if code is not None:
            kill(server)
            if code in _NO_RESTART or restarts == _RESTARTS:
                raise NeedsHelp(f"exit {code} after {restarts} restarts")
            restarts += 1
            server.start()
        if time.monotonic() - began > _START_LIMIT:
            kill(server)
            raise NeedsHelp(f"not ready after {_START_LIMIT:.0f} s")
        time.sleep(0.002)
