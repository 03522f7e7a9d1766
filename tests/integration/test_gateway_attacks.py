"""What no client would send: the gateway refuses it, or sends the engine exactly what it has judged."""

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.integration import raw_http
from tests.integration.account import until
from tests.integration.gateway import Answers, Gateway, Token
from tests.integration.gateway_cases import (
    CHUNKS,
    COUNT,
    FIELDS2,
    LENGTHS,
    METHODS,
    METHODS2,
    MINE,
    PATHS,
    PATHS2,
    QUERY,
    THEIRS,
    TLS,
    TOP,
    VERSIONS,
    WRONG_LINES,
)
from tests.integration.raw_http import END_HEADERS, END_STREAM, Recorder, exchange, frame, request, status2, statuses
from tests.integration.site import Site

pytestmark = pytest.mark.root


class _Owners(Answers):
    """Two collections, without a database."""

    def _owner(self, collection: str) -> str:
        return {MINE: "tena/dba", THEIRS: "tenb/dbb"}.get(collection, "-")


class Door:
    """A gateway before a recorder."""

    def __init__(self, site: Site, pause: float = 0, files: Mapping[str, bytes] = {}, **variables: object) -> None:
        self.engine = Recorder(pause)
        self.directory = Path(tempfile.mkdtemp(prefix="chromad-answers-"))
        self.answers = _Owners(self.directory / "gateway.sock", site)
        self.gateway = Gateway(self.engine.port, self.directory / "gateway.sock", variables, files)
        self.token: Token = self.gateway.token("app", "rw", "tena/dba")
        self.gateway.start()

    def head(self, first: str, *lines: str, token: str | None = None, close: bool = True) -> bytes:
        """The head of a request that comes with the token."""
        fields = [
            "Host: localhost",
            f"Authorization: Bearer {token or self.token}",
            *lines,
            *(["Connection: close"] if close else []),
        ]
        return "\r\n".join([first, *fields, "", ""]).encode("latin-1")

    def get(self, path: str, *lines: str, method: str = "GET") -> tuple[int, bytes]:
        """Status and body for a path as it is."""
        answer = exchange(self.gateway.port, self.gateway.certificate, self.head(f"{method} {path} HTTP/1.1", *lines))
        return statuses(answer)[0], answer.partition(b"\r\n\r\n")[2]

    def raw(self, *parts: bytes) -> list[int]:
        return statuses(exchange(self.gateway.port, self.gateway.certificate, *parts))

    def fields(self, path: bytes, method: bytes = b"GET", *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Of a request in HTTP/2."""
        token = (b"authorization", f"Bearer {self.token}".encode())
        return [
            (b":method", method),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path),
            token,
            *more,
        ]

    def ask2(self, frames: bytes, streams: int = 1) -> list[int]:
        with raw_http.connected(self.gateway.port, self.gateway.certificate, "h2") as connection:
            return status2(connection, frames, streams)

    def remove(self) -> None:
        self.gateway.stop()
        self.answers.close()
        self.engine.close()
        self.directory.rmdir()


@pytest.fixture(scope="module")
def somewhere() -> Iterator[Site]:
    made = Site()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def door(somewhere: Site) -> Iterator[Door]:
    made = Door(somewhere)
    yield made
    made.remove()


@pytest.mark.parametrize("path", PATHS)
def test_path(door: Door, path: str) -> None:
    """Neither of these reaches the engine."""
    before = len(door.engine.received)
    status, body = door.get(path)
    assert status in (400, 403, 404, 405, 410), body
    # What is no HTTP is answered before it is known whose it is.
    assert b'"error":' in body or b"400 Bad request" in body
    assert len(door.engine.received) == before


def test_sound_paths_reach_it(door: Door) -> None:
    """That nothing arrives above is not for another reason."""
    before = len(door.engine.received)
    for path in ("/api/v2/heartbeat", COUNT, f"{COUNT}?read_level=index_only", f"{TOP}/collections?limit=1&offset=2"):
        assert door.get(path)[0] == 200
        assert door.engine.received[-1].startswith(f"GET {path} HTTP/1.1\r\n".encode())
    assert len(door.engine.received) == before + 4
    # What a client sends and the engine does not know goes no further.
    assert door.get(f"{TOP}?tenant=tena")[0] == 200
    assert door.engine.received[-1].startswith(f"GET {TOP} HTTP/1.1\r\n".encode())
    assert b"API v1 is not served" in door.get("/api/v1/heartbeat")[1]


@pytest.mark.parametrize("method", METHODS)
def test_method(door: Door, method: str) -> None:
    before = len(door.engine.received)
    status, _ = door.get(COUNT, method=method)
    assert status in (400, 404, 405)
    assert len(door.engine.received) == before


OVERRIDES = [
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Original-Host",
]
FORWARDED = [
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Prefix",
    "Forwarded",
    "X-Real-IP",
    "Via",
    "True-Client-IP",
]


@pytest.mark.parametrize(
    "name",
    [
        *OVERRIDES,
        *FORWARDED,
        "Cookie",
        "Proxy-Authorization",
        "X-Chroma-Tenant",
        "traceparent",
        "Range",
        "Upgrade-Insecure-Requests",
    ],
)
def test_headers_that_go_no_further(door: Door, name: str) -> None:
    assert door.get(COUNT, f"{name}: /api/v2/reset")[0] == 200
    text = door.engine.received[-1].lower()
    assert text.startswith(f"get {COUNT} http/1.1".encode())
    assert name.lower().encode() not in text
    assert b"reset" not in text


def test_nothing_of_the_token_goes_further(door: Door) -> None:
    for line in (f"X-Chroma-Token: {door.token}", f"Authorization: Bearer {door.token}"):
        assert door.raw(f"GET {COUNT} HTTP/1.1\r\nHost: localhost\r\n{line}\r\nConnection: close\r\n\r\n".encode()) == [
            200
        ]
        assert door.token.encode() not in door.engine.received[-1]
        assert b"authorization" not in door.engine.received[-1].lower()
        assert b"x-chroma-token" not in door.engine.received[-1].lower()


@pytest.mark.parametrize(
    "line",
    [
        "Connection: authorization",
        "Connection: content-length",
        "Connection: close, host",
        "Upgrade: h2c",
        "Upgrade: websocket",
        "Keep-Alive: 5",
        "TE: trailers",
    ],
)
def test_hop_by_hop(door: Door, line: str) -> None:
    """Headers that name others for removal, or another protocol."""
    answers = door.raw(
        door.head(f"GET {COUNT} HTTP/1.1", line, close=not line.startswith("Connection"))
        + door.head(f"GET {COUNT} HTTP/1.1")
    )
    assert set(answers) <= {200, 400, 401}
    assert door.engine.received[-1].startswith(f"GET {COUNT} HTTP/1.1\r\n".encode())
    assert b"upgrade:" not in door.engine.received[-1].lower()


@pytest.mark.parametrize("line", WRONG_LINES)
def test_headers_of_a_wrong_form(door: Door, line: str) -> None:
    before = len(door.engine.received)
    found = door.raw(door.head(f"GET {COUNT} HTTP/1.1", line))
    # Folded, it belongs to the header before it: to the token.
    assert found in ([400], [403], [401], [200])
    for each in door.engine.received[before:]:
        assert each.lower().split(b"\r\n")[1:] == [b"host: localhost", b"", b""]


def test_flood_of_headers(door: Door) -> None:
    before = len(door.engine.received)
    assert door.raw(door.head(f"GET {COUNT} HTTP/1.1", *(f"X-{number}: {number}" for number in range(100)))) == [400]
    assert door.raw(door.head(f"GET {COUNT} HTTP/1.1", f"X-Long: {'x' * 70000}")) == [400]
    # 414 from HAProxy 3.2
    assert door.raw(door.head(f"GET /api/v2/{'x' * 70000} HTTP/1.1")) in ([400], [414])
    assert len(door.engine.received) == before


# Smuggling


def post(door: Door, *lines: str, close: bool = False) -> bytes:
    return door.head(f"POST {QUERY} HTTP/1.1", "Content-Type: application/json", *lines, close=close)


def hidden(door: Door) -> bytes:
    """A request that is not to be seen."""
    return f"POST /api/v2/reset HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {door.token}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize("lines", LENGTHS)
def test_two_lengths(door: Door, lines: list[str]) -> None:
    """The engine gets one request at most, as long as its length says, and never what comes after it."""
    before = len(door.engine.received)
    found = door.raw(post(door, *lines) + b"0\r\n\r\n" + hidden(door))
    assert all(each in (200, 400, 403, 405, 411, 413, 422) for each in found)
    arrived = door.engine.received[before:]
    assert len(arrived) == found.count(200) <= 1
    for each in arrived:
        head, _, body = each.partition(b"\r\n\r\n")
        assert head.startswith(f"POST {QUERY} HTTP/1.1\r\n".encode())
        assert b"encoding" not in head.lower()
        assert (b"content-length: 6" in head.lower(), body) in ((True, b"0\r\n\r\nP"), (False, b""))


@pytest.mark.parametrize("end", CHUNKS)
def test_chunks(door: Door, end: bytes) -> None:
    """Official clients say how long a body is; so nothing is to be had out of chunks."""
    before = len(door.engine.received)
    answers = door.raw(post(door, "Transfer-Encoding: chunked") + end + hidden(door))
    assert len(answers) == 1
    assert answers[0] in (400, 411)
    assert len(door.engine.received) == before


def test_what_is_left_over_is_a_request_of_its_own(door: Door) -> None:
    """A body that is longer than its length says is judged as the next request."""
    before = len(door.engine.received)
    answers = door.raw(post(door, "Content-Length: 2") + b"{}" + hidden(door))
    assert answers == [200, 403]
    [arrived] = door.engine.received[before:]
    assert arrived.startswith(f"POST {QUERY} HTTP/1.1\r\n".encode())
    assert arrived.endswith(b"\r\n\r\n{}")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_body_where_there_is_none(door: Door, method: str) -> None:
    before = len(door.engine.received)
    path = COUNT if method == "GET" else f"{TOP}/collections/some"
    inner = hidden(door)
    assert door.raw(door.head(f"{method} {path} HTTP/1.1", f"Content-Length: {len(inner)}") + inner) == [400]
    assert door.raw(door.head(f"{method} {path} HTTP/1.1", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + inner) == [
        411
    ]
    assert len(door.engine.received) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_versions(door: Door, version: str) -> None:
    before = len(door.engine.received)
    with raw_http.connected(door.gateway.port, door.gateway.certificate) as connection:
        connection.sendall(door.head(f"GET {COUNT} {version}") + hidden(door))
        found = statuses(raw_http.everything(connection))
    assert found in ([200], [400]) if version.strip() == "HTTP/1.1" else found in ([], [400])
    for each in door.engine.received[before:]:
        assert each.startswith(f"GET {COUNT} HTTP/1.1\r\n".encode())


def test_bare_line_ends(door: Door) -> None:
    before = len(door.engine.received)
    door.raw(door.head(f"GET {COUNT} HTTP/1.1").replace(b"\r\n", b"\n"))
    door.raw(door.head(f"GET {COUNT} HTTP/1.1").replace(b"\r\n", b"\r"))
    for each in door.engine.received[before:]:
        assert each.startswith(f"GET {COUNT} HTTP/1.1\r\n".encode())


# HTTP/2


def test_sound_http2(door: Door) -> None:
    """Also that the frames of these tests are such as are understood."""
    length = (b"content-length", b"2")
    frames = request(1, door.fields(COUNT.encode())) + request(3, door.fields(QUERY.encode(), b"POST", length), b"{}")
    assert door.ask2(frames, 2) == [200, 200]
    assert {each.split(b" HTTP", 1)[0] for each in door.engine.received[-2:]} == {
        f"GET {COUNT}".encode(),
        f"POST {QUERY}".encode(),
    }
    assert door.ask2(request(1, door.fields(b"/api/v2/reset", b"POST"))) == [403]
    assert door.ask2(request(1, [each for each in door.fields(COUNT.encode()) if each[0] != b"authorization"])) == [401]


@pytest.mark.parametrize("path", PATHS2)
def test_paths_of_http2(door: Door, path: str) -> None:
    before = len(door.engine.received)
    assert door.ask2(request(1, door.fields(path.encode("latin-1"))))[0] in (0, 400, 403, 404)
    assert len(door.engine.received) == before


def with_field(door: Door, name: bytes, value: bytes, instead: bool = False) -> list[tuple[bytes, bytes]]:
    fields = door.fields(QUERY.encode(), b"POST", (b"content-length", b"2"))
    return [each for each in fields if not (instead and each[0] == name)] + [(name, value)]


@pytest.mark.parametrize(("name", "value"), FIELDS2)
def test_fields_of_http2(door: Door, name: bytes, value: bytes) -> None:
    """They are refused, or do not arrive: the engine sees one request, as it was judged."""
    before = len(door.engine.received)
    fields = with_field(door, name, value, instead=name == b"content-length" and value in (b"0", b"1", b"30", b""))
    door.ask2(request(1, fields, b"{}"))
    time.sleep(0.05)
    arrived = door.engine.received[before:]
    assert len(arrived) <= 1
    for each in arrived:
        head, _, body = each.partition(b"\r\n\r\n")
        assert head.startswith(f"POST {QUERY} HTTP/1.1\r\n".encode())
        assert b"transfer-encoding" not in head.lower()
        assert b"elsewhere" not in head
        assert b"content-length: 2" in head.lower()
        assert body == b"{}"


@pytest.mark.parametrize("method", METHODS2)
def test_methods_of_http2(door: Door, method: bytes) -> None:
    before = len(door.engine.received)
    assert door.ask2(request(1, door.fields(COUNT.encode(), method)))[0] in (0, 400, 405)
    assert len(door.engine.received) == before


def test_body_of_http2_without_a_length(door: Door) -> None:
    before = len(door.engine.received)
    assert door.ask2(request(1, door.fields(QUERY.encode(), b"POST"), b"{}")) == [411]
    assert door.ask2(request(1, door.fields(COUNT.encode(), b"GET"), hidden(door)))[0] in (400, 411)
    assert len(door.engine.received) == before


def test_flood_of_http2(door: Door) -> None:
    """Streams that are opened and reset, headers without end, settings without end: others are served meanwhile."""
    fields = raw_http.block(door.fields(COUNT.encode()))
    for flood in (
        b"".join(
            frame(raw_http.HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, fields)
            + frame(raw_http.RESET, 0, 2 * n + 1, b"\0\0\0\x08")
            for n in range(5000)
        ),
        frame(raw_http.HEADERS, END_STREAM, 1, fields)
        + b"".join(frame(raw_http.CONTINUATION, 0, 1, raw_http.block([(b"x", b"y" * 1000)])) for _ in range(2000)),
        b"".join(frame(raw_http.SETTINGS, 0, 0, b"\0\x03\0\0\0\x64") for _ in range(20000)),
    ):
        with raw_http.connected(door.gateway.port, door.gateway.certificate, "h2") as connection:
            with contextlib.suppress(OSError):
                connection.sendall(raw_http.PREFACE + frame(raw_http.SETTINGS, 0, 0, b"") + flood)
            assert door.get("/api/v2/heartbeat")[0] == 200
    until(
        lambda: door.gateway.told("show info").split("CurrConns: ")[1].split()[0] == "0",
        "the end of all connections",
        60,
    )


# TLS


@pytest.mark.parametrize(("options", "accepted"), TLS)
def test_tls_versions(door: Door, options: list[str], accepted: bool) -> None:
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{door.gateway.port}",
        "-cipher",
        "ALL:@SECLEVEL=0",
        *options,
    ]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=20, check=False)
    assert (b"Cipher is (NONE)" not in done.stdout) is accepted, done.stdout.decode()


def test_renegotiation(door: Door) -> None:
    """The client asks for it (R); TLS 1.2 alone has it."""
    command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{door.gateway.port}"]
    done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=20, check=False)
    assert b"no renegotiation" in done.stderr or b"renegotiation" in done.stderr.lower()


def test_plain_http_is_not_spoken(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.gateway.port), 20) as connection:
        connection.sendall(door.head(f"GET {COUNT} HTTP/1.1"))
        assert b"200" not in raw_http.everything(connection)[:20]


# Limits


@pytest.fixture(scope="module")
def narrow(somewhere: Site) -> Iterator[Door]:
    """One with small limits, before an engine that takes its time."""
    made = Door(
        somewhere,
        pause=0.5,
        chromadb_gateway_request_size="64K",
        chromadb_gateway_requests_per_second=5,
        chromadb_gateway_bytes_per_second="100K",
        chromadb_gateway_concurrent_requests=3,
        chromadb_gateway_connections_per_address=20,
        chromadb_gateway_slow_timeout="2s",
        chromadb_gateway_idle_timeout="2s",
        chromadb_gateway_answer_timeout="4s",
    )
    yield made
    made.remove()


def test_size(narrow: Door) -> None:
    token = narrow.gateway.token("large", "rw", "tena/dba")
    before = len(narrow.engine.received)
    with narrow.gateway.http(token) as client:
        assert client.post(QUERY, content=b"x" * 65536).status_code == 200
        answer = client.post(QUERY, content=b"x" * 65537)
        assert (answer.status_code, answer.json()["error"]) == (413, "BatchSizeExceededError")
        assert client.post(QUERY, content=b"x" * 50_000_000).status_code == 413
        # In chunks
        assert client.post(QUERY, content=iter([b"x" * 1000] * 100)).status_code == 411
    assert len(narrow.engine.received) == before + 1


def test_concurrent_requests(narrow: Door) -> None:
    """Each beyond them is refused at once; another token has its own."""
    from concurrent.futures import ThreadPoolExecutor

    token, other = (narrow.gateway.token(name, "ro", "tena/dba") for name in ("many", "single"))

    def ask(_: int) -> tuple[int, str]:
        with narrow.gateway.http(token) as client:
            answer = client.get(COUNT)
            return answer.status_code, answer.headers.get("retry-after", "")

    with ThreadPoolExecutor(10) as pool:
        going = [pool.submit(ask, number) for number in range(10)]
        with narrow.gateway.http(other) as client:
            assert client.get(COUNT).status_code == 200
        found = [each.result() for each in going]
    assert sorted(found) == [(200, "")] * 3 + [(429, "1")] * 7


def test_requests_a_second(narrow: Door) -> None:
    token = narrow.gateway.token("quick", "ro", "tena/dba")
    with narrow.gateway.http(token) as client:
        found = [client.get("/api/v2/auth/identity") for _ in range(60)]
    assert [each.status_code for each in found] == [200] * 50 + [429] * 10
    assert found[-1].json()["error"] == "RateLimitError"
    assert found[-1].headers["retry-after"] == "2"


def test_bytes_a_second(narrow: Door) -> None:
    token = narrow.gateway.token("wide", "rw", "tena/dba")
    with narrow.gateway.http(token) as client:
        found = [client.post(QUERY, content=b"x" * 60000).status_code for _ in range(20)]
    assert found[:15] == [200] * 15
    assert 429 in found
    assert sum(each == 200 for each in found) <= 19


def _trickle(connection: socket.socket, parts: list[bytes]) -> bytes:
    """Sends them slowly, until something comes back. In one thread: a TLS connection is not for two at a time."""
    connection.settimeout(0.2)
    try:
        for part in parts:
            connection.sendall(part)
            with contextlib.suppress(TimeoutError):
                return connection.recv(65536)
    except OSError:
        return b""
    finally:
        connection.settimeout(20)
    raise AssertionError("nothing came back")


def test_slow_head_and_slow_body(narrow: Door) -> None:
    token = narrow.gateway.token("slow", "rw", "tena/dba")
    before = len(narrow.engine.received)
    for parts in (
        [b"GET /api/v2/heartbeat HTTP/1.1\r\n"] + [b"X: y\r\n"] * 40,
        [narrow.head(f"POST {QUERY} HTTP/1.1", "Content-Length: 100", token=token)] + [b"x"] * 40,
        [narrow.head(f"POST {QUERY} HTTP/1.1", "Content-Length: 60000", token=token) + b"x" * 10000] + [b"x"] * 40,
    ):
        started = time.monotonic()
        with raw_http.connected(narrow.gateway.port, narrow.gateway.certificate) as connection:
            # HAProxy 3.0 says so, and then throws away what still comes.
            found = _trickle(connection, parts)
            assert time.monotonic() - started < 6
            found += raw_http.everything(connection)
        assert statuses(found) in ([408], [400], []), found
    assert len(narrow.engine.received) == before


def test_body_that_stops_half_way(narrow: Door) -> None:
    token = narrow.gateway.token("half", "rw", "tena/dba")
    started = time.monotonic()
    with raw_http.connected(narrow.gateway.port, narrow.gateway.certificate) as connection:
        connection.sendall(narrow.head(f"POST {QUERY} HTTP/1.1", "Content-Length: 60000", token=token) + b"x" * 30000)
        found = raw_http.everything(connection)
    assert time.monotonic() - started < 8
    assert statuses(found)[:1] in ([408], [504], []), found


def test_connections_of_one_address(narrow: Door) -> None:
    """Whoever holds them all keeps out nobody but their own address; they end by themselves."""
    opened = [socket.create_connection(("127.0.0.1", narrow.gateway.port), 5) for _ in range(20)]
    try:
        until(lambda: narrow.gateway.told("show info").split("CurrConns: ")[1].split()[0] == "20", "20 connections", 20)
        with pytest.raises(OSError), raw_http.connected(narrow.gateway.port, narrow.gateway.certificate):
            pass
        until(
            lambda: narrow.gateway.told("show info").split("CurrConns: ")[1].split()[0] == "0",
            "the end of idle connections",
            20,
        )
        assert narrow.get("/api/v2/auth/identity")[0] == 200
    finally:
        for each in opened:
            each.close()


def test_answer_that_takes_longer_than_a_client_may_idle(somewhere: Site) -> None:
    patient = Door(somewhere, pause=3, chromadb_gateway_idle_timeout="1s")
    try:
        assert patient.get(COUNT)[0] == 200
        with raw_http.connected(patient.gateway.port, patient.gateway.certificate, "h2") as connection:
            assert status2(connection, request(1, patient.fields(COUNT.encode()))) == [200]
    finally:
        patient.remove()
