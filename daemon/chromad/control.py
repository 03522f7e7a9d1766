"""The control socket: one JSON request a line, one JSON answer, between chromactl and the daemon."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chromad.errors import ChromadError, PermissionProblem, TryAgain
from chromad.output import log

_LIMIT = 64 << 10
_TIMEOUT = 10.0

Handler = Callable[[], dict[str, Any]]


class Server:
    """Answers `{"verb": NAME}` with what the verb's handler gives, or with `{"error": …, "hint": …}`."""

    def __init__(self, path: Path, handlers: dict[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._closed = False

    def start(self) -> None:
        """Binds the socket (mode 0660) and answers in a thread. The data directory's lock makes sure that no one else does."""
        try:
            if self._path.is_socket():
                self._refuse_if_answered()
                self._path.unlink()
            self._socket.bind(str(self._path))
            os.chmod(self._path, 0o660)
        except OSError as error:
            raise PermissionProblem(
                f"control_socket {self._path}: {error.strerror}",
                f"{self._path.parent} must exist and belong to the service user",
            ) from None
        self._socket.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _refuse_if_answered(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                return
        raise TryAgain(
            f"{self._path} belongs to a chromad that runs on another directory", "give each one its own control_socket"
        )

    def stop(self) -> None:
        """Closes and removes the socket."""
        self._closed = True
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._closed:
                    return
                # Out of file descriptors: those who are connected will go.
                time.sleep(0.1)
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_TIMEOUT)
            try:
                answer = self._answer(_read_line(connection))
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError as error:
                log.debug("control socket: %s", error)

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            verb = request["verb"]
            handler = self._handlers[verb]
        except (ValueError, RecursionError):
            return {"error": "the request is not a line of JSON", "hint": 'send {"verb": "status"} and a newline'}
        except (KeyError, TypeError):
            return {
                "error": "the request names no known verb",
                "hint": f"known verbs: {', '.join(sorted(self._handlers))}",
            }
        try:
            return handler()
        except ChromadError as error:
            return {"error": error.message, "hint": error.hint}


def ask(path: Path, verb: str) -> dict[str, Any] | None:
    """Asks a running daemon; None when none listens there.

    Raises PermissionProblem when this user may not, TryAgain when it does not answer, and ChromadError with
    the daemon's own words.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps({"verb": verb}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(_read_line(connection))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError:
            raise PermissionProblem(
                f"{path}: no permission to talk to the daemon", "run as root, or join the service's group"
            ) from None
        except (OSError, ValueError) as error:
            raise TryAgain(f"{path}: the daemon gave no answer ({error})", "look at journalctl -u chromadb") from None
    if "error" in answer:
        raise ChromadError(str(answer["error"]), str(answer.get("hint", "")))
    return answer


def _read_line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        chunk = connection.recv(4096)
        if not chunk:
            break
        data += chunk
        if len(data) > _LIMIT:
            break
    return data
