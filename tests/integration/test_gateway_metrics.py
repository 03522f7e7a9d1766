"""Metrics and page at the gateway: for tokens of the role metrics, and for nobody else."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.integration import gateway_routes, records
from tests.integration.account import until
from tests.integration.gateway import Answers, Gateway
from tests.integration.gateway_routes import ROLES
from tests.integration.site import Site, free_port

pytestmark = pytest.mark.root

TELEMETRY = gateway_routes.telemetry()
WITHIN = {
    "/metrics": "chromad_ready 1.0",
    "/metrics/gateway": 'haproxy_frontend_status{proxy="chromadb",state="UP"} 1',
    "/": '<section id="gateway" hidden>',
    "/api/status": '"state": "serving"',
}


class House:
    """A service with a collection behind a gateway, and a token of each role for everything."""

    def __init__(self, site: Site, **variables: object) -> None:
        records.fill(site.serve().client(), "hidden", 3)
        self.site = site
        self.answers = Answers(site.run / "gateway.sock", site)
        known = {"chromadb_metrics_port": site.metrics_port, **variables}
        self.gateway = Gateway(site.port, site.run / "gateway.sock", known)
        self.tokens = {role: self.gateway.token(role, role, "-/-" if role == "metrics" else "*/*") for role in ROLES}
        self.gateway.start()

    def ask(self, path: str, role: str = "metrics", method: str = "GET", **headers: str) -> httpx.Response:
        with self.gateway.http(self.tokens[role] if role else None, headers=headers) as client:
            return client.request(method, path)

    def remove(self) -> None:
        self.gateway.stop()
        self.answers.close()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    site = Site()
    made = House(site)
    yield made
    made.remove()
    site.remove()


def test_there_is_a_part_to_look_for_in_each() -> None:
    assert {route.path for route in TELEMETRY} == WITHIN.keys()
    assert {route.method for route in TELEMETRY} == {"GET"}


@pytest.mark.parametrize("path", WITHIN)
def test_the_role_metrics_and_no_other(house: House, path: str) -> None:
    answer = house.ask(path)
    assert answer.status_code == 200
    assert WITHIN[path] in answer.text
    for role in ("ro", "rw", "admin"):
        answer = house.ask(path, role)
        assert answer.status_code == 403, role
        assert answer.json()["message"] == f"the token {role} has the role {role}, and this needs metrics"
    assert house.ask(path, "").status_code == 401
    assert house.ask(path, method="POST").status_code == 405
    assert house.ask(f"{path}?more=1").status_code == 400


def test_nothing_else_of_the_daemon_or_of_the_data(house: House) -> None:
    for path in (
        "/healthz",
        "/readyz",
        "/metrics/",
        "/metrics/other",
        "/api",
        "/api/status/x",
        "/metrics//gateway",
        "/metrics%2fgateway",
        "/%6detrics",
    ):
        assert house.ask(path).status_code in (400, 404), path
    top = "/api/v2/tenants/default_tenant"
    for path in (
        top,
        f"{top}/databases/default_database/collections",
        f"{top}/databases/default_database/collections/hidden",
    ):
        assert house.ask(path).status_code == 403, path
    for text in (house.ask("/api/status").text, house.ask("/metrics").text):
        assert "hidden" not in text


def test_the_daemon_sees_its_own_name_whatever_the_client_calls_it(house: House) -> None:
    """Which it refuses otherwise, as a page elsewhere might have made up the name."""
    direct = httpx.get(f"http://127.0.0.1:{house.site.metrics_port}/metrics", headers={"Host": "rebound.example.org"})
    assert direct.status_code == 421
    for name in ("vectors1.example.org", "rebound.example.org:8443"):
        assert house.ask("/metrics", Host=name).status_code == 200


def test_headers_of_the_page_come_through(house: House) -> None:
    headers = house.ask("/").headers
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store"


def test_token_does_not_reach_the_daemon(house: House) -> None:
    """What it would put into its journal, or into a page, it does not have."""
    house.ask("/metrics")
    assert house.tokens["metrics"] not in house.site.daemon.log
    assert house.tokens["metrics"] not in house.gateway.log
    # A line is written after the answer.
    until(lambda: house.gateway.logged()[-1]["route"] == "GET /metrics", "its line")


def test_without_a_daemon_it_is_said_soon(house: House, site: Site) -> None:
    alone = House(site, chromadb_metrics_port=free_port())
    try:
        answer = alone.ask("/metrics")
        assert (answer.status_code, answer.json()["error"]) == (503, "InternalError")
        assert alone.ask("/metrics/gateway").status_code == 200
    finally:
        alone.remove()


def test_a_service_without_metrics(site: Site) -> None:
    without = House(site, chromadb_metrics_port=0)
    try:
        answer = without.ask("/metrics")
        assert answer.status_code == 404
        assert json.loads(answer.text)["message"].startswith("the service has no metrics. HINT: ")
    finally:
        without.remove()
