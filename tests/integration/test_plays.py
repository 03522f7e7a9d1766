"""What plays do on a booted host, over ssh: the second run of one, and what has to be said to begin with nothing."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.host import Host, inventory
from tests.hosts.system import prepare_controller
from tests.hosts.wheelhouse import wheelhouse
from tests.integration.account import AS_ROOT, BIN

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
IMAGE = "debian13"
_QUESTIONS = 35
ACCEPTANCE = "/run/systemd/system/chromadb.service.d"


class Plays:
    """A host, and playbooks that are run on it."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self._inventory = directory / "hosts.json"
        hosts = json.loads(inventory([host]))
        hosts["chromadb"]["hosts"][host.name]["chromadb_wheelhouse"] = str(wheelhouse(IMAGE))
        self._inventory.write_text(json.dumps(hosts))
        before = time.monotonic()
        done = self.run({})
        assert done.returncode == 0, done.stdout + done.stderr
        self.first = time.monotonic() - before

    def run(
        self, variables: dict[str, object], playbook: str = "site.yml", *options: str
    ) -> "subprocess.CompletedProcess[str]":
        settings = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
        return subprocess.run(
            [
                *(BIN / "ansible-playbook", "-i", self._inventory, "-e", json.dumps(variables)),
                *options,
                f"playbooks/{playbook}",
            ],
            cwd=ANSIBLE,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )

    def on_host(self, command: str) -> str:
        done = subprocess.run(self.host.ssh_command(command), capture_output=True, text=True, check=False)
        return done.stdout.strip()


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plays]:
    """A host on which site.yml was run once."""
    if not AS_ROOT:
        pytest.skip("boots a host, which takes root")
    prepare_controller()
    host = Host("plays")
    host.down()
    host.up(IMAGE, wheels=False)
    yield Plays(host, tmp_path_factory.mktemp("plays"))
    host.down()


def test_a_second_run_changes_nothing_and_asks_little(plays: Plays) -> None:
    """Each question to the host is a program there, and a turn over ssh: their number is what a busy machine does not change."""
    before = time.monotonic()
    done = plays.run({})
    second = time.monotonic() - before
    print(f"first run {plays.first:.1f} s, second {second:.1f} s, load {os.getloadavg()[0]:.1f}")
    assert re.search(r"changed=0 .* failed=0 ", done.stdout), done.stdout + done.stderr
    asked = plays.run({}, "site.yml", "-vvv").stdout.count("SSH: EXEC")
    assert asked <= _QUESTIONS
    # Beside the first one, on the same machine at the same time
    assert second < plays.first / 2


def test_a_restore_says_how_far_it_is_and_why_it_fails(plays: Plays) -> None:
    plays.on_host("sudo chromactl backup")
    done = plays.run({}, "restore.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r'"msg": "restoring [0-9]+ %"', done.stdout), done.stdout
    failed = plays.run({"chromadb_restore_id": "deadbeef"}, "restore.yml")
    assert failed.returncode != 0
    assert re.search(r"restore deadbeef --stop has failed .*no backup 'deadbeef' in", failed.stdout, re.DOTALL), (
        failed.stdout
    )
    assert "loaded" not in plays.on_host("systemctl list-units --all --no-legend 'chromadb-play-*'")


def test_empty_directory_is_served_where_the_play_says_so_and_by_no_later_start(plays: Plays) -> None:
    """The checkpoints that stay tell of other data, which the daemon takes for a volume that is not mounted."""
    other: dict[str, object] = {"chromadb_data_dir": "/opt/chromadb/other", "chromadb_move": True}
    refused = plays.run(other)
    assert refused.returncode != 0
    assert "set chromadb_accept_empty: true to begin with nothing" in refused.stdout
    accepted = plays.run(other | {"chromadb_accept_empty": True})
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    served = "sudo cat /proc/$(systemctl show --property=MainPID --value chromadb.service)/cmdline | tr '\\0' ' '"
    assert plays.on_host(served).endswith("--accept-empty")
    assert plays.on_host(f"ls {ACCEPTANCE}") == ""
    unit = "systemctl show --property=ExecStart,NeedDaemonReload chromadb.service"
    assert "--accept-empty" not in plays.on_host(unit)
    assert "NeedDaemonReload=no" in plays.on_host(unit)
    again = plays.run(other)
    assert re.search(r"changed=0 .* failed=0 ", again.stdout), again.stdout
    assert plays.on_host("sudo systemctl restart chromadb.service && systemctl is-active chromadb.service") == "active"
    assert "--accept-empty" not in plays.on_host(served)
