"""What the roles' templates and tasks come to, with some of the variables set."""

import base64
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader  # type: ignore[import-untyped]
from ansible.plugins.loader import init_plugin_loader  # type: ignore[import-untyped]
from ansible.template import Templar, trust_as_template  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "ansible" / "roles"
UNITS = sorted(path.name for path in (ROOT / "systemd").glob("*.*") if path.is_file())
ONLINE = ["Wants=network-online.target", "After=network-online.target"]
NEWER = {"__chromadb_before": {"stdout": "systemd 254 (254.1)\n+PAM"}}


@pytest.mark.parametrize(
    ("variables", "waits"),
    [
        ({"chromadb_checkpoint_dir": "/srv/checkpoints"}, False),
        ({"chromadb_listen_host": "192.0.2.1"}, True),
        ({"chromadb_metrics_host": "0.0.0.0"}, True),
    ],
)
def test_a_service_off_loopback_waits_for_the_network(variables: Mapping[str, object], waits: bool) -> None:
    found = _unit_section("chromadb", "chromadb.service.j2", variables)
    assert [line for line in found if "network" in line] == ONLINE * waits


@pytest.mark.parametrize("verb", ["backup", "verify"])
@pytest.mark.parametrize(
    ("variables", "waits"),
    [
        ({"chromadb_backup_repository": "/srv/backups"}, False),
        ({"chromadb_backup_repository": "sftp:keeper@192.0.2.1:/srv"}, True),
        ({"chromadb_backup_copy_repository": "s3:s3.example.com/vectors"}, True),
    ],
)
def test_backups_and_drills_elsewhere_wait_for_the_network(
    variables: Mapping[str, object], waits: bool, verb: str
) -> None:
    found = _unit_section("chromadb_backup", "service.j2", {**variables, "item": {"verb": verb}})
    assert [line for line in found if "network" in line] == ONLINE * waits


def test_a_message_about_a_failure_waits_for_the_network() -> None:
    found = _section((ROOT / "systemd/chromadb-failure@.service").read_text(), "Unit")
    assert [line for line in found if "network" in line] == ONLINE


@pytest.mark.parametrize("name", UNITS)
def test_every_unit_names_its_manual(name: str) -> None:
    """The page of the program that it runs, or that its service runs."""
    page = "man:chromad(8)" if name == "chromadb.service" else "man:chromactl(8)"
    [found] = [line for line in _section((ROOT / "systemd" / name).read_text(), "Unit") if "Documentation" in line]
    assert page in found.partition("=")[2].split()


def test_later_tries_come_later_and_failures_are_told_after_the_last_one() -> None:
    wanted = {"RestartSteps=8", "RestartMaxDelaySec=1min", "RestartMode=direct"}
    assert wanted <= set(_section(_rendered("chromadb", "chromadb.service.j2", NEWER), "Service"))
    assert not [
        line for line in _section(_rendered("chromadb", "chromadb.service.j2", {}), "Service") if line in wanted
    ]


@pytest.mark.parametrize("verb", ["backup", "verify"])
def test_a_backup_that_is_tried_again_has_not_failed_yet(verb: str) -> None:
    for said, wanted in ((NEWER, ["RestartMode=direct"]), ({}, [])):
        found = _section(_rendered("chromadb_backup", "service.j2", {**said, "item": {"verb": verb}}), "Service")
        assert [line for line in found if line.startswith("RestartMode")] == wanted
        units = _value("{{ _chromadb_backup_units }}", said)
        assert [each["drop_in"] for each in units if each["name"].endswith(".service")] == [bool(wanted)] * 2


@pytest.mark.parametrize(
    ("variables", "left", "used"),
    [
        ({}, False, False),
        # Said by nobody this time
        ({}, True, True),
        ({"chromadb_backup_environment": {}}, True, False),
        ({"chromadb_backup_environment": {"A": "b"}}, False, True),
    ],
)
def test_variables_of_the_back_end_stay_in_use_until_somebody_says_otherwise(
    variables: Mapping[str, object], left: bool, used: bool
) -> None:
    seen = ["/etc/chromadb/backup.key", "/etc/chromadb", *(["/etc/chromadb/backup.env"] if left else [])]
    known = {**variables, "__chromadb_backup_keys": {"stdout_lines": seen}}
    section = _value("{{ _chromadb_backup_section }}", known)
    assert section.get("environment_file") == ("/etc/chromadb/backup.env" if used else None)
    drop_in = _rendered("chromadb_backup", "service.j2", {**known, "item": {"verb": "backup"}})
    assert ("LoadCredential=backup.env:/etc/chromadb/backup.env" in drop_in) is used
    [task] = [
        task for task in _tasks("chromadb_backup", "preflight") if task.get("register") == "__chromadb_backup_keys"
    ]
    assert "{{ _chromadb_backup_environment_file }}" in task["ansible.builtin.command"]["argv"]


@pytest.mark.parametrize(
    ("variables", "written", "removed"),
    [
        ({}, False, False),
        ({"chromadb_failure_command": ""}, False, True),
        ({"chromadb_failure_command": "#!/bin/sh\n"}, True, False),
    ],
)
def test_the_command_for_failures_stays_until_somebody_says_otherwise(
    variables: Mapping[str, object], written: bool, removed: bool
) -> None:
    about = [task for task in _tasks("chromadb", "configure") if "/on-failure" in str(task)]
    there = {**variables, "_chromadb_present": ["/etc/chromadb/on-failure"]}
    assert [next(iter(set(task) - {"name", "when", "diff"})) for task in about] == [
        "ansible.builtin.copy",
        "ansible.builtin.file",
    ]
    conditions = [each if isinstance(each, list) else [each] for each in (task["when"] for task in about)]
    assert [all(_value(f"{{{{ {each} }}}}", there) for each in found) for found in conditions] == [written, removed]


def test_what_units_read_and_write_is_mounted_first() -> None:
    places = {
        "chromadb_data_dir": "/srv/data",
        "chromadb_checkpoint_dir": "/srv/copies",
        "chromadb_config_dir": "/srv/set",
    }
    assert "RequiresMountsFor=/srv/data /srv/copies /srv/set" in _unit_section(
        "chromadb", "chromadb.service.j2", places
    )
    keys = {"chromadb_backup_key_file": "/keys/one", "chromadb_backup_copy_key_file": "/other/two"}
    stores = {
        "chromadb_backup_repository": "/srv/backups",
        "chromadb_backup_copy_repository": "s3:s3.example.com/vectors",
    }
    found = _unit_section("chromadb_backup", "service.j2", {**places, **keys, **stores, "item": {"verb": "backup"}})
    assert "RequiresMountsFor=/srv/data /srv/copies /srv/backups /srv/set /keys /other" in found


def test_pip_builds_nothing_and_takes_what_has_the_hash() -> None:
    [task] = [task for task in _tasks("chromadb", "venv") if task["name"] == "Install packages, hashes checked"]
    lines = task["ansible.builtin.shell"]["cmd"].splitlines()
    [install] = [line.split() for line in lines if line.startswith("pip install ")]
    assert install[install.index("--only-binary") + 1] == ":all:"
    assert {"--require-hashes", "--no-deps", "--no-cache-dir"} <= set(install)


def test_pip_asks_nobody_and_knows_its_index() -> None:
    given = {
        "chromadb_index_url": "https://reader:a'b$c@packages.example.com/simple",
        "chromadb_pip_cert": "/etc/a b.pem",
        "chromadb_proxy_env": {"https_proxy": "http://host:x;y@proxy.example.com:3128"},
    }
    for place in ("", "/srv/wheels"):
        lines = str(_value("{{ _chromadb_pip_environment }}", {**given, "chromadb_wheelhouse": place}))
        # As the task does it
        done = subprocess.run(
            ["sh", "-euc", "set -a; . /dev/stdin; set +a; env"],
            input=lines,
            env={},
            capture_output=True,
            text=True,
            check=True,
        )
        found = dict(line.split("=", 1) for line in done.stdout.splitlines())
        assert found["PIP_NO_INPUT"] == "1"
        assert found["PIP_CERT"] == given["chromadb_pip_cert"]
        assert found["https_proxy"] == given["chromadb_proxy_env"]["https_proxy"]  # type: ignore[index]
        assert found.get("PIP_INDEX_URL", "") == ("" if place else given["chromadb_index_url"])


@pytest.mark.skipif(not shutil.which("apt-config"), reason="apt is not here to read it")
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_apt_goes_through_the_proxy(case: Callable[[str], str], tmp_path: Path) -> None:
    proxies = {
        "http_proxy": "http://host:word@proxy.example.com:3128",
        "https_proxy": "http://other.example.com:3128",
        "no_proxy": "mirror.example.com, 192.0.2.1",
    }
    given = {case(name): value for name, value in proxies.items()}
    (tmp_path / "apt.conf").write_text(_rendered("chromadb", "apt.conf.j2", {"chromadb_proxy_env": given}))
    done = subprocess.run(
        ["apt-config", "dump"],
        env={**os.environ, "APT_CONFIG": str(tmp_path / "apt.conf")},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = {line.lower() for line in done.stdout.splitlines()}
    wanted = {
        f'acquire::http::proxy "{proxies["http_proxy"]}";',
        f'acquire::https::proxy "{proxies["https_proxy"]}";',
        *(
            f'acquire::{kind}::proxy::{host} "direct";'
            for kind in ("http", "https")
            for host in ("mirror.example.com", "192.0.2.1")
        ),
    }
    assert wanted <= lines


def test_words_are_completed_in_each_shell() -> None:
    completions = _value("{{ _chromadb_completions }}", {})
    assert set(completions) == {path.name for path in (ROLES / "chromadb/files").glob("*chromactl*")}
    [task] = [task for task in _tasks("chromadb", "configure") if task["name"] == "Install it"]
    assert task["loop"] == "{{ _chromadb_completions | dict2items }}"
    assert task["ansible.builtin.copy"] == {
        "src": "{{ item.key }}",
        "dest": "{{ item.value }}",
        "owner": "root",
        "group": "root",
        "mode": "0644",
    }
    removed = _value("{{ _chromadb_files }}", {})
    assert set(completions.values()) <= set(removed)


def test_sources_may_lie_elsewhere(tmp_path: Path) -> None:
    init_plugin_loader()
    (tmp_path / "daemon").mkdir()
    (tmp_path / "daemon/requirements.lock").write_text("bcrypt==1.2\nchromadb==9.8.7 \\\n    --hash=sha256:ab\n")
    assert _value("{{ _chromadb_engine }}", {"_chromadb_repository": str(tmp_path)}) == "9.8.7"
    # Nothing but that variable leads out of the roles.
    for path in sorted(ROLES.glob("*/*/*.yml")):
        text = path.read_text(encoding="utf-8")
        leading = re.findall(r".*(?:role_path \| dirname|playbook_dir|\.\./).*", text)
        assert all(line.startswith("_chromadb_repository:") for line in leading), f"{path}: {leading}"
        for source in re.findall(r"src: \"?(.*(?:systemd|daemon)/.*)", text):
            assert source.startswith("{{ _chromadb_repository }}/"), f"{path}: {source}"


def test_data_and_backups_go_for_whoever_names_the_host_alone_and_after_a_last_backup() -> None:
    found = {"content": base64.b64encode(b"data_dir: /opt/chromadb/data").decode()}
    known: dict[str, object] = {"__chromadb_former": found, "inventory_hostname": "one"}
    known["__chromadb_venvs"] = {"files": [{"path": "/opt/chromadb/venvs/0123456789ab"}]}
    kept = _value("{{ _chromadb_kept + _chromadb_kept_keys }}", known)
    assert {"/opt/chromadb/data", "/var/backups/chromadb", "/etc/chromadb/backup.key"} <= set(kept)
    tasks = _tasks("chromadb", "remove")
    [backup] = [task for task in tasks if "'--json', 'backup']" in str(task.get("block"))]
    # rmdir takes what is empty.
    removing = [task for task in tasks if task["name"].startswith("Remove ") and "rmdir" not in str(task)]
    assert tasks.index(backup) < tasks.index(removing[0])
    reaching = [task for task in removing if _holds(_value(task["loop"], known), kept)]
    assert [task["name"] for task in reaching] == ["Remove data, checkpoints, backups and keys, as was confirmed"]
    for host, goes in ((None, False), ("two", False), ("one", True)):
        named = {"chromadb_remove_data": host} if host else {}
        assert _value(f"{{{{ {reaching[0]['when']} }}}}", known | named) is goes


def test_what_lets_in_goes_with_the_data_and_what_says_where_with_the_configuration() -> None:
    """A token and an authority of before are worth nothing without each other."""
    [look] = [task for task in _tasks("chromadb", "remove") if task.get("register") == "__chromadb_there"]
    places = [str(_value(each, {})) for each in look["loop"]]
    there = {"results": [{"item": place, "stat": {"exists": True}} for place in places]}
    kept = _value("{{ _chromadb_kept_keys }}", {"__chromadb_there": there})
    assert {"/etc/chromadb/gateway", "/etc/chromadb/token"} <= set(kept)
    assert "/etc/systemd/system/chromadb-gateway.service" not in kept
    gone = {"results": [{**each, "stat": {"exists": False}} for each in there["results"]]}
    assert _value("{{ _chromadb_kept_keys }}", {"__chromadb_there": gone}) == ["/etc/chromadb/backup.key"]
    [removed] = [
        task for task in _tasks("chromadb", "remove") if task["name"] == "Remove environments and configuration"
    ]
    paths = _value(removed["loop"], {"__chromadb_venvs": {"files": []}})
    assert {"/etc/chromadb/client.yml", "/etc/chromadb/client-ca.pem"} <= set(paths)


def _holds(paths: list[str], kept: list[str]) -> bool:
    """Whether one of the paths is what is to be kept, or above it."""
    return any(f"{each}/".startswith(f"{path}/") for each in kept for path in paths)


def _unit_section(role: str, template: str, variables: Mapping[str, object]) -> list[str]:
    return _section(_rendered(role, template, variables), "Unit")


def _section(text: str, name: str) -> list[str]:
    """The settings in a unit's section, wherever it is begun."""
    parts = re.split(r"^\[(\w+)\]$", text, flags=re.MULTILINE)
    found = [lines for here, lines in zip(parts[1::2], parts[2::2], strict=True) if here == name]
    return [line for line in "".join(found).splitlines() if line and not line.startswith("#")]


def _tasks(role: str, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROLES / role / "tasks" / f"{name}.yml").read_text())
    return found


def _rendered(role: str, template: str, variables: Mapping[str, object]) -> str:
    return str(_value((ROLES / role / "templates" / template).read_text(), variables))


def _value(text: str, variables: Mapping[str, object]) -> Any:
    """What a template comes to, among all variables of both roles."""
    known: dict[str, Any] = {"ansible_managed": "by a role", "ansible_check_mode": False}
    for role in ("chromadb", "chromadb_backup"):
        for place in ("defaults", "vars"):
            known |= yaml.safe_load((ROLES / role / place / "main.yml").read_text())
    known |= {"role_path": str(ROLES / "chromadb"), **variables}
    return Templar(loader=DataLoader(), variables=_trusted(known)).template(trust_as_template(text))


def _trusted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _trusted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_trusted(each) for each in value]
    return trust_as_template(value) if isinstance(value, str) else value
