"""Somebody else than the daemon answers chromactl: whatever that says, there is a fact and a hint, or it is shown as text."""

import json
import os
import random
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration import records
from tests.integration.commands import Commands, Told
from tests.integration.malformed import tampered
from tests.integration.site import Site

VERBS: dict[str, list[str]] = {
    "status": ["status"],
    "checkpoint": ["checkpoint"],
    "compact": ["compact"],
    "fence": ["fence", "--reason", "a test"],
    "unfence": ["unfence"],
}
_SAMPLE = 20
_PROGRESS = [
    b"7",
    b'["phase"]',
    b"[1, 2, 3]",
    b'["\\u001b[31m", 1, 2]',
    b'["phase", -1, 1e400]',
    b'["phase", null, "x"]',
]


class Liar:
    """Listens in the daemon's place; says the same to everybody who asks."""

    def __init__(self, site: Site) -> None:
        self.says = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(site.control))
        os.chmod(site.control, 0o666)
        self._listener.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(self.says)

    def close(self) -> None:
        """Listens no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, Any]]:
    """What a daemon says to each verb; afterwards it does not run any more."""
    site = Site()
    daemon = site.serve()
    records.fill(daemon.client(), "some", 40, sync_threshold=10)
    answers = {
        verb: site.chromactl("--json", *(["status"] if verb == "status" else words)).json()
        for verb, words in VERBS.items()
    }
    daemon.stop()
    liar = Liar(site)
    commands = Commands()
    yield {"site": site, "liar": liar, "commands": commands, **answers}
    commands.close()
    liar.close()
    site.remove()


def _ask(answers: dict[str, Any], verb: str, says: bytes) -> Told:
    answers["liar"].says = says
    told: Told = answers["commands"].run("chromactl", "--config", str(answers["site"].config), *VERBS[verb])
    assert "Traceback" not in told.output, (says, told.output)
    assert "\x1b" not in told.output, (says, told.output)
    assert told.code is not None
    if told.code not in (0, 3, 4):
        assert "HINT: " in told.output, (says, told.output)
    return told


@pytest.mark.parametrize("verb", VERBS)
def test_answer_that_is_true(answers: dict[str, Any], verb: str) -> None:
    assert _ask(answers, verb, json.dumps(answers[verb]).encode() + b"\n").code == 0


@pytest.mark.parametrize("verb", VERBS)
def test_answer_with_something_else_in_it(answers: dict[str, Any], verb: str) -> None:
    found = list(tampered(json.dumps(answers[verb]).encode()))
    for content in random.Random(verb).sample(found, min(len(found), _SAMPLE)):
        _ask(answers, verb, content + b"\n")


@pytest.mark.parametrize("line", _PROGRESS)
def test_progress_that_is_none(answers: dict[str, Any], line: bytes) -> None:
    true = json.dumps(answers["checkpoint"]).encode()
    _ask(answers, "checkpoint", b'{"progress": ' + line + b"}\n" + true + b"\n")


def test_error_that_is_none(answers: dict[str, Any]) -> None:
    for content in (
        b'{"error": 7}\n',
        b'{"error": [], "hint": {}, "exit_code": "x"}\n',
        b'{"error": "e", "hint": 7}\n',
    ):
        assert _ask(answers, "status", content).code == 75
    assert "\\x1b[31m" in _ask(answers, "status", b'{"error": "\\u001b[31m", "hint": "\\u001b[0m"}\n').output
