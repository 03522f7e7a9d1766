"""The gateway beside the service: restarts, fences, reloads, and what chromad does not say."""

import contextlib
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from chromad.chroma import sqlite
from chromad.store import fence, hold

from tests.integration.account import until
from tests.integration.gateway import Answers, Gateway
from tests.integration.site import Site

pytestmark = pytest.mark.root

TOP = "/api/v2/tenants/default_tenant/databases/default_database/collections"
RECORD = {"ids": ["1"], "embeddings": [[1, 2, 3]]}


class Front:
    """A service behind a gateway, with a token for all of it."""

    def __init__(self, site: Site, **variables: object) -> None:
        self.site = site
        site.serve()
        self.answers = Answers(site.run / "gateway.sock", site)
        self.gateway = Gateway(site.port, site.run / "gateway.sock", variables)
        self.token = self.gateway.token("app", "rw")
        self.gateway.start()

    def ask(self, method: str, path: str, content: object = None, token: str = "") -> httpx.Response:
        with self.gateway.http(token or self.token) as client:
            return client.request(method, path, json=content)

    def make(self, name: str) -> str:
        """The path of a new collection."""
        made: str = self.ask("POST", TOP, {"name": name}).json()["id"]
        return f"{TOP}/{made}"

    def restart(self) -> None:
        """As systemd does it: chromad answers again once it is ready."""
        self.answers.close()
        self.site.daemon.stop()
        self.site.serve()
        self.answers.open()

    def remove(self) -> None:
        self.gateway.stop()
        self.answers.close()


@pytest.fixture
def front(site: Site) -> Iterator[Front]:
    made = Front(site)
    yield made
    made.remove()


def owners(front: Front) -> int:
    return sum(each.startswith("owner") for each in front.answers.asked)


def test_an_owner_is_asked_for_once_until_the_data_change(front: Front) -> None:
    path = front.make("kept")
    for _ in range(5):
        assert front.ask("GET", f"{path}/count").json() == 0
    assert owners(front) == 1
    # As after a restore
    front.answers.generation = "2"
    asked = len(front.answers.asked)
    until(lambda: front.answers.asked[asked:].count("generation") >= 2, "questions for the generation")
    assert front.ask("GET", f"{path}/count").json() == 0
    assert owners(front) == 2


def test_what_is_not_there_is_not_kept(front: Front) -> None:
    """It may come to be in a restore, and there are as many of them as a client likes."""
    for _ in range(3):
        assert front.ask("GET", f"{TOP}/11111111-1111-4111-8111-111111111111/count").status_code == 404
    assert owners(front) == 3


@pytest.mark.parametrize("trouble", ["!the database is locked", "rubbish", "a/b/c", ""])
def test_chromad_that_cannot_tell(site: Site, trouble: str) -> None:
    """It is asked again, and so are those who wait for it."""
    front = Front(site, chromadb_gateway_wait="3s")
    try:
        path = front.make("unsaid")
        front.answers.trouble = trouble or "!the service is starting"
        if trouble:
            answer = front.ask("GET", f"{path}/count")
            assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (
                503,
                "InternalError",
                "5",
            )
            front.answers.trouble = ""
            assert front.ask("GET", f"{path}/count").json() == 0
        else:
            waiting = _aside(lambda: front.ask("GET", f"{path}/count").status_code)
            time.sleep(1)
            front.answers.trouble = ""
            assert waiting() == 200
    finally:
        front.remove()


def test_chromad_that_does_not_answer(site: Site) -> None:
    """Whoever waits for it is not slow or idle."""
    front = Front(
        site, chromadb_gateway_wait="3s", chromadb_gateway_slow_timeout="1s", chromadb_gateway_idle_timeout="1s"
    )
    try:
        path = front.make("alone")
        front.answers.close()
        started = time.monotonic()
        assert front.ask("GET", f"{path}/count").status_code == 503
        assert 2 < time.monotonic() - started < 8
        # What needs no owner is served.
        assert front.ask("GET", f"{TOP}/alone").status_code == 200
        waiting = _aside(lambda: front.ask("GET", f"{path}/count").status_code)
        time.sleep(1)
        front.answers.open()
        assert waiting() == 200
    finally:
        front.remove()


def _aside(call: Callable[[], Any]) -> Callable[[], Any]:
    """Calls in a thread; gives a function that waits for the result."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()

    def result() -> Any:
        thread.join(60)
        return found[0]

    return result


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [("507 the disk is full", 507, "the disk is full"), ('503 we "move"\\ house', 503, 'we "move"\\ house')],
)
def test_fence(front: Front, said: str, status: int, reason: str) -> None:
    path = front.make("fenced")
    assert front.ask("POST", f"{path}/add", RECORD).status_code == 201
    front.answers.fences = said
    refused = until(
        lambda: (answer := front.ask("POST", f"{path}/add", RECORD)).status_code == status and answer, "the fence", 10
    )
    assert isinstance(refused, httpx.Response)
    assert refused.json() == {"error": "InternalError", "message": f"writes are refused for now: {reason}"}
    assert refused.headers["retry-after"] == "30"
    for verb in ("update", "upsert"):
        assert front.ask("POST", f"{path}/{verb}", RECORD).status_code == status
    assert front.ask("POST", f"{path}/get", {}).json()["ids"] == ["1"]
    # Clients begin with it.
    assert front.ask("POST", TOP, {"name": "fenced", "get_or_create": True}).status_code == 200
    assert front.ask("POST", f"{path}/delete", {"ids": ["1"]}).status_code == 200
    assert front.ask("DELETE", f"{TOP}/fenced").status_code == 200
    front.answers.fences = "-"
    path = front.make("free")
    until(lambda: front.ask("POST", f"{path}/add", RECORD).status_code == 201, "the end of the fence", 10)


def _hold(data_dir: Path) -> None:
    with sqlite.connect(data_dir) as connection:
        hold.put(connection, "changes are held while we move")


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (partial(fence.put, kind=fence.OPERATOR, reason="moving"), "writes are fenced: moving"),
        (_hold, "changes are held while we move"),
    ],
)
def test_fence_that_is_not_told_of(front: Front, put: Callable[[Path], None], reason: str) -> None:
    """The door learns of a fence within a second, and never of an upgrade's hold: until then the engine refuses."""
    path = front.make("fenced")
    put(front.site.data)
    refused = front.ask("POST", f"{path}/add", RECORD)
    assert (refused.status_code, refused.headers.get("retry-after")) == (503, "5"), refused.text
    assert refused.json()["error"] == "InternalError"
    assert refused.json()["message"].endswith(reason)
    # It is written after the answer.
    until(lambda: front.gateway.logged()[-1]["status"] == 503, "the log", 10)
    # Any other error of the engine's is none to wait for.
    fence.put_around(front.site.data, sqlite.collections(front.site.data)[0], "the collection is in quarantine")
    fence.lift(front.site.data, fence.OPERATOR)
    with sqlite.connect(front.site.data) as connection:
        hold.drop(connection)
    refused = front.ask("POST", f"{path}/add", RECORD)
    assert (refused.status_code, "retry-after" in refused.headers) == (500, False)


@contextmanager
def load(front: Front, clients: int = 8) -> Iterator[None]:
    """Clients that add, query and get until the end of the block; asserts that each request was served."""
    path = front.make("loaded")
    wrong: list[str] = []
    done = [0] * clients
    ended = threading.Event()

    def work(number: int) -> None:
        with front.gateway.http(front.token) as client:
            while not ended.is_set():
                key = f"{number}-{done[number]}"
                try:
                    for verb, content in (
                        ("add", {"ids": [key], "embeddings": [[number, done[number], 1]]}),
                        ("query", {"query_embeddings": [[1, 2, 3]], "n_results": 1}),
                        ("get", {"ids": [key]}),
                    ):
                        answer = client.post(f"{path}/{verb}", json=content)
                        if not answer.is_success or (verb == "get" and answer.json()["ids"] != [key]):
                            wrong.append(f"{verb}: {answer.status_code} {answer.text[:200]}")
                except httpx.HTTPError as error:
                    wrong.append(repr(error))
                done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: min(done) > 3, "work of all clients")
        yield
        before = list(done)
        until(lambda: all(now > then for now, then in zip(done, before, strict=True)), "work of all clients afterwards")
    finally:
        ended.set()
        for thread in threads:
            thread.join(90)
    assert not wrong, (wrong[:5], [line for line in front.gateway.logged() if line["status"] not in (200, 201)])
    assert front.ask("GET", f"{path}/count").json() == sum(done)


def test_restarts_under_clients(front: Front) -> None:
    with load(front):
        for _ in range(5):
            front.restart()
            time.sleep(1)


def test_reloads_under_clients(front: Front) -> None:
    assert front.gateway.process
    with load(front):
        for _ in range(5):
            front.gateway.reload()
            time.sleep(1)
    until(lambda: len(front.gateway.workers) == 1, "the end of the former workers", 70)


def test_revoked_while_a_former_worker_is_left(front: Front) -> None:
    """A connection that is open across a reload is served by a worker that hears of nothing any more."""
    token = front.gateway.token("leaving", "ro")
    with front.gateway.http(token) as client:
        assert client.get("/api/v2/version").status_code == 200
        front.gateway.reload()
        front.gateway.revoke(token)
        assert len(front.gateway.workers) == 2
        assert client.get("/api/v2/version").status_code == 401
    with front.gateway.http(front.gateway.token("coming", "ro")) as client:
        assert client.get("/api/v2/version").status_code == 200


def test_a_change_that_a_new_worker_was_not_told(front: Front) -> None:
    """It was loaded before, and the one that it replaces was told."""
    gone, changed = front.gateway.token("gone", "ro"), front.gateway.token("changed", "ro")
    front.gateway.reload()
    front.gateway.revoke(gone, tell=False)
    front.gateway.change(changed, "changed|metrics|*/*|0|*")
    new = front.gateway.token("new", "ro", tell=False)
    until(lambda: front.ask("GET", "/api/v2/version", token=gone).status_code == 401, "the end of the token", 5)
    until(lambda: front.ask("GET", TOP, token=changed).status_code == 403, "the change of the token", 5)
    until(lambda: front.ask("GET", TOP, token=new).status_code == 200, "the new token", 5)


def test_a_map_that_cannot_be_read_for_a_moment(front: Front) -> None:
    """Nor is a change missed that comes after that."""
    gone = front.gateway.token("gone", "ro")
    front.gateway.reload()
    front.gateway.map.unlink()
    time.sleep(2.5)
    front.gateway.revoke(gone, tell=False)
    until(lambda: front.ask("GET", "/api/v2/version", token=gone).status_code == 401, "the end of the token", 5)


def test_a_fault_while_the_service_is_asked_does_not_last(site: Site) -> None:
    """A fence and the end of what is remembered would else never be heard of again."""
    site.serve()
    answers = Answers(site.run / "gateway.sock", site)
    gateway = Gateway(site.port, site.run / "gateway.sock")
    lua, start = gateway.root / "gateway.lua", "local function ask(question)\n"
    text = lua.read_text()
    assert start in text
    fault = '  if question == "fences" and not failed then failed = true; error("no memory") end\n'
    lua.write_text(text.replace(start, f"{start}{fault}"))
    token = gateway.token("app", "rw")
    gateway.start()
    try:
        answers.fences = "503 for a while"
        with gateway.http(token) as client:
            path = f"{TOP}/{client.post(TOP, json={'name': 'some'}).json()['id']}/add"
            until(lambda: client.post(path, json=RECORD).status_code == 503, "the fence", 5)
    finally:
        gateway.stop()
        answers.close()


@pytest.mark.parametrize("line", ['error("broken")', "local nothing = nil; nothing.field = 1", "txn:set_priv(nil)"])
@pytest.mark.parametrize("function", ["who", "may"])
def test_a_fault_in_the_judge_refuses(site: Site, function: str, line: str) -> None:
    """HAProxy goes on with the next rule after one that has failed."""
    site.serve()
    answers = Answers(site.run / "gateway.sock", site)
    gateway = Gateway(site.port, site.run / "gateway.sock")
    lua = gateway.root / "gateway.lua"
    text = lua.read_text()
    assert f"local function {function}(txn)\n" in text
    lua.write_text(text.replace(f"local function {function}(txn)\n", f"local function {function}(txn)\n  {line}\n"))
    token = gateway.token("app", "admin")
    gateway.start()
    try:
        with gateway.http(token) as client:
            answer = client.get("/api/v2/heartbeat")
        passes = function == "who" and "set_priv" in line
        assert answer.status_code == (200 if passes else 500), answer.text
        if not passes:
            assert answer.json()["error"] == "InternalError"
    finally:
        gateway.stop()
        answers.close()


def test_the_engine_is_away_for_too_long(site: Site) -> None:
    front = Front(site, chromadb_gateway_wait="2s", chromadb_gateway_idle_timeout="1s")
    try:
        site.daemon.stop()
        started = time.monotonic()
        answer = front.ask("GET", TOP)
        assert (answer.status_code, answer.json()["error"]) == (503, "InternalError")
        assert int(answer.headers["retry-after"]) > 0
        assert 1 < time.monotonic() - started < 10
    finally:
        front.remove()


def test_the_role_writes_what_haproxy_accepts(tmp_path: Path) -> None:
    """All that is asked for at once."""
    gateway = Gateway(
        8000,
        tmp_path / "gateway.sock",
        {"chromadb_gateway_listen": ["127.0.0.1", "::1"], "chromadb_gateway_redirect_port": 18080},
    )
    assert gateway.check() == ""
    gateway.stop()


def test_plain_http_is_sent_on(site: Site) -> None:
    from tests.integration.site import free_port

    port = free_port()
    gateway = Gateway(site.port, site.run / "gateway.sock", {"chromadb_gateway_redirect_port": port}).start()
    try:
        answer = httpx.get(f"http://localhost:{port}/api/v2/heartbeat", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (
            308,
            f"https://localhost:{gateway.port}/api/v2/heartbeat",
        )
        assert httpx.get(f"http://127.0.0.1:{port}/", headers={"Host": "evil.example"}).status_code == 400
    finally:
        gateway.stop()


def test_bodies_that_do_not_come_are_waited_for_by_few(tmp_path: Path) -> None:
    """Each takes memory meanwhile: a token has no more of it than its requests at a time are worth."""
    gateway = Gateway(8000, tmp_path / "gateway.sock", {"chromadb_gateway_concurrent_requests": 3})
    token = gateway.token("app", "rw")
    gateway.start()
    context = ssl.create_default_context(cafile=gateway.certificate)
    opened = []
    try:
        for _ in range(20):
            plain = socket.create_connection(("127.0.0.1", gateway.port), 5)
            opened.append(context.wrap_socket(plain, server_hostname="127.0.0.1"))
            lines = [f"POST {TOP} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", "Content-Length: 9"]
            opened[-1].sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        time.sleep(1)
        told = []
        for each in opened:
            each.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                told.append(each.recv(12))
        assert told == [b"HTTP/1.1 429"] * 14
    finally:
        for each in opened:
            each.close()
        gateway.stop()


@pytest.mark.parametrize("variable", ["chromadb_gateway_redirect_port", "chromadb_gateway_metrics_port"])
def test_connections_elsewhere_take_none_from_clients(tmp_path: Path, variable: str) -> None:
    """Plain HTTP and the gateway's own metrics are open to whoever reaches them, and need no token."""
    from tests.integration.site import free_port

    port = free_port()
    gateway = Gateway(8000, tmp_path / "gateway.sock", {variable: port, "chromadb_gateway_connections": 20}).start()
    opened: list[socket.socket] = []
    try:
        for _ in range(40):
            opened.append(socket.create_connection(("127.0.0.1", port), 5))
            opened[-1].sendall(b"GET")
        until(lambda: "CurrConns: 0\n" not in gateway.told("show info"), "connections", 10)
        with gateway.http() as client:
            assert client.get("/", timeout=3).status_code == 401
    finally:
        for each in opened:
            each.close()
        gateway.stop()


def test_the_addresses_of_one_host_count_as_one(tmp_path: Path) -> None:
    """A host has a whole /64 of IPv6."""
    gateway = Gateway(
        8000,
        tmp_path / "gateway.sock",
        {"chromadb_gateway_listen": ["::"], "chromadb_gateway_connections_per_address": 20},
    )
    script = f"""
        set -e
        ip link set lo up
        ip -6 route add local 2001:db8::/62 dev lo
        haproxy -db -f {gateway.configuration} >{gateway.root}/log 2>&1 &
        trap 'kill '$! EXIT
        until [ -S {gateway.admin} ]; do sleep 0.1; done; sleep 1
        {sys.executable} -c '
import socket
def connected(source):
    made = socket.socket(socket.AF_INET6)
    made.settimeout(5)
    made.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
    made.bind((source, 0))
    try:
        made.connect(("2001:db8::1", {gateway.port}))
        made.settimeout(0.5)
        return made if made.recv(1) else None
    except TimeoutError:
        return made
    except OSError:
        return None
held = [connected(f"2001:db8:0:1::{{number:x}}") for number in range(1, 31)]
print(sum(each is not None for each in held), connected("2001:db8:0:2::1") is not None)
'
    """
    try:
        done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False)
        assert done.stdout == "20 True\n", done.stderr + gateway.log
    finally:
        gateway.stop()
