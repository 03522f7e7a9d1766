"""What is seen of the gateway: it tells the service of itself, and status, doctor, metrics and page show it."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from chromad.gateway.tokens import SOON
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.account import until
from tests.integration.certificates import make_certificate
from tests.integration.gateway import ROLE, Gateway
from tests.integration.site import Site, free_port

pytestmark = pytest.mark.root

TOKENS = "/api/v2/heartbeat"


class House:
    """A service and its gateway, whose tokens chromactl makes."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.gateway = Gateway(site.port, site.run / "gateway.sock", {"chromadb_gateway_requests_per_second": 1})
        site.configure(
            {
                "gateway.socket": str(site.run / "gateway.sock"),
                "gateway.directory": str(self.gateway.root),
                "gateway.admin_socket": str(self.gateway.admin),
            }
        )
        site.serve()

    def ask(self, token: str = "", path: str = TOKENS) -> int:
        with self.gateway.http(token or None) as client:
            return client.get(path).status_code

    def told(self) -> dict[str, Any]:
        """What the service was told, without a right of root's."""
        found = self.site.daemon.status()["gateway"] or {}
        return dict(found)

    def doctor(self) -> dict[str, tuple[str, str]]:
        found = json.loads(self.site.chromactl("doctor", "--json").output)
        return {each["name"]: (each["status"], each["fact"]) for each in found}

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.site.metrics_port}/metrics", timeout=20) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return {
            sample.name + sample.labels.get("status", ""): sample.value
            for family in families
            for sample in family.samples
            if sample.name.startswith("chromad_gateway_")
        }


@pytest.fixture
def house(site: Site) -> Iterator[House]:
    made = House(site)
    yield made
    made.gateway.stop()


def test_refusals_certificate_and_tokens(house: House) -> None:
    assert house.doctor()["refusals"] == ("skip", "the gateway has told the service nothing of itself yet")
    assert house.metrics() == {"chromad_gateway_up": 0}
    text = re.findall(r"chr_\S+", house.site.chromactl("token", "add", "app", "--role", "ro").output)[0]
    house.site.chromactl("token", "add", "brief", "--role", "ro", "--expires", "2d")
    house.site.chromactl("token", "add", "lasting", "--role", "ro", "--expires", "90d")
    # A former text that ends does not make the token end.
    house.site.chromactl("token", "rotate", "lasting", "--keep", "1d")
    house.gateway.start()
    assert [house.ask(), house.ask(), house.ask("chr_wrong")] == [401, 401, 401]
    assert house.ask(text, "/nowhere") == 404
    assert [house.ask(text) for _ in range(12)].count(429) > 0
    until(lambda: house.told().get("refused", {}).get("429"), "what it has refused", 20)
    told = house.told()
    assert told["refused"].items() >= {"401": 3, "404": 1}.items()
    assert told["expiring"] == 1
    # The tests' certificate has two days.
    ends = datetime.fromisoformat(told["certificate_ends"])
    assert abs((ends - datetime.now(UTC)).total_seconds() - 2 * 86400) < 600
    found = house.doctor()
    assert found["refusals"][0] == "ok"
    assert "3 with 401" in found["refusals"][1]
    assert found["certificate"] == ("fail", f"it ends in 1 day, on {ends:%Y-%m-%d}")
    assert (found["gateway"][0], found["tokens"][0]) == ("ok", "warn")
    said = house.metrics()
    assert said["chromad_gateway_up"] == 1
    assert said["chromad_gateway_refused_requests_total401"] == 3
    assert said["chromad_gateway_certificate_end_timestamp_seconds"] == ends.timestamp()
    assert said["chromad_gateway_tokens_expiring"] == 1


def test_status(house: House) -> None:
    house.gateway.start()
    house.ask()
    until(lambda: house.told().get("refused"), "what it has refused", 20)
    shown = house.site.chromactl("status").output
    assert re.search(r"^  certificate +it ends in 1 day, on ", shown, re.MULTILINE)
    assert re.search(r"^  refused +1 with 401 since ", shown, re.MULTILINE)
    assert re.search(r"^  gateway +it runs and has the tokens", shown, re.MULTILINE)
    found = json.loads(house.site.chromactl("status", "--json").output)["gateway"]
    assert found["refused"] == {"401": 1}
    assert found["tokens"] == "0 tokens, none expires within 14 days"
    # Whoever is not root knows what the service was told.
    shown = house.site.chromactl("status", account=house.site.account).output
    assert re.search(r"^  refused +1 with 401 since ", shown, re.MULTILINE)
    assert re.search(r"^  gateway +it runs *$", shown, re.MULTILINE)
    found = json.loads(house.site.chromactl("status", "--json", account=house.site.account).output)["gateway"]
    assert found.keys() == {"since", "certificate_ends", "expiring", "refused", "silent"}


def test_a_renewed_certificate_is_seen_and_a_reload_begins_to_count_anew(house: House) -> None:
    house.gateway.start()
    house.ask()
    until(lambda: house.told().get("refused") and house.told()["certificate_ends"], "what it has refused", 20)
    before = house.told()
    make_certificate(house.gateway.certificate, "-days", "100")
    time.sleep(1)
    house.gateway.reload()
    until(lambda: house.told().get("certificate_ends", "") > before["certificate_ends"], "the new one", 20)
    assert house.told()["since"] > before["since"]
    assert house.told()["refused"] == {}
    assert house.doctor()["certificate"][1].startswith("it ends in 99 days, on ")


def test_one_that_says_no_more_counts_as_gone(house: House) -> None:
    house.gateway.start()
    until(house.told, "what it says", 20)
    assert house.gateway.process
    house.gateway.process.terminate()
    until(lambda: house.metrics()["chromad_gateway_up"] == 0, "its absence", 40)
    assert house.doctor()["refusals"][0] == "warn"
    assert re.search(r"^  gateway +it does not run", house.site.chromactl("status").output, re.MULTILINE)
    shown = house.site.chromactl("status", account=house.site.account).output
    assert re.search(r"^  gateway +it has told nothing of itself for ", shown, re.MULTILINE)


def test_both_sides_go_by_the_same_days() -> None:
    match = re.search(r"^local SOON = (\d+) \* 86400$", (ROLE / "files/seen.lua").read_text(), re.MULTILINE)
    assert match
    assert int(match[1]) == SOON.days


@pytest.mark.parametrize("tokens", [False, True])
def test_a_host_without_a_gateway_shows_nothing_of_one(site: Site, tokens: bool) -> None:
    """tokens: one that has been turned off leaves them, for the day when it is wanted again."""
    directory = site.root / f"none-{free_port()}"
    site.configure({"gateway.directory": str(directory)})
    if tokens:
        directory.mkdir()
        assert site.chromactl("token", "add", "kept", "--role", "ro").code == 0
    site.serve()
    assert site.daemon.status()["gateway"] is None
    with urllib.request.urlopen(f"http://127.0.0.1:{site.metrics_port}/metrics", timeout=20) as answer:
        assert not re.search(rb"^chromad_gateway_", answer.read(), re.MULTILINE)
    found = json.loads(site.chromactl("doctor", "--json").output)
    assert not {each["name"] for each in found} & {"refusals", "certificate", "gateway", "tokens"}
    shown = site.chromactl("status").output
    assert not re.search(r"^  (gateway|certificate|refused|tokens) ", shown, re.MULTILINE)
