"""Alert rules, dashboard and endpoint, with the real promtool and a real Prometheus; the role that installs them."""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chromad.monitoring.metrics import TABLE

from tests.integration.account import BIN, until
from tests.integration.prometheus import program
from tests.integration.site import Site, free_port

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "ansible/roles/chromadb_monitoring/files"
RULES = FILES / "chromadb.rules.yml"
CASES = sorted(ROOT.glob("tests/prometheus/*_test.yml"))
_METRIC = re.compile(r"\bchromad_[a-z_]+\b")


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
    assert set(_METRIC.findall(rule["expr"])) <= TABLE.keys()
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description"}


def test_dashboard_asks_for_what_there_is() -> None:
    asked = expressions()
    assert len(asked) > 15
    for text in asked:
        assert set(_METRIC.findall(text)) <= TABLE.keys(), text
    assert "chromad_" in " ".join(asked)


@pytest.fixture
def server(site: Site, tmp_path: Path) -> Iterator[str]:
    """A Prometheus that scrapes a daemon each second and has our rules; gives its address."""
    site.serve()
    port = free_port()
    document = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "chromadb", "static_configs": [{"targets": [f"127.0.0.1:{site.metrics_port}"]}]}
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    words = [
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with open(tmp_path / "log", "wb") as log:
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
