"""Whatever comes in over the control socket and the listener for metrics: an answer that says so, and a service that goes on."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.account import until
from tests.integration.malformed import CLASSES, JSON, Fed, many, need_whole_file
from tests.integration.site import Site

Address = str | tuple[str, int]

VERBS = ["status", "collections", "configuration", "checkpoint", "compact", "fence", "unfence"]
# With the key that a verb takes, and what it takes there
VALUES = {"fence": "reason", "checkpoint": "damaged"}
NASTY: list[Any] = [
    None,
    True,
    1,
    -1,
    1.5,
    10**400,
    float("nan"),
    "",
    "\0",
    "\ud800",
    "\x1b[31m",
    "two\nlines",
    "x" * 501,
    "x" * 60_000,
    {},
    {"reason": "x"},
    [1],
    [None],
    [[]],
    ["\ud800", 1],
    [{"damaged": []}],
]
# These name no checkpoint, so that there is nothing to do.
NAMES = [["\ud800"], ["\0"], ["../../data"], ["/"], [""], ["."], ["x" * 60_000], ["x"] * 9000]
LINES = [
    b"",
    b"\n",
    b"\r\n",
    b"\0" * 70_000,
    b"status\n",
    b'"status"\n',
    b'["status"]\n',
    b"null\n",
    b"9" * 5000 + b"\n",
    b'{"verb": "restart"}\n',
    b'{"verb": {"verb": "status"}}\n',
    b'{"verb": null}\n',
    b'{"verb": "\\ud800"}\n',
    b'{"VERB": "status"}\n',
    b'{"verb": "status"',
    b'{"verb": "status"} x\n',
    b'{"verb": "status"}\n{"verb": "status"}\n',
    b"{'verb': 'status'}\n",
    b'{"verb": "status",}\n',
    b'{"verb": "stat\xff"}\n',
    b"[" * 60_000 + b"\n",
    b'{"a":' * 9000 + b"\n",
    b'{"verb": "fence", "reason": "' + b"x" * 100_000 + b'"}\n',
    b"GET / HTTP/1.1\r\n\r\n",
]
# With the status that is answered; None where the client is hung up on
REQUESTS = [
    (None, b""),
    (None, b"\r\n\r\n"),
    (None, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n"),
    (400, b"GET\r\n\r\n"),
    (400, b"GET / HTTP/x\r\n\r\n"),
    (400, b"GET / / HTTP/1.1\r\n\r\n"),
    (400, b"GET / HTTP/1.1.1\r\n\r\n"),
    (400, "GET / HTTP/².1\r\n\r\n".encode()),
    (400, b"POST /\r\n\r\n"),
    (404, b"GET /nothing HTTP/1.1\r\n\r\n"),
    (404, b"GET /../../etc/passwd HTTP/1.1\r\n\r\n"),
    (404, b"GET /%2e%2e/%00 HTTP/1.1\r\n\r\n"),
    (404, b"GET /\x1b[31m HTTP/1.1\r\n\r\n"),
    (404, b"GET /\xff HTTP/1.1\r\n\r\n"),
    (404, b"GET * HTTP/1.1\r\n\r\n"),
    (404, b"GET metrics HTTP/1.1\r\n\r\n"),
    (404, b"GET http://127.0.0.1/metrics HTTP/1.1\r\n\r\n"),
    (404, b"GET /metrics/ HTTP/1.1\r\n\r\n"),
    (404, b"GET /METRICS HTTP/1.1\r\n\r\n"),
    (414, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"),
    (431, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
    (431, b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"),
    (501, b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"),
    (501, b"DELETE / HTTP/1.1\r\n\r\n"),
    (501, b"BREW / HTTP/1.1\r\n\r\n"),
    (501, b"get / HTTP/1.1\r\n\r\n"),
    (501, b"<script>alert(1)</script> / HTTP/1.1\r\n\r\n"),
    (501, b"%s%n / HTTP/1.1\r\n\r\n"),
    (505, b"GET / HTTP/9.9\r\n\r\n"),
    (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (200, b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n"),
    (200, b"GET /healthz HTTP/1.1\r\nContent-Length: -5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    (200, b"GET /healthz?" + b"x=y&" * 1000 + b" HTTP/1.1\r\n\r\n"),
]


@pytest.fixture(scope="module")
def fed() -> Iterator[Fed]:
    site = Site()
    found = Fed(site)
    yield found
    try:
        found.assert_unharmed()
    finally:
        site.remove()


def converse(address: Address, message: bytes) -> bytes:
    """Sends bytes, says that no more will come, and gives all that is answered."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as connection:
        connection.settimeout(30)
        connection.connect(address)
        answer = b""
        try:
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                answer += chunk
        except OSError as error:
            # As when it does not read to the end what nobody needs; but it may not let anybody wait.
            assert not isinstance(error, TimeoutError)
        return answer


def ask(fed: Fed, line: bytes) -> dict[str, Any]:
    """The last line of the answer; those before it tell progress."""
    fed.count += 1
    answer: dict[str, Any] = json.loads(converse(str(fed.site.control), line).splitlines()[-1])
    return answer


def assert_error(answer: dict[str, Any], *codes: int) -> None:
    assert answer.keys() == {"error", "hint", "exit_code"}
    assert answer["exit_code"] in codes
    assert answer["error"]
    assert answer["hint"]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_lines_that_are_no_requests(fed: Fed, line: bytes) -> None:
    fed.count += 1
    answer = converse(str(fed.site.control), line)
    # Of what is too long it does not read the end, and the answer may be lost with that.
    if answer or len(line) < 64 << 10:
        assert_error(json.loads(answer), 1)


@pytest.mark.parametrize("verb", VALUES)
@pytest.mark.parametrize("value", NASTY, ids=range(len(NASTY)))
def test_values_of_another_kind(fed: Fed, verb: str, value: Any) -> None:
    answer = ask(fed, json.dumps({"verb": verb, VALUES[verb]: value}).encode() + b"\n")
    assert_error(answer, 78)
    assert not fed.site.daemon.status()["fences"]


@pytest.mark.parametrize("names", NAMES, ids=range(len(NAMES)))
def test_names_of_no_checkpoint(fed: Fed, names: list[str]) -> None:
    ask(fed, b'{"verb": "checkpoint"}\n')
    before = sorted(fed.site.checkpoints.rglob("*"))
    assert before
    answer = ask(fed, json.dumps({"verb": "checkpoint", "damaged": names}).encode() + b"\n")
    assert "error" not in answer
    assert sorted(fed.site.checkpoints.rglob("*")) == before
    assert not list(fed.site.quarantine.iterdir())


@many(60)
@given(st.sampled_from(VERBS), JSON, st.sampled_from(["reason", "damaged", "verb", "x", "\ud800"]))
def test_anything_beside_a_verb(fed: Fed, verb: str, value: Any, key: str) -> None:
    answer = ask(fed, json.dumps({"verb": verb, key: value}).encode() + b"\n")
    if "error" in answer:
        assert_error(answer, *CLASSES)
    if verb == "fence":
        assert "error" not in ask(fed, b'{"verb": "unfence"}\n')


@many(60)
@given(st.binary(max_size=400))
def test_any_bytes(fed: Fed, message: bytes) -> None:
    assert_error(ask(fed, message + b"\n"), 1)


def test_many_who_say_nothing(fed: Fed) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(20)
            connection.connect(str(fed.site.control))
            connection.send(b'{"verb":')
            fed.count += 1
        assert fed.site.daemon.status()["state"] == "serving"
    until(lambda: _threads(fed) < 20, "the end of their threads")


def test_one_who_is_slow(fed: Fed) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(fed.site.control))
        for byte in b'{"verb": "status"}\n':
            connection.send(bytes([byte]))
            time.sleep(0.01)
        assert json.loads(connection.makefile("rb").readline())["state"] == "serving"
    fed.count += 1


def test_one_who_does_not_listen(fed: Fed) -> None:
    """And is gone when the answer comes; the checkpoint is taken all the same."""
    for verb in VERBS:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(fed.site.control))
            connection.send(json.dumps({"verb": verb, "reason": "x"}).encode() + b"\n")
        fed.count += 1
    until(lambda: _threads(fed) < 20, "the end of their threads")
    until(
        lambda: "error" not in ask(fed, b'{"verb": "unfence"}\n') and not fed.site.daemon.status()["fences"], "unfence"
    )


@pytest.mark.parametrize(("status", "request_"), REQUESTS, ids=range(len(REQUESTS)))
def test_requests(fed: Fed, status: int | None, request_: bytes) -> None:
    fed.count += 1
    answer = converse(("127.0.0.1", fed.site.metrics_port), request_)
    head, _, body = answer.rpartition(b"\r\n\r\n")
    if status is None:
        assert answer == b"" or b"HINT: " in body
    elif status == 200:
        assert head.startswith(b"HTTP/1.0 200 ")
    else:
        # HTTP/0.9, and what may be that, gets an answer without a head.
        assert head.startswith(b"HTTP/1.0 %d " % status) or body.startswith(b"%d " % status), answer
        assert b"\nHINT: " in body
        assert b"text/plain" in head or not head
        assert b"<" not in body
    assert b"Traceback" not in answer


@many(60)
@given(
    st.binary(max_size=400)
    | st.tuples(
        st.sampled_from([b"GET ", b"HEAD ", b"PUT "]), st.binary(max_size=60), st.just(b" HTTP/1.1\r\n\r\n")
    ).map(b"".join)
)
def test_any_request(fed: Fed, message: bytes) -> None:
    fed.count += 1
    answer = converse(("127.0.0.1", fed.site.metrics_port), message)
    assert b"Traceback" not in answer
    assert not answer or answer.startswith((b"HTTP/1.0 ", b"4", b"5", b"nothing is here", b"<!doctype"))


def test_many_who_ask_for_nothing(fed: Fed) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", fed.site.metrics_port), timeout=20))
            connection.send(b"GET / HT")
            fed.count += 1
        assert fed.site.daemon.status()["state"] == "serving"
        # They give way after a few seconds.
        until(
            lambda: b" 200 " in converse(("127.0.0.1", fed.site.metrics_port), b"GET /healthz HTTP/1.0\r\n\r\n"),
            "health",
        )


def _threads(fed: Fed) -> int:
    return int(fed.site.daemon.proc_status().split("Threads:")[1].split()[0])


def test_enough_were_fed(fed: Fed, request: pytest.FixtureRequest) -> None:
    need_whole_file(request)
    assert fed.count >= 400
