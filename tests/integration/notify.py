"""The supervisor's end of sd_notify(3)."""

import contextlib
import socket
import threading
from pathlib import Path

from tests.integration.account import until


class NotifySocket:
    """Receives what a daemon tells systemd, line by line, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o777)
        threading.Thread(target=self._receive, daemon=True).start()

    def wait_for(self, prefix: str, timeout: float = 60.0) -> str:
        """The first line that begins so."""
        return until(lambda: next((line for line in self.lines if line.startswith(prefix)), ""), prefix, timeout)

    def statuses(self) -> list[str]:
        """The texts of all STATUS= lines, in order."""
        return [line.removeprefix("STATUS=") for line in self.lines if line.startswith("STATUS=")]

    def close(self) -> None:
        """Ends the thread that receives; does nothing the second time."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def _receive(self) -> None:
        while data := self._socket.recv(65536):
            self.lines += data.decode(errors="replace").splitlines()
        self._socket.close()
