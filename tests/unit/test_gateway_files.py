"""The files of the gateway's role say the same as each other, as the units and as the playbooks."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.gateway import ROLE, rendered

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
    tasks: list[dict[str, Any]] = [task for task in play["pre_tasks"] if "ansible.builtin.include_role" in task]
    assert [task["ansible.builtin.include_role"]["tasks_from"] for task in tasks] == ["before.yml"]
    [gateway] = [role for role in play["roles"] if role != "chromadb_backup"]
    assert gateway == {"role": "chromadb_gateway", "when": tasks[0]["when"]}
    assert tasks[0]["when"] == "chromadb_gateway_enabled | default(false) | bool"


@pytest.mark.parametrize("unit", UNITS)
def test_a_drop_in_says_what_the_static_unit_says_but_for_the_paths(unit: str) -> None:
    """With the default paths, each of its settings is in the static unit, word for word."""
    static = (ROOT / "systemd" / unit).read_text().splitlines()
    for line in rendered(f"{unit}.j2", {}).splitlines():
        if "=" in line and not line.startswith("#") and not line.endswith("="):
            assert line in static


def test_ports_below_1024_take_the_capability_that_they_need() -> None:
    wanted = [
        "PrivateUsers=no",
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
    ]
    for variables, low in (
        ({}, False),
        ({"chromadb_gateway_port": 443}, True),
        ({"chromadb_gateway_redirect_port": 80}, True),
    ):
        lines = rendered("chromadb-gateway.service.j2", variables).splitlines()
        assert [line for line in lines if line in wanted] == wanted * low


def test_the_directory_of_answers_is_the_one_that_the_service_makes() -> None:
    place = yaml.safe_load((ROLE / "vars/main.yml").read_text())["_chromadb_gateway_answers"]
    drop_in = rendered("chromadb.service.j2", {})
    assert f"-m 2750 -o chromadb -g chromadb-gateway {place}\n" in drop_in
    assert f"ReadWritePaths=-{place}\n" in drop_in
    assert f"setenv GATEWAY_CHROMAD {place}/gateway.sock\n" in rendered("haproxy.cfg.j2", {})
