"""The listener of the daemon: metrics, health checks and the page's figures, and clients that behave badly."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from chromad.monitoring.metrics import TABLE
from prometheus_client.parser import text_string_to_metric_families

from tests.integration import holders, records
from tests.integration.account import until
from tests.integration.site import Site, free_port

MEGABYTES = 45


@pytest.fixture(scope="module")
def busy() -> Iterator[Site]:
    """A served site with records, a checkpoint, a backup and a drill."""
    site = Site()
    site.configure({"gateway.socket": str(site.run / "gateway.sock")})
    records.fill(site.serve().client(), "some", 150, sync_threshold=100)
    site.backup()
    assert tell_of_gateway(site, "since=1790000000 certificate=1800000000 expiring=2 401=5 429=7") == "-"
    assert site.chromactl("verify").code == 0
    yield site
    site.remove()


def tell_of_gateway(site: Site, words: str) -> str:
    """As the gateway says it; gives the answer."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rw") as lines:
        connection.settimeout(20)
        connection.connect(str(site.run / "gateway.sock"))
        lines.write(f"seen {words}\n")
        lines.flush()
        return lines.readline().strip()


def get(site: Site, path: str, method: str = "GET") -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection("127.0.0.1", site.metrics_port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def scrape(site: Site) -> dict[str, dict[tuple[str, ...], float]]:
    """By name, the values by the values of their labels."""
    status, headers, text = get(site, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        f"{family.name}{'_total' * (family.type == 'counter')}": {
            tuple(sample.labels.values()): sample.value for sample in family.samples
        }
        for family in text_string_to_metric_families(text)
    }


def resident(site: Site) -> float:
    """Megabytes of the daemon."""
    found = re.search(r"VmRSS:\s+(\d+)", site.daemon.proc_status())
    assert found
    return int(found[1]) / 1024


def test_every_metric_of_the_table_has_values(busy: Site) -> None:
    until(lambda: scrape(busy)["chromad_log_rows"], "the first sample")
    found = scrape(busy)
    assert not {name for name in TABLE if not found[name]}
    assert not {name for name in found if name.startswith("chromad_")} - TABLE.keys()
    assert found["chromad_state"][("serving",)] == 1
    assert sum(found["chromad_state"].values()) == 1
    assert found["chromad_ready"][()] == found["chromad_engine_up"][()] == 1
    assert 0 < found["chromad_disk_used_ratio"][("data",)] < 1
    assert found["chromad_disk_fence_ratio"][()] == 0.95
    assert found["chromad_engine_resident_memory_bytes"][()] > 10e6
    now = time.time()
    for name in (
        "start_time",
        "backup_last_good_timestamp",
        "drill_last_good_timestamp",
        "checkpoint_newest_timestamp",
    ):
        assert now - 300 < found[f"chromad_{name}_seconds"][()] <= now
    assert found["chromad_gateway_certificate_end_timestamp_seconds"][()] == 1800000000
    assert found["chromad_gateway_refused_requests_total"] == {("401",): 5, ("429",): 7}
    assert found["process_resident_memory_bytes"][()] < MEGABYTES * 1e6


def test_what_an_operator_does_is_seen(busy: Site) -> None:
    busy.chromactl("fence", "--reason", "maintenance")
    assert scrape(busy)["chromad_fence"] == {("operator",): 1.0, ("disk",): 0.0}
    busy.chromactl("unfence")
    assert scrape(busy)["chromad_fence"] == {("operator",): 0.0, ("disk",): 0.0}


def test_names_and_cardinality(busy: Site) -> None:
    client = busy.daemon.client()
    before = sum(len(values) for values in scrape(busy).values())
    for number in range(10):
        client.create_collection(f"another-{number}")
    assert sum(len(values) for values in scrape(busy).values()) == before
    assert all(re.fullmatch(r"chromad_[a-z_]+", name) for name in TABLE)


def test_health_and_readiness(busy: Site) -> None:
    assert get(busy, "/healthz")[0::2] == (200, "alive\n")
    assert get(busy, "/readyz")[0::2] == (200, "ready\n")


def test_figures_of_the_page(busy: Site) -> None:
    status, headers, text = get(busy, "/api/status")
    found = json.loads(text)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert found["state"] == "serving"
    assert [each["proven"] for each in found["taken"]] == [True]
    assert [each["problem"] for each in found["drills"]] == [""]
    assert found["disks"].keys() == {"data", "checkpoints", "backups"}
    until(lambda: json.loads(get(busy, "/api/status")[2])["history"]["log"], "a sample")


def test_page_needs_nothing_else(busy: Site) -> None:
    status, headers, text = get(busy, "/")
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"(src|href)=\"(https?:)?//", text)


@pytest.mark.parametrize(("path", "method", "status"), [("/nothing", "GET", 404), ("/../etc/passwd", "GET", 404), ("/metrics", "POST", 501), ("/metrics", "DELETE", 501), ("/" + "x" * 70000, "GET", 414)])  # fmt: skip
def test_wrong_requests(busy: Site, path: str, method: str, status: int) -> None:
    found, _, text = get(busy, path, method)
    assert found == status
    assert "Traceback" not in text


def test_head(busy: Site) -> None:
    status, headers, text = get(busy, "/metrics", "HEAD")
    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 1000


def test_clients_that_behave_badly(busy: Site) -> None:
    talkers = [_connect(busy) for _ in range(100)]
    for number, talker in enumerate(talkers):
        try:
            talker.sendall((b"GET /metrics HTTP/1.1\r\nX: ", b"\x00\xff\xfe" * 1000, b"", b"GET")[number % 4])
        except OSError:
            continue
    # Those who came first are hung up on when they have had their time.
    until(lambda: _answers(busy), "an answer beside 100 clients that wait", 30)
    for talker in talkers:
        talker.close()
    many = [threading.Thread(target=_answers, args=(busy,)) for _ in range(200)]
    for thread in many:
        thread.start()
    for thread in many:
        thread.join()
    with _connect(busy) as endless:
        try:
            endless.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000)
            endless.settimeout(20)
            assert b" 431 " in endless.recv(100)
        except ConnectionError:
            pass
    assert busy.daemon.status()["state"] == "serving"
    assert get(busy, "/healthz")[0] == 200
    assert "Traceback" not in busy.daemon.log
    assert resident(busy) < MEGABYTES


def test_not_ready_before_it_serves(site: Site) -> None:
    daemon = site.serve()
    client = daemon.client()
    for number in range(30):
        records.fill(client, f"some-{number}", 30, sync_threshold=10)
    daemon.stop()
    seen: set[tuple[str, int, str]] = set()
    starting = site.start()
    while "READY=1" not in starting.notify.lines:
        assert starting.process.poll() is None, starting.log
        for path in ("/readyz", "/healthz"):
            try:
                status, _, text = get(site, path)
            except OSError:
                continue
            seen.add((path, status, text.strip()))
    assert ("/readyz", 503, "starting") in seen
    assert ("/healthz", 200, "alive") in seen
    assert not [each for each in seen if each[0] == "/readyz" and each[1] == 200 and each[2] != "ready"]
    until(lambda: get(site, "/readyz")[0] == 200, "readiness")


def test_restart_after_a_scrape(site: Site) -> None:
    site.serve()
    assert get(site, "/metrics")[0] == 200
    site.daemon.stop()
    # What is left of the connection (TIME_WAIT) must not keep the port.
    site.serve()
    assert get(site, "/readyz")[0] == 200


def test_ledger_that_somebody_has_edited(busy: Site) -> None:
    before = busy.ledger
    busy.edit_ledger(last_good="yesterday")
    try:
        found = scrape(busy)
        assert found["chromad_backup_last_good_timestamp_seconds"] == {}
        assert found["chromad_ready"][()] == 1
        assert get(busy, "/api/status")[0] == 200
    finally:
        busy.edit_ledger(**before)
    assert scrape(busy)["chromad_backup_last_good_timestamp_seconds"]


def test_switched_off(site: Site) -> None:
    site.configure({"metrics.port": 0})
    daemon = site.serve()
    assert daemon.status()["metrics"] is None
    with pytest.raises(ConnectionRefusedError):
        _connect(site)


def test_port_is_taken(site: Site) -> None:
    port = site.port
    site.configure({"listen.port": free_port(), "metrics.port": port})
    holder = holders.port(site)
    site.assert_refused(75, f"127.0.0.1:{port} is taken by pid {holder.pid}", "metrics.port")


def _connect(site: Site) -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.metrics_port), timeout=20)


def _answers(site: Site) -> bool:
    try:
        return get(site, "/healthz")[0] == 200
    except (OSError, http.client.HTTPException):
        return False
