"""Alert rules, dashboard and endpoint, with the real promtool and a real Prometheus; the role that installs them."""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from chromad.monitoring.metrics import TABLE
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.account import BIN, until
from tests.integration.gateway import Gateway
from tests.integration.prometheus import program
from tests.integration.site import Site, free_port

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "ansible/roles/chromadb_monitoring/files"
RULES = FILES / "chromadb.rules.yml"
CASES = sorted(ROOT.glob("tests/prometheus/*_test.yml"))
_METRIC = re.compile(r"\b(?:chromad|haproxy)_[a-z_]+\b")
# What is asked of HAProxy's exporter; test_haproxy_has_what_is_asked_of_it asks a real one.
HAPROXY = {
    "haproxy_backend_http_responses_total": {"proxy": "engine", "code": "5xx"},
    "haproxy_frontend_http_responses_total": {"proxy": "chromadb", "code": "2xx"},
    "haproxy_frontend_current_sessions": {"proxy": "waiting"},
    "haproxy_frontend_limit_sessions": {"proxy": "chromadb"},
}
KNOWN = TABLE.keys() | HAPROXY.keys()


def alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """All that the dashboard asks, with its variables filled in."""
    dashboard = json.loads((FILES / "chromadb.json").read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [text.replace("$instance", ".*").replace("$__rate_interval", "5m") for text in found]


def test_rules_fire_and_are_silent_when_they_should() -> None:
    for verb, files in (("check", [RULES]), ("test", CASES)):
        done = subprocess.run([program("promtool"), verb, "rules", *files], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_each_alert(rule: dict[str, Any]) -> None:
    text = "".join(cases.read_text(encoding="utf-8") for cases in CASES)
    assert f'alertname="{rule["alert"]}"' in text, "no case in which it fires"
    assert set(_METRIC.findall(rule["expr"])) <= KNOWN
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description"}


def test_dashboard_asks_for_what_there_is() -> None:
    asked = expressions()
    assert len(asked) > 15
    for text in asked:
        assert set(_METRIC.findall(text)) <= KNOWN, text
    assert "chromad_" in " ".join(asked)


@pytest.fixture
def server(site: Site, tmp_path: Path) -> Iterator[str]:
    """A Prometheus that scrapes a daemon; gives its address."""
    site.serve()
    with prometheus(tmp_path, jobs({"chromadb": site.metrics_port})) as address:
        yield address


def jobs(ports: Mapping[str, int]) -> list[dict[str, Any]]:
    """What is scraped on this host, by job."""
    return [{"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in ports.items()]


@contextmanager
def prometheus(directory: Path, scraped: list[dict[str, Any]]) -> Iterator[str]:
    """A Prometheus that scrapes each second and has our rules; gives its address."""
    port = free_port()
    document = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": scraped,
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    words = [
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen([program("prometheus"), *words], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def query(server: str, text: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{server}/api/v1/query?query={urllib.parse.quote(text)}", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found
    except OSError:
        return []


def test_scraped_by_a_real_prometheus(site: Site, server: str) -> None:
    until(lambda: query(server, "chromad_ready == 1"), "a scrape")
    assert query(server, 'up{job="chromadb"}')[0]["value"][1] == "1"
    assert {each["metric"]["state"] for each in query(server, "chromad_state")} >= {"serving", "warming"}
    assert query(server, 'ALERTS{alertstate="firing"}') == []
    for text in expressions():
        urllib.request.urlopen(f"{server}/api/v1/query?query={urllib.parse.quote(text)}", timeout=10).close()
    assert site.chromactl("fence", "--reason", "maintenance").code == 0
    until(lambda: query(server, 'chromad_fence{kind="operator"} == 1'), "the fence")
    until(lambda: query(server, 'ALERTS{alertname="ChromadOperatorFence",alertstate="pending"}'), "its alert")
    site.daemon.stop()
    until(lambda: query(server, 'ALERTS{alertname="ChromadDown"}'), "the alert that it is down")


@pytest.fixture
def gateway(site: Site) -> Iterator[Gateway]:
    """A gateway before a served site, whose daemon it tells of itself."""
    site.configure({"gateway.socket": str(site.run / "gateway.sock")})
    made = Gateway(site.port, site.run / "gateway.sock")
    site.serve()
    made.start()
    yield made
    made.stop()


@pytest.mark.root
def test_haproxy_has_what_is_asked_of_it(gateway: Gateway) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.metrics_port}/metrics", timeout=20) as answer:
        found = [
            (sample.name, sample.labels)
            for family in text_string_to_metric_families(answer.read().decode())
            for sample in family.samples
        ]
    for name, labels in HAPROXY.items():
        assert (name, labels) in [(each, {key: there.get(key) for key in labels}) for each, there in found], name


@pytest.mark.root
def test_gateway_scraped_by_a_real_prometheus(site: Site, gateway: Gateway, tmp_path: Path) -> None:
    scraped = jobs({"chromadb": site.metrics_port, "chromadb-gateway": gateway.metrics_port})
    with prometheus(tmp_path, scraped) as server:
        until(
            lambda: query(server, "chromad_gateway_certificate_end_timestamp_seconds > time()"), "the certificate", 60
        )
        # The tests' certificate has two days.
        until(lambda: query(server, 'ALERTS{alertname="ChromadGatewayCertificateLate"}'), "its alert")
        assert query(server, 'ALERTS{alertname=~"ChromadGateway(Down|Errors|Full|Waiting)"}') == []
        asked = [text for text in expressions() if "gateway" in text]
        assert len(asked) == 8
        with gateway.http() as client:
            assert client.get("/api/v2/heartbeat").status_code == 401
        refused = 'chromad_gateway_refused_requests_total{status="401"}'
        until(lambda: query(server, f"{refused} == 1"), "the refusal")
        for text in asked:
            until(partial(query, server, text), text)
        assert gateway.process
        gateway.process.terminate()
        down = 'ALERTS{alertname="ChromadGatewayDown",instance=~".*:%d"}'
        until(lambda: query(server, down % gateway.metrics_port), "the alert of its own metrics")
        until(lambda: query(server, down % site.metrics_port), "the alert of the daemon's", 60)


@pytest.mark.root
def test_scraped_through_the_gateway_as_its_readme_says(site: Site, tmp_path: Path) -> None:
    site.serve()
    gateway = Gateway(site.port, site.run / "gateway.sock", {"chromadb_metrics_port": site.metrics_port})
    (tmp_path / "token").write_text(f"{gateway.token('prometheus', 'metrics', '-/-')}\n")
    text = (ROOT / "ansible/roles/chromadb_gateway/README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```yaml\n(scrape_configs:\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for theirs, ours in (
        ("/etc/prometheus/prometheus.token", tmp_path / "token"),
        ("/etc/prometheus/ca.pem", gateway.certificate),
        ("vectors1.example.org:8443", f"localhost:{gateway.port}"),
    ):
        assert theirs in example
        example = example.replace(theirs, str(ours))
    gateway.start()
    try:
        with prometheus(tmp_path, yaml.safe_load(example)["scrape_configs"]) as server:
            until(lambda: query(server, 'chromad_ready{job="chromadb"} == 1'), "the daemon's")
            until(lambda: query(server, 'haproxy_frontend_limit_sessions{job="chromadb-gateway"}'), "the gateway's")
    finally:
        gateway.stop()


def test_role(tmp_path: Path) -> None:
    rules, dashboards, targets = (tmp_path / name for name in ("rules", "dashboards", "targets"))
    variables = {
        "chromadb_monitoring_rules_dir": str(rules),
        "chromadb_monitoring_dashboards_dir": str(dashboards),
        "chromadb_monitoring_targets_dir": str(targets),
        "chromadb_monitoring_targets": ["db1.example.com:9464", "db2.example.com:9464"],
        "chromadb_monitoring_reload_command": ["touch", str(tmp_path / "reloaded")],
        "ansible_become": False,
        "ansible_python_interpreter": str(BIN / "python"),
    }
    play = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "roles": ["chromadb_monitoring"]}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play), encoding="utf-8")

    def run(*words: str) -> str:
        command: list[str | Path] = [
            BIN / "ansible-playbook",
            tmp_path / "play.yml",
            "-e",
            json.dumps(variables),
            *words,
        ]
        environment = {
            "PATH": f"{BIN}:/usr/bin:/bin",
            "ANSIBLE_CONFIG": str(ROOT / "ansible/ansible.cfg"),
            "HOME": str(tmp_path),
        }
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT / "ansible", env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    for place in (rules, dashboards, targets):
        place.mkdir()
        # As other roles give it, which would change it back
        place.chmod(0o775)
    run("--check")
    assert not list(rules.iterdir())
    assert re.search(r"changed=[1-9]", run())
    assert (tmp_path / "reloaded").exists()
    assert "changed=0" in run()
    assert {place.stat().st_mode & 0o777 for place in (rules, dashboards, targets)} == {0o775}
    assert (rules / "chromadb.rules.yml").read_bytes() == RULES.read_bytes()
    [group] = json.loads((targets / "chromadb.json").read_text(encoding="utf-8"))
    assert group["targets"] == variables["chromadb_monitoring_targets"]
    assert json.loads((dashboards / "chromadb.json").read_bytes())["uid"] == "chromadb"
    for path in sorted(targets.rglob("*"), reverse=True):
        path.unlink()
    targets.rmdir()
    run()
    assert targets.stat().st_mode & 0o777 == 0o755
