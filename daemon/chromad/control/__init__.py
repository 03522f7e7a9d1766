"""The control socket between chromactl and the daemon: a line of JSON asks, a line of JSON answers.

Before its answer a verb that takes long sends lines `{"progress": [PHASE, DONE, TOTAL]}`.
"""

import contextlib
import json
import socket
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from chromad import documents
from chromad.control.messages import CollectionsReport, StatusReport
from chromad.errors import ChromadError, PermissionProblem, TryAgain, from_system
from chromad.host import sockets, threads
from chromad.logs.lines import log

# Bytes of a request, and of an answer: a status names each collection that was left cold.
_LIMIT = 64 << 10
_LONGEST_ANSWER = 64 << 20
_TIMEOUT = 10.0
# Seconds between two progress lines; also what keeps the asking side from giving up.
_PROGRESS_INTERVAL = 0.2

Progress = Callable[[str, int, int], None]
# Takes the request and gives the answer; may report progress.
Handler = Callable[[dict[str, Any], Progress], dict[str, Any]]


class Server:
    """Answers `{"verb": NAME, …}` with what the verb's handler gives, or with `{"error": …, "hint": …, "exit_code": …}`."""

    def __init__(self, path: Path, handlers: dict[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._closed = False
        self._listener = threads.Task("control socket", self._accept, again=1.0)

    def start(self) -> None:
        """Binds the socket (mode 0660) and answers in a thread. The data directory's lock makes sure that no one else does."""
        sockets.listen(self._socket, self._path, "control_socket")
        self._listener.start()

    def stop(self) -> None:
        """Closes and removes the socket."""
        self._closed = True
        with contextlib.suppress(OSError):
            # It wakes who waits for a connection.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._listener.stop()
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
            threads.Task("control connection", partial(self._serve, connection)).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_TIMEOUT)
            try:
                connection.sendall(self._answer(_read_line(connection), _Reporter(connection)))
            except OSError as error:
                log.debug("control socket: %s", error)

    def _answer(self, line: bytes, progress: Progress) -> bytes:
        if len(line) > _LIMIT:
            return _error(f"the request is longer than {_LIMIT >> 10} KiB", "say it in fewer words", 1)
        try:
            request = documents.parse(line)
            handler = self._handlers[request["verb"]]
        except (ValueError, RecursionError):
            return _error("the request is not a line of JSON", 'send {"verb": "status"} and a newline', 1)
        except (KeyError, TypeError):
            known = ", ".join(sorted(self._handlers))
            return _error("the request names no known verb", f"known verbs: {known}", 1)
        verb = request["verb"]
        try:
            answer = _encode(handler(request, progress))
        except ChromadError as error:
            return _error(error.message, error.hint, error.exit_code)
        except (OSError, sqlite3.Error) as error:
            told = from_system(error)
            return _error(told.message, told.hint, told.exit_code)
        except Exception as error:
            # Nobody foresaw it, and whoever asked is told all the same.
            threads.failed(f"control: {verb}", error)
            return _error(f"{verb} failed: {threads.describe(error)}", "journalctl -u chromadb says more", 1)
        threads.went_well(f"control: {verb}")
        return answer


class _Reporter:
    """Sends progress lines, not too many; one that nobody reads any more does not end the work."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sent = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        if time.monotonic() - self._sent > _PROGRESS_INTERVAL:
            self._sent = time.monotonic()
            with contextlib.suppress(OSError):
                _send(self._connection, {"progress": [phase, done, total]})


def ask(path: Path, verb: str, arguments: dict[str, Any] | None = None, progress: Progress | None = None) -> Any:
    """Asks a running daemon; None when none listens there.

    Raises PermissionProblem when this user may not, TryAgain when it does not answer or what it says cannot be understood, and
    ChromadError of the class that the daemon tells, with the daemon's own words.
    """
    from chromad.control import answers  # here: the daemon itself reads none

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT)
        try:
            connection.connect(str(path))
            # With progress, silence may last as long as the longest step.
            connection.settimeout(None if progress else _TIMEOUT)
            _send(connection, {"verb": verb, **(arguments or {})})
            with connection.makefile("rb") as lines:
                answer = _read_answer(lines)
                while progress and "progress" in answer:
                    progress(*answers.progress(answer))
                    answer = _read_answer(lines)
                answers.check(verb, answer)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError:
            raise PermissionProblem(
                f"{path}: no permission to talk to the daemon", "run as root, or join the service's group"
            ) from None
        except (OSError, RecursionError, ValueError) as error:
            raise TryAgain(f"{path}: the daemon gave no answer ({error})", "look at journalctl -u chromadb") from None
    if "error" in answer:
        kind = next((kind for kind in ChromadError.__subclasses__() if kind.exit_code == answer.get("exit_code")), None)
        raise (kind or ChromadError)(answer["error"], answer.get("hint", ""))
    return answer


def ask_status(path: Path) -> StatusReport | None:
    """As `ask`, for the status."""
    answer = ask(path, "status")
    return None if answer is None else StatusReport.model_validate(answer)


def ask_collections(path: Path) -> CollectionsReport | None:
    """As `ask`, for the collections."""
    answer = ask(path, "collections")
    return None if answer is None else CollectionsReport.model_validate(answer)


def _error(message: str, hint: str, exit_code: int) -> bytes:
    return _encode({"error": message, "hint": hint, "exit_code": exit_code})


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, allow_nan=False).encode() + b"\n"


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(_encode(message))


def _read_answer(lines: BinaryIO) -> dict[str, Any]:
    answer = documents.parse(lines.readline(_LONGEST_ANSWER))
    if not isinstance(answer, dict):
        raise ValueError("what listens there is no chromad")
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
