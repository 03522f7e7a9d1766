"""Whose a collection is, as the gateway remembers it: of thousands, and of ids that want the same place in its memory."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.integration.account import until
from tests.integration.gateway import Answers, Gateway

TENANTS = 7
# More than fit into its memory before it grows
MANY = 1000


def tenant(identifier: str) -> str:
    """Whose it is: neighbours belong to others, in each half of an id."""
    first, second = int(identifier[:8], 16), int(identifier[-12:], 16)
    return f"tenant-{(first + second) % TENANTS}"


class Invented(Answers):
    """Says so of every id."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, None)  # type: ignore[arg-type]

    def _owner(self, collection: str) -> str:
        return f"{tenant(collection)}/default_database"


class _Engine(BaseHTTPRequestHandler):
    """Has whatever it is asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        # At once: of two parts, the second would wait for the first to be acknowledged.
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[Gateway, Invented]]:
    engine = ThreadingHTTPServer(("127.0.0.1", 0), _Engine)
    Thread(target=engine.serve_forever, daemon=True).start()
    (tmp_path / "answers").mkdir()
    answers = Invented(tmp_path / "answers/gateway.sock")
    limits = {"chromadb_gateway_requests_per_second": 100_000}
    gateway = Gateway(engine.server_port, tmp_path / "answers/gateway.sock", limits)
    try:
        yield gateway.start(), answers
    finally:
        gateway.stop()
        answers.close()
        engine.shutdown()
        engine.server_close()


def ids() -> list[str]:
    """Of both halves: alike in one and not in the other, in the bits that choose the place or in those that do not."""
    spread = [f"{number % 3:08x}-0000-4000-8000-{number:012x}" for number in range(MANY)]
    crowded = [f"{number:08x}-0000-4000-8000-{place << 20:012x}" for number in range(12) for place in range(12)]
    far = [f"ffffffff-ffff-4fff-bfff-ffffffffff{number:02x}" for number in range(256)]
    return [*spread, *crowded, *far]


def test_each_is_its_owners_and_nobody_elses(gateway: tuple[Gateway, Invented]) -> None:
    proxy, answers = gateway
    tokens = {f"tenant-{number}": proxy.token(f"t{number}", "ro", f"tenant-{number}/*") for number in range(TENANTS)}
    path = "/api/v2/tenants/{}/databases/default_database/collections/{}/count"
    with proxy.http() as client:

        def status(identifier: str, who: str) -> int:
            return client.get(
                path.format(who, identifier), headers={"Authorization": f"Bearer {tokens[who]}"}
            ).status_code

        for _ in range(2):
            for number, identifier in enumerate(ids()):
                mine, another = tenant(identifier), f"tenant-{number % TENANTS}"
                assert status(identifier, mine) == 200, identifier
                assert status(identifier, another) == (200 if another == mine else 404), identifier
        answers.asked.clear()
        for identifier in ids()[-300:]:
            assert status(identifier, tenant(identifier)) == 200, identifier
    assert not [each for each in answers.asked if each.startswith("owner")], "what it knows is asked again"


def test_they_are_forgotten_when_the_data_are_others(gateway: tuple[Gateway, Invented]) -> None:
    proxy, answers = gateway
    token = proxy.token("all", "ro")
    identifier = ids()[1]
    path = f"/api/v2/tenants/{tenant(identifier)}/databases/default_database/collections/{identifier}/count"
    with proxy.http(token) as client:
        assert client.get(path).status_code == 200
        answers.asked.clear()
        assert client.get(path).status_code == 200
        assert not [each for each in answers.asked if each.startswith("owner")]
        answers.generation = "2"
        # The first one may have been on its way already.
        until(lambda: answers.asked.count("generation") >= 2, "two looks", 20)
        assert json.loads(client.get(path).text) == 7
    assert [each for each in answers.asked if each.startswith("owner")]
