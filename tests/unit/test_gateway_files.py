"""The files of the gateway's role say the same as each other, as the units and as the playbooks."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.gateway import ROLE, rendered, text, variable

ROOT = ROLE.parents[2]
UNITS = ("chromadb-gateway.service", "chromadb-gateway-certificate.service", "chromadb-gateway-certificate.path")
PLAYBOOKS = [
    path
    for path in sorted((ROOT / "ansible/playbooks").glob("*.yml"))
    if re.search(r"^    - chromadb_backup$", path.read_text(), re.MULTILINE)
]


def test_there_are_playbooks_that_configure_the_service() -> None:
    assert [path.name for path in PLAYBOOKS] == ["site.yml", "upgrade.yml"]


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.name)
def test_whatever_configures_the_service_has_it_answer_the_gateway(playbook: Path) -> None:
    """One that does not would take the socket away from a gateway that runs."""
    [play] = yaml.safe_load(playbook.read_text())
    names: list[str] = []
    for task in play["pre_tasks"]:
        included = task.get("ansible.builtin.include_role") or task["ansible.builtin.import_role"]
        names.append(included["tasks_from"])
        if included["name"] == "chromadb_gateway":
            assert task["when"] == "chromadb_gateway_enabled | default(false) | bool"
    # What is there of the role chromadb before it looks at the host, which is not to have been given a gateway unknown to it.
    assert names == (["before.yml"] if playbook.name == "site.yml" else ["answers.yml", "upgrade.yml", "before.yml"])
    [gateway] = [role for role in play["roles"] if role != "chromadb_backup"]
    assert gateway == {"role": "chromadb_gateway", "when": "chromadb_gateway_enabled | default(false) | bool"}


@pytest.mark.parametrize("unit", UNITS)
def test_a_drop_in_says_what_the_static_unit_says_but_for_the_paths(unit: str) -> None:
    """With the default paths, each of its settings is in the static unit, word for word."""
    static = (ROOT / "systemd" / unit).read_text().splitlines()
    for line in rendered(f"{unit}.j2", {}).splitlines():
        if "=" in line and not line.startswith("#") and not line.endswith("="):
            assert line in static


def test_files_of_clients_authority_are_watched_as_the_certificate_is() -> None:
    variables: dict[str, object] = {
        "chromadb_gateway_client_ca": "/etc/ssl/ca.pem",
        "chromadb_gateway_client_crl": "/etc/ssl/crl.pem",
    }
    path = rendered("chromadb-gateway-certificate.path.j2", variables).splitlines()
    assert path[-2:] == ["PathChanged=/etc/ssl/ca.pem", "PathChanged=/etc/ssl/crl.pem"]
    service = rendered("chromadb-gateway-certificate.service.j2", variables).splitlines()
    take = "/etc/chromadb/gateway/trust take-clients /etc/chromadb/gateway /etc/ssl/ca.pem /etc/ssl/crl.pem"
    assert [line for line in service if line.startswith("ExecStart")] == [
        "ExecStart=",
        f"ExecStart=-/bin/sh {take}",
        "ExecStartPost=/bin/sh /etc/chromadb/gateway/trust check-clients /etc/ssl/ca.pem /etc/ssl/crl.pem",
        "ExecStart=/bin/sh /etc/chromadb/gateway/certificate take /etc/chromadb/gateway/own.crt /etc/chromadb/gateway/own.key"
        " /etc/chromadb/gateway/tls.pem",
    ]
    units = "{{ _chromadb_gateway_drop_ins | join(' ') }}"
    assert "certificate.path" in text(units, variables)
    assert "certificate.path" not in text(units, {})


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"chromadb_gateway_port": 443, "chromadb_gateway_redirect_port": 80},
        {
            "chromadb_gateway_listen": ["192.0.2.7"],
            "chromadb_gateway_redirect_port": 80,
            "chromadb_gateway_metrics_port": 0,
        },
        {"chromadb_gateway_listen": ["2001:db8::7", "192.0.2.7"]},
    ],
    ids=["as it is", "low ports", "one address", "other addresses"],
)
def test_haproxy_takes_the_sockets_that_systemd_has_for_it_in_their_order(variables: dict[str, Any]) -> None:
    streams = [
        line
        for line in rendered("chromadb-gateway.socket.j2", variables).splitlines()
        if "=" in line and line[-1] != "="
    ]
    if not variables:
        static = (ROOT / "systemd/chromadb-gateway.socket").read_text().splitlines()
        assert [line for line in static if line.startswith("ListenStream=")] == streams
    wanted = [line.partition("=")[2] for line in streams]
    configuration = rendered("haproxy.cfg.j2", variables)
    given, own = [], []
    for with_systemd, without in re.findall(
        r"\.if defined\(LISTEN_FDS\)\n(.*?)\.else\n(.*?)\.endif", configuration, re.DOTALL
    ):
        given += re.findall(r"bind fd@(\d+)", with_systemd)
        own += re.findall(r"bind (\S+)", without)
    assert [int(each) for each in given] == list(range(3, 3 + len(wanted)))
    assert own == wanted
    assert len(re.findall(r"^ *bind (?!unix@|fd@)", configuration, re.MULTILINE)) == len(wanted)


@pytest.mark.parametrize("unit", ["chromadb-local.service", "chromadb-metrics.service", "chromadb-metrics.socket"])
def test_ways_into_the_network_lead_where_chromad_listens(unit: str) -> None:
    static = (ROOT / "systemd" / unit).read_text().splitlines()
    for line in rendered(f"{unit}.j2", {}).splitlines():
        if "=" in line and not line.startswith("#") and not line.endswith("="):
            assert line in static
    place = rendered(
        f"{unit}.j2", {"chromadb_listen_port": 7001, "chromadb_metrics_port": 7002, "chromadb_metrics_host": "::1"}
    )
    # systemd-socket-proxyd takes brackets for part of a name.
    inside = " 127.0.0.1:7001" if "local" in unit else " ::1:7002"
    assert ("ListenStream=[::1]:7002" if unit.endswith(".socket") else inside) in place.splitlines()[-1]


def test_whoever_reaches_chroma_joins_one_network() -> None:
    units = {path.name: path.read_text() for path in (ROOT / "systemd").iterdir() if path.suffix == ".service"}
    units["chromadb.service"] = rendered("chromadb.service.j2", {})
    joined = {name for name, text in units.items() if "JoinsNamespaceOf=" in text}
    assert joined == {
        "chromadb.service",
        "chromadb-gateway.service",
        "chromadb-local.service",
        "chromadb-metrics.service",
    }
    for name in joined:
        for line in ("JoinsNamespaceOf=chromadb-network.service", "PrivateNetwork=yes"):
            assert line in units[name].splitlines(), name
        assert re.search(r"^Requires=.*\bchromadb-network\.service", units[name], re.MULTILINE), name
        assert re.search(r"^After=.*\bchromadb-network\.service", units[name], re.MULTILINE), name


def test_the_directory_of_answers_is_the_one_that_the_service_makes() -> None:
    place = yaml.safe_load((ROLE / "vars/main.yml").read_text())["_chromadb_gateway_answers"]
    drop_in = rendered("chromadb.service.j2", {})
    assert f"-m 2750 -o chromadb -g chromadb-gateway {place}\n" in drop_in
    assert f"ReadWritePaths=-{place}\n" in drop_in
    assert f"setenv GATEWAY_CHROMAD {place}/gateway.sock\n" in rendered("haproxy.cfg.j2", {})


@pytest.fixture
def units() -> Iterator[Path]:
    """A directory that everybody may read: systemd tells nothing of a boot to root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(not Path("/lib/systemd/systemd").exists(), reason="there is no systemd on this machine")
def test_a_boot_starts_the_service_and_its_gateway(units: Path) -> None:
    """systemd breaks a cycle of its jobs by leaving some out, and finds it at boot alone: each of the units verifies."""
    for path in (ROOT / "systemd").glob("chromadb*.*"):
        text = re.sub(r"^(Exec\w+)=.*", r"\1=/bin/true", path.read_text(), flags=re.MULTILINE)
        (units / path.name).write_text(text)
    for name in ("chromadb.service.d", "multi-user.target.wants"):
        (units / name).mkdir()
    (units / "chromadb.service.d/20-gateway.conf").write_text(rendered("chromadb.service.j2", {}))
    for name in ("chromadb.service", "chromadb-gateway.service"):
        (units / "multi-user.target.wants" / name).symlink_to(units / name)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*nobody, "/lib/systemd/systemd", "--test", "--system", "--unit=multi-user.target", "--no-pager"],
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "SYSTEMD_LOG_LEVEL": "warning", "SYSTEMD_LOG_TARGET": "console"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stdout + done.stderr
    assert [line for line in said.splitlines() if "cycle" in line] == []
    assert re.search(r"(->|→) Unit chromadb-gateway\.service:", said), said


def test_no_number_of_restarts_is_too_many() -> None:
    """What is restarted with the service, and what each of them needs. A socket that has given up stays closed."""
    for path in sorted((ROOT / "systemd").glob("chromadb-[glmn]*")):
        if path.suffix in (".service", ".socket") and "certificate" not in path.name:
            assert "StartLimitIntervalSec=0" in path.read_text().splitlines(), path.name


def test_a_socket_is_opened_again_whatever_systemd_starts_meanwhile() -> None:
    """A process that systemd has just forked has the former one open until it executes something else."""
    for path in (ROOT / "systemd").glob("*.socket"):
        lines = path.read_text().splitlines()
        ports = [line for line in lines if re.match(r"ListenStream=.*:\d+$", line)]
        assert ("ReusePort=yes" in lines) == bool(ports), path.name


@pytest.mark.parametrize("way", ["chromadb-local.service", "chromadb-metrics.service"])
def test_a_way_is_not_closed_for_want_of_a_word(way: str) -> None:
    """The program of systemd 252 never says that it is ready, and would be ended after a minute and a half."""
    lines = (ROOT / "systemd" / way).read_text().splitlines()
    assert "Type=exec" in lines
    assert any("systemd-socket-proxyd" in line for line in lines if line.startswith("ExecStart="))


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, []),
        ({"chromadb_metrics_host": "localhost"}, []),
        ({"chromadb_metrics_port": 9000}, ["chromadb-metrics.socket", "chromadb-metrics.service"]),
        # systemd takes no port 0, and then does not even restart the service.
        ({"chromadb_metrics_port": 0}, []),
        ({"chromadb_metrics_port": 0, "chromadb_metrics_host": "::1"}, []),
    ],
)
def test_metrics_are_where_a_socket_can_be(variables: dict[str, Any], wanted: list[str]) -> None:
    assert variable("_chromadb_gateway_inner_drop_ins", variables) == wanted
    ways = ["chromadb-local"] if variables.get("chromadb_metrics_port") == 0 else ["chromadb-local", "chromadb-metrics"]
    assert variable("_chromadb_gateway_ways", variables) == ways
    if wanted:
        assert "ListenStream=127.0.0.1:9000" in rendered("chromadb-metrics.socket.j2", variables)
