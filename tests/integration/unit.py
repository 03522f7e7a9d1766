"""A systemctl that knows one unit: the daemon of a site. It is found by way of PATH, and asks the test, which does the work."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.integration.account import BIN, current
from tests.integration.site import Result, Site

_PROGRAM = """#!{python} -IS
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({path!r})
connection.sendall(sys.argv[1].encode() + b"\\n")
code, _, text = connection.makefile().read().partition("\\n")
print(text, end="", file=sys.stderr if int(code) else sys.stdout)
sys.exit(int(code))
"""


class Unit:
    """The unit of a site whose daemon runs already.

    before, after: called around what systemctl was asked for, by its word (`stop`, `start`, `restart`). broken: words that fail,
    with nothing done, and how often. asked: all that it was asked for. busy: whether it works on something.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.before: dict[str, Callable[[], None]] = {}
        self.after: dict[str, Callable[[], None]] = {}
        self.broken: dict[str, int] = {}
        self.asked: list[str] = []
        self.busy = False
        self._directory = site.root / "bin"
        self._directory.mkdir(mode=0o755)
        program = self._directory / "systemctl"
        path = self._directory / "socket"
        program.write_text(_PROGRAM.format(python=sys.executable, path=str(path)))
        program.chmod(0o755)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def serving(self) -> bool:
        """Whether the daemon runs."""
        return self.site.daemon.process.poll() is None

    @property
    def quiet(self) -> bool:
        """Whether no systemctl runs: one whose chromactl was killed goes on, as the job in systemd does."""
        name = str(self._directory / "systemctl").encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if name in path.read_bytes():
                    return False
        return not self.busy

    def spawn(self, *words: str) -> subprocess.Popen[bytes]:
        """Starts chromactl where this systemctl is the one that it finds, in a session of its own as from a shell."""
        argv: list[str | Path] = ["setsid", BIN / "chromactl", "--config", self.site.config, *words]
        return self.site.spawn(argv, current(), self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """That of commands which are to find this systemctl."""
        return {"PATH": f"{self._directory}:{os.environ['PATH']}"}

    def chromactl(self, *words: str) -> Result:
        """As `spawn`, to its end."""
        return ended(self.spawn(*words))

    def close(self) -> None:
        """Ends it."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.busy = True
                word = connection.makefile().readline().strip()
                try:
                    answer = self._answer(word)
                except Exception as error:
                    answer = f"1\n{error!r}\n"
                with suppress(OSError):  # whoever asked may be gone
                    connection.sendall(answer.encode())
                self.busy = False

    def _answer(self, word: str) -> str:
        if word == "is-active":
            return "0\nactive\n" if self.serving else "3\ninactive\n"
        self.asked.append(word)
        self.before.get(word, _nothing)()
        if self.broken.get(word, 0):
            self.broken[word] -= 1
            return f"1\nJob for chromadb.service failed, as it was to: {word}\n"
        if word in ("stop", "restart") and self.serving:
            self.site.daemon.stop()
        if word in ("start", "restart") and not self.serving:
            self.site.serve()
        self.after.get(word, _nothing)()
        return "0\n"


def ended(process: subprocess.Popen[bytes]) -> Result:
    """Waits for a chromactl's end."""
    output, _ = process.communicate(timeout=120)
    return Result(process.returncode, output.decode())


def _nothing() -> None:
    pass
