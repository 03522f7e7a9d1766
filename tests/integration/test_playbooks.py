"""The playbooks and their tasks, run by ansible-playbook on this machine alone: no host is booted, and nothing is changed."""

import json
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from tests.integration.account import BIN

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
HOSTS = ("one", "two", "three", "four")


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Four hosts that are this one, and a fifth in a group of its own."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": str(BIN / "python"), "ansible_become": False}
    groups = {"chromadb": {"hosts": dict.fromkeys(HOSTS, local)}, "others": {"hosts": {"apart": local}}}
    (tmp_path / "hosts.json").write_text(json.dumps(groups))
    return tmp_path / "hosts.json"


@pytest.fixture
def roles(tmp_path: Path) -> Path:
    """Roles in the place of ours, which only say that they are there. Hosts that `broken` names fail in the second of two tasks."""
    play = [
        {"name": "Begin", "ansible.builtin.debug": {"msg": "begun"}},
        {"name": "Break", "ansible.builtin.assert": {"that": "inventory_hostname not in broken | default([])"}},
    ]
    for role, name in (("chromadb", "upgrade.yml"), ("chromadb_backup", "main.yml"), ("chromadb_gateway", "main.yml")):
        (tmp_path / "roles" / role / "tasks").mkdir(parents=True)
        (tmp_path / "roles" / role / "tasks" / name).write_text(yaml.safe_dump(play))
    return tmp_path / "roles"


@pytest.mark.parametrize(
    ("variables", "batches", "ended"),
    [
        ({}, [["one", "two", "three", "four"]], 0),
        ({"chromadb_serial": 1}, [["one"], ["two"], ["three"], ["four"]], 0),
        ({"chromadb_serial": "50%"}, [["one", "two"], ["three", "four"]], 0),
        ({"chromadb_serial": 2, "broken": ["two"]}, [["one", "two"]], 2),
        (
            {"chromadb_serial": 2, "broken": ["two"], "chromadb_max_fail_percentage": 50},
            [["one", "two"], ["three", "four"]],
            2,
        ),
    ],
)
def test_so_many_hosts_at_a_time_and_none_after_a_failure(
    inventory: Path, roles: Path, variables: Mapping[str, object], batches: list[list[str]], ended: int
) -> None:
    done = _playbook(inventory, "site.yml", variables, roles)
    assert done.returncode == ended, done.stdout + done.stderr
    found = [hosts for name, hosts in _tasks(done.stdout) if name == "chromadb_backup : Begin"]
    assert [sorted(each) for each in found] == [sorted(each) for each in batches]


@pytest.mark.parametrize(("broken", "begun"), [([], HOSTS), (["two"], HOSTS[:2])])
def test_an_upgrade_ends_one_host_before_the_next_and_after_the_first_failure(
    inventory: Path, roles: Path, broken: list[str], begun: Sequence[str]
) -> None:
    done = _playbook(inventory, "upgrade.yml", {"broken": broken}, roles)
    assert done.returncode == (2 if broken else 0), done.stdout + done.stderr
    found = [(name.split(" ")[0], hosts) for name, hosts in _tasks(done.stdout) if hosts and name.endswith(": Begin")]
    whole = [(role, [host]) for host in begun for role in ("chromadb", "chromadb_backup")]
    assert found == (whole[:-1] if broken else whole)


@pytest.mark.parametrize(("variables", "meant"), [({}, set(HOSTS)), ({"chromadb_hosts": "others"}, {"apart"})])
def test_hosts_are_those_of_the_group_or_of_the_variable(
    inventory: Path, variables: Mapping[str, object], meant: set[str]
) -> None:
    playbooks = ["site.yml", "upgrade.yml", "restore.yml", "remove.yml"]
    done = _playbook(inventory, playbooks, variables, ANSIBLE / "roles", "--list-hosts")
    assert done.returncode == 0, done.stdout + done.stderr
    listed = re.split(r"^playbook: .*/(\w+\.yml)$", done.stdout, flags=re.MULTILINE)
    found = {
        name: set(re.findall(r"^ {6}(\w+)$", text, re.MULTILINE))
        for name, text in zip(listed[1::2], listed[2::2], strict=True)
    }
    assert found == dict.fromkeys(playbooks, meant)


@pytest.mark.parametrize(
    ("rounds", "said", "code", "given_up"),
    [
        # What systemd tries again is waited for a few times,
        (0, "Job=\nActiveState=activating\nNRestarts=4\nStatusText=recovery", 1, True),
        # a service that has failed or was stopped is not,
        (0, "Job=\nActiveState=failed\nNRestarts=0\nStatusText=", 1, True),
        (0, "Job=\nActiveState=inactive\nNRestarts=0\nStatusText=", 1, True),
        # and one that was started is to answer within three rounds.
        (3, "Job=\nActiveState=active\nNRestarts=0\nStatusText=", 1, True),
        (0, "Job=\nActiveState=active\nNRestarts=0\nStatusText=", 0, False),
        (0, "Job=\nActiveState=active\nNRestarts=0\nStatusText=", 4, False),
    ],
)
def test_waiting_for_a_service_ends(
    inventory: Path, tmp_path: Path, rounds: int, said: str, code: int, given_up: bool
) -> None:
    begun = time.monotonic()
    done = _wait(inventory, tmp_path, f"printf %s {said!r}".replace("\\n", "\n"), code, rounds)
    assert time.monotonic() - begun < 30
    assert ("over" in done.stdout) is given_up
    assert (done.returncode != 0) is given_up, done.stdout + done.stderr


# Clients choose names of tenants, which are said while a collection is warmed.
@pytest.mark.parametrize("says", ["recovery, 3 of 7", r"warming 3/7: NRestarts=9\n NRestarts=9/kept"])
def test_waiting_for_a_service_says_how_far_it_is(inventory: Path, tmp_path: Path, says: str) -> None:
    """It begins while the service does, and ends when that serves."""
    ready = tmp_path / "ready"
    said = f"""
        [ -e {ready} ] && printf 'Job=\\nActiveState=active\\nNRestarts=0\\nStatusText=' && exit
        printf 'Job=7\\nActiveState=activating\\nNRestarts=0\\nStatusText=%s \\033[1m' '{says}'
        [ $(wc -l <{tmp_path}/asked) -lt 7 ] || touch {ready}
        """
    done = _wait(inventory, tmp_path, f"echo >>{tmp_path}/asked; {said}", 0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.dumps(f"StatusText={says} ?[1m") in done.stdout
    assert len([name for name, _ in _tasks(done.stdout) if name.endswith("Look how far the service is")]) == 2


@pytest.mark.parametrize(
    ("variables", "removed"),
    [
        ({}, set()),
        ({"chromadb_backup_environment": {}}, {"backup.env"}),
        ({"chromadb_backup_ssh_key": ""}, {"backup_ssh_key", "backup_known_hosts"}),
    ],
)
def test_secrets_of_backups_are_not_removed_for_want_of_a_variable(
    inventory: Path, tmp_path: Path, variables: Mapping[str, object], removed: set[str]
) -> None:
    left = [tmp_path / name for name in ("backup.env", "backup_ssh_key", "backup_known_hosts")]
    for path in left:
        path.touch()
    places: dict[str, object] = {
        "chromadb_config_dir": str(tmp_path),
        "chromadb_backup_repository": "s3:s3.example.com/vectors",
    }
    places |= {"_chromadb_present": list(map(str, left))}
    done = _tasks_of("chromadb_backup", "install.yml", inventory, tmp_path, {**places, **variables}, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(rf"^changed: \[one\] => \(item={tmp_path}/(\w[\w.]+)\)", done.stdout, re.MULTILINE)
    assert set(found) == removed


@pytest.mark.parametrize(
    ("listed", "refused"),
    [("chromadb_backup", True), ("some.where.chromadb_backup", True), ("chromadb_backup_of_ours", False)],
)
def test_both_roles_in_one_play_are_refused(inventory: Path, tmp_path: Path, listed: str, refused: bool) -> None:
    name = listed.rpartition(".")[2]
    place = tmp_path / ("ansible_collections/some/where/roles" if "." in listed else "roles") / name
    (place / "tasks").mkdir(parents=True)
    (place / "tasks/main.yml").write_text("[]\n")
    done = _tasks_of(
        "chromadb", "former.yml", inventory, tmp_path, {}, roles=[listed], ANSIBLE_COLLECTIONS_PATH=str(tmp_path)
    )
    assert ("The play lists both roles, chromadb and chromadb_backup" in done.stdout) is refused, (
        done.stdout + done.stderr
    )
    assert "TASK [chromadb : This role is not listed beside the one that applies it]" in done.stdout


def test_the_role_that_applies_the_other_is_none_beside_it(inventory: Path, tmp_path: Path) -> None:
    place = tmp_path / "roles/chromadb_backup/tasks"
    place.mkdir(parents=True)
    applied = {"ansible.builtin.import_role": {"name": "chromadb", "tasks_from": "former.yml"}}
    (place / "main.yml").write_text(yaml.safe_dump([applied]))
    (tmp_path / "play.yml").write_text(
        yaml.safe_dump([{"hosts": "one", "gather_facts": False, "roles": ["chromadb_backup"]}])
    )
    roles = f"{tmp_path}/roles:{ANSIBLE}/roles"
    done = _playbook(inventory, tmp_path / "play.yml", {}, roles)
    assert "ok: [one]" in done.stdout.partition("This role is not listed beside")[2].partition("TASK [")[0], done.stdout


def _tasks_of(
    role: str,
    name: str,
    inventory: Path,
    tmp_path: Path,
    variables: Mapping[str, object],
    *options: str,
    roles: Sequence[str] = (),
    **environment: str,
) -> "subprocess.CompletedProcess[str]":
    """Runs tasks of a role, in a play that lists others as well."""
    applied = {"ansible.builtin.import_role": {"name": role, "tasks_from": name}}
    play = {"hosts": "one", "gather_facts": False, "roles": list(roles), "tasks": [applied]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    path = f"{tmp_path}/roles:{ANSIBLE}/roles"
    return _playbook(inventory, tmp_path / "play.yml", variables, path, *options, **environment)


def _wait(
    inventory: Path, tmp_path: Path, systemctl: str, code: int, rounds: int = 0
) -> "subprocess.CompletedProcess[str]":
    """Waits as the role does, for a service that a script plays. code: of chromactl. rounds: that have gone by already."""
    for path, text in (("bin/systemctl", systemctl), ("home/venv/bin/chromactl", f"exit {code}")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / path).chmod(0o755)
    play = {
        "hosts": "one",
        "gather_facts": False,
        "tasks": [
            {
                "ansible.builtin.import_role": {
                    "name": "chromadb",
                    "tasks_from": "wait_round.yml" if rounds else "wait.yml",
                },
                "vars": {"_chromadb_rounds": rounds} if rounds else {},
            }
        ],
    }
    (tmp_path / "wait.yml").write_text(yaml.safe_dump([play]))
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    return _playbook(
        inventory, tmp_path / "wait.yml", {"chromadb_home": str(tmp_path / "home")}, ANSIBLE / "roles", PATH=path
    )


def _playbook(
    inventory: Path,
    playbooks: str | Path | list[str],
    variables: Mapping[str, object],
    roles: str | Path,
    *options: str,
    **environment: str,
) -> "subprocess.CompletedProcess[str]":
    named = playbooks if isinstance(playbooks, list) else [playbooks]
    settings = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    return subprocess.run(
        [
            BIN / "ansible-playbook",
            "-i",
            inventory,
            "-e",
            json.dumps(variables),
            *options,
            *(ANSIBLE / "playbooks" / each for each in named),
        ],
        cwd=ANSIBLE,
        env={**os.environ, **settings, "ANSIBLE_ROLES_PATH": str(roles), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def _tasks(said: str) -> list[tuple[str, list[str]]]:
    """The tasks of a run in their order, and the hosts that each succeeded on."""
    parts = re.split(r"^TASK \[(.*?)\] \**$", said, flags=re.MULTILINE)
    return [
        (name, re.findall(r"^(?:ok|changed): \[(\w+)\]", text, re.MULTILINE))
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    ]
