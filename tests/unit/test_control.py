"""The control socket by itself: what is too long for it, and what is not."""

import socket
import sqlite3
import threading
from pathlib import Path

import pytest
from chromad import control
from chromad.checks import host
from chromad.config import Config
from chromad.errors import ChromadError, PermissionProblem, TryAgain
from chromad.host import threads


def test_answer_with_much_in_it(tmp_path: Path) -> None:
    """A status names each collection that was left cold; there may be thousands."""
    cold = {f"collection-{number}": "not chosen by warm.collections" for number in range(20_000)}
    server = control.Server(tmp_path / "socket", {"any": lambda _request, _progress: {"cold": cold}})
    server.start()
    try:
        assert control.ask(tmp_path / "socket", "any") == {"cold": cold}
    finally:
        server.stop()


def test_request_that_is_too_long(tmp_path: Path) -> None:
    server = control.Server(tmp_path / "socket", {"fence": lambda _request, _progress: {}})
    server.start()
    try:
        with pytest.raises(ChromadError, match="longer than 64 KiB") as caught:
            control.ask(tmp_path / "socket", "fence", {"reason": "x" * 100_000})
        assert caught.value.hint
    finally:
        server.stop()


@pytest.mark.parametrize(
    "answer", [b"", b"\n", b"\xff\n", b"1\n", b"[]\n", b"[" * 50_000 + b"\n", b"HTTP/1.1 400 Bad Request\r\n"]
)
def test_what_answers_is_no_daemon(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()

        def work() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        threading.Thread(target=work, daemon=True).start()
        with pytest.raises(TryAgain, match="gave no answer") as caught:
            control.ask(tmp_path / "socket", "status", progress=lambda _phase, _done, _total: None)
        assert "journalctl" in caught.value.hint


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TypeError("'NoneType' object is not iterable"), "fence failed: TypeError"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (MemoryError(), "fence failed: MemoryError"),
        (sqlite3.OperationalError("database is locked"), "database is locked"),
    ],
)
def test_handler_that_fails_gives_an_answer(tmp_path: Path, error: Exception, message: str) -> None:
    def fail(_request: object, _progress: object) -> dict[str, object]:
        raise error

    server = control.Server(tmp_path / "socket", {"fence": fail, "any": lambda _request, _progress: {"well": True}})
    server.start()
    try:
        with pytest.raises(ChromadError, match=message) as caught:
            control.ask(tmp_path / "socket", "fence")
        assert caught.value.exit_code == 1
        assert caught.value.hint
        assert control.ask(tmp_path / "socket", "any") == {"well": True}
        unforeseen = not isinstance(error, (OSError, sqlite3.Error))
        assert bool(threads.problems().get("control: fence")) == unforeseen
    finally:
        server.stop()
        threads.went_well("control: fence")


def test_answer_that_is_no_json(tmp_path: Path) -> None:
    server = control.Server(tmp_path / "socket", {"status": lambda _request, _progress: {"path": tmp_path}})
    server.start()
    try:
        with pytest.raises(ChromadError, match="status failed: TypeError"):
            control.ask(tmp_path / "socket", "status")
    finally:
        server.stop()
        threads.went_well("control: status")


@pytest.mark.parametrize("error", [TryAgain("busy"), PermissionProblem("closed")], ids=repr)
def test_what_is_loaded_is_not_guessed(error: ChromadError, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that does not answer for now is not one of another version, which would have to be restarted."""
    answers: list[ChromadError] = [error, ChromadError("the request names no known verb")]

    def ask(*_: object) -> None:
        raise answers.pop(0)

    monkeypatch.setattr(control, "ask", ask)
    with pytest.raises(type(error)):
        host.loaded(Config())
    assert host.loaded(Config()) is None
