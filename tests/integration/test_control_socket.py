"""The control socket: who may use it, what it says, and that no message harms the service."""

import json
import socket
import stat
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from chromad import versions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.account import need_closed_doors, stranger, until
from tests.integration.site import Site

KEYS = {
    "state",
    "since",
    "host",
    "port",
    "collections",
    "records",
    "cold",
    "cold_ids",
    "recovered",
    "fences",
    "gateway",
    "quarantined",
    "disk",
    "log",
    "metrics",
    "backup",
    "checkpoint",
    "last_stop",
    "data_dir",
    "pid",
    "engine_pid",
    "clock_step",
    "environment",
    "events",
    "chromad_version",
    "engine_version",
    "supervised",
    "threads",
    "unprotected",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.just("verb") | st.text(max_size=5), inner),
)
LINES = (
    st.binary(max_size=300)
    | JSON.map(lambda document: json.dumps(document).encode())
    | JSON.map(lambda document: json.dumps({"verb": document}).encode())
    | st.sampled_from([b"", b"[" * 60_000, b'{"verb": "status"', b"x" * 70_000, b'{"verb": "status"}{', b"1" * 6000])
)


def converse(site: Site, message: bytes) -> bytes:
    """Sends bytes, says that no more will come, and gives all that is answered."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(site.control))
        answer = b""
        try:
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                answer += chunk
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer


def connects(connection: socket.socket, site: Site) -> bool:
    connection.settimeout(0)
    return connection.connect_ex(str(site.control)) == 0


def ask(site: Site, line: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(converse(site, line))
    return answer


def test_mode_and_owner(serving: Site) -> None:
    status = serving.control.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert status.st_uid == serving.account.uid


def test_status(serving: Site) -> None:
    found = ask(serving, b'{"verb": "status"}\n')
    assert found.keys() == KEYS
    assert found["state"] == "serving"
    assert (found["pid"], found["engine_pid"]) == (serving.daemon.process.pid, serving.daemon.engine_pid)
    assert (found["host"], found["port"], found["data_dir"]) == ("127.0.0.1", serving.port, str(serving.data))
    assert (found["chromad_version"], found["engine_version"]) == (versions.chromad(), versions.engine())
    assert found["supervised"] is True


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        (b"\n", "not a line of JSON", '{"verb": "status"}'),
        (b"status\n", "not a line of JSON", '{"verb": "status"}'),
        (b"\xff\n", "not a line of JSON", '{"verb": "status"}'),
        (
            b"{}\n",
            "no known verb",
            "known verbs: checkpoint, collections, compact, configuration, fence, status, unfence",
        ),
        (
            b'{"verb": "restart"}\n',
            "no known verb",
            "known verbs: checkpoint, collections, compact, configuration, fence, status, unfence",
        ),
        (
            b'{"verb": ["status"]}\n',
            "no known verb",
            "known verbs: checkpoint, collections, compact, configuration, fence, status, unfence",
        ),
        (
            b'["verb"]\n',
            "no known verb",
            "known verbs: checkpoint, collections, compact, configuration, fence, status, unfence",
        ),
        (
            b'"verb"\n',
            "no known verb",
            "known verbs: checkpoint, collections, compact, configuration, fence, status, unfence",
        ),
    ],
)
def test_wrong_request(serving: Site, line: bytes, error: str, hint: str) -> None:
    answer = ask(serving, line)
    assert error in answer["error"]
    assert hint in answer["hint"]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=LINES, newline=st.booleans())
def test_any_message(serving: Site, message: bytes, newline: bool) -> None:
    answer = converse(serving, message + b"\n" * newline)
    if answer:
        document = json.loads(answer)
        assert document.keys() in ({"error", "hint", "exit_code"}, KEYS)
    assert serving.daemon.status()["state"] == "serving"


def test_unfinished_line_does_not_block_others(serving: Site) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(serving.control))
        connection.sendall(b'{"verb":')
        assert serving.daemon.status()["state"] == "serving"
        connection.settimeout(20)
        assert connection.recv(100) == b"", "closed after its time"
    assert serving.daemon.process.poll() is None


def test_too_many_connections_do_no_lasting_harm(site: Site) -> None:
    daemon = site.start(wrapper=["prlimit", "--nofile=40"]).ready()
    with ExitStack() as connections:
        for _ in range(40):
            connection = connections.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            # Refused for a moment while too many wait to be accepted.
            until(partial(connects, connection, site), "a connection", 20)
        time.sleep(0.5)  # Nothing tells from outside that it has taken as many as it takes.
    assert daemon.status()["state"] == "serving"
    daemon.stop()


@pytest.mark.root
def test_other_users_may_not(serving: Site) -> None:
    serving.run.chmod(0o755)
    need_closed_doors()
    result = serving.chromactl("status", account=stranger())
    assert result.code == 77
    assert "no permission to talk to the daemon" in result.output
    assert "join the service's group" in result.output


def test_socket_that_was_left_behind_is_replaced(site: Site) -> None:
    first = site.serve()
    first.process.kill()
    first.process.wait()
    assert site.control.exists()
    assert site.serve().status()["state"] == "serving"
