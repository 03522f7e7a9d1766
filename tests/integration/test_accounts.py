"""Users whom the role does not make, as a directory service has them."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.host import Host, inventory
from tests.hosts.system import prepare_controller
from tests.integration.account import AS_ROOT, BIN

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """One that has the user and the group chromadb, with high numbers."""
    if not AS_ROOT:
        pytest.skip("boots a host, which takes root")
    prepare_controller()
    made = Host("accounts")
    made.down()
    made.up("debian12", wheels=True)
    command = "sudo groupadd --gid 70002 chromadb && sudo useradd --uid 70001 --gid 70002 --shell /bin/bash chromadb"
    subprocess.run(made.ssh_command(command), check=True)
    yield made
    made.down()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "chromadb_user chromadb has uid 70001"),
        ({"chromadb_uid": 70003}, "chromadb_uid is 70003, and chromadb is 70001 on this host"),
        (
            {"chromadb_gid": 70003, "chromadb_manage_user": False},
            "chromadb_gid is 70003, and chromadb is 70002 on this host",
        ),
        pytest.param({"chromadb_uid": 70001}, "", marks=pytest.mark.one_a_day),
        pytest.param(
            {"chromadb_manage_user": False, "chromadb_uid": 70001, "chromadb_gid": 70002},
            "",
            marks=pytest.mark.one_a_day,
        ),
        pytest.param({"chromadb_manage_user": False}, "", marks=pytest.mark.one_a_day),
    ],
)
def test_a_user_of_others_is_taken_as_it_is_or_refused(
    host: Host, tmp_path: Path, variables: dict[str, object], said: str
) -> None:
    hosts = json.loads(inventory([host]))
    hosts["chromadb"]["hosts"][host.name] |= variables
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    settings = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    done = subprocess.run(
        [BIN / "ansible-playbook", "--check", "-i", tmp_path / "hosts.json", "playbooks/site.yml"],
        cwd=ANSIBLE,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is (said == ""), done.stdout + done.stderr
    assert said in done.stdout
    made = done.stdout.partition("TASK [chromadb : Create the user]")[2].partition("TASK [")[0]
    assert ("changed: " in made) is (variables == {"chromadb_uid": 70001})
    if said:
        assert "changed=0" in done.stdout
    elif not variables.get("chromadb_manage_user", True):
        declared = done.stdout.partition("TASK [chromadb : Install them]")[2].partition("TASK [")[0]
        assert "sysusers.d" not in declared
        assert "tmpfiles.d" in declared
