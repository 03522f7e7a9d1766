"""The roles' files say the same as each other, and as the units."""

import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader  # type: ignore[import-untyped]
from ansible.template import Templar, trust_as_template  # type: ignore[import-untyped]
from chromad.checks import running
from chromad.config import Backup, Config, CopyTo, parse_duration, parse_size

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "ansible" / "roles"
SPECS: dict[str, dict[str, Any]] = {
    role.name: yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    for role in sorted(ROLES.iterdir())
}
DEFAULTS: dict[str, dict[str, Any]] = {
    role: yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text()) for role in SPECS
}
SERVICE, BACKUP = DEFAULTS["chromadb"], DEFAULTS["chromadb_backup"]
BACKUP_UNITS = ("chromadb-backup.service", "chromadb-verify.service")
EXPRESSION = re.compile(r"{{.*?}}")


@pytest.mark.parametrize("role", SPECS)
def test_argument_specs_and_defaults_agree(role: str) -> None:
    assert {name: option["default"] for name, option in SPECS[role].items()} == DEFAULTS[role]


def test_nothing_of_the_service_users_runs_in_a_terminals_session() -> None:
    """It could type there, as the operator."""
    words = re.compile(r"\b(runuser|setpriv|su|sudo|become_user)\b")
    found = [
        f"{path.relative_to(ROLES)}: {line.strip()}"
        for path in sorted(ROLES.glob("*/*/*.yml"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if words.search(line.partition("#")[0]) and "setsid, --wait," not in line and "description" not in line
    ]
    assert not found


def test_every_variable_is_changed_in_the_alternative_scenario() -> None:
    changed = yaml.safe_load((ROOT / "tests/molecule/alternative/vars/all.yml").read_text())
    apart = {"chromadb_wheelhouse"}
    # tests/integration/test_package_index.py and test_accounts.py have hosts of their own for them.
    apart |= {
        "chromadb_index_url",
        "chromadb_pip_cert",
        "chromadb_pip_arguments",
        "chromadb_proxy_env",
        "chromadb_manage_user",
    }
    # Filled by the roles of these names
    apart |= {"chromadb_backup", "chromadb_gateway"}
    # The playbook back_to_defaults.yml has it.
    apart |= {"chromadb_backup_state"}
    # The scenario backup has two hosts for SFTP.
    apart |= {"chromadb_backup_ssh_key", "chromadb_backup_known_hosts"}
    wanted = {**SERVICE, **BACKUP}.items()
    assert [name for name, value in wanted if name not in apart and changed.get(name, value) == value] == [
        "chromadb_python"
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("chromadb_data_dir", str(Config().data_dir)),
        ("chromadb_checkpoint_dir", str(Config().checkpoint_dir)),
        ("chromadb_listen_host", Config().listen.host),
        ("chromadb_listen_port", Config().listen.port),
        ("chromadb_metrics_host", Config().metrics.host),
        ("chromadb_metrics_port", Config().metrics.port),
        ("chromadb_disk_warn_percent", Config().disk.warn_percent),
        ("chromadb_disk_fence_percent", Config().disk.fence_percent),
        ("chromadb_disk_release_percent", Config().disk.release_percent),
        ("chromadb_disk_command", Config().disk.command),
        ("chromadb_warm_collections", Config().warm.collections),
        ("chromadb_warm_memory_percent", Config().warm.memory_percent),
        ("chromadb_engine_cors_allow_origins", Config().engine.cors_allow_origins),
        ("chromadb_engine_allow_reset", Config().engine.allow_reset),
        ("chromadb_allow_unauthenticated_network", Config().allow_unauthenticated_network),
        ("chromadb_log_level", Config().log_level),
        ("chromadb_backup_repository", Config().backup.repository),
        ("chromadb_backup_key_file", str(Config().backup.password_file)),
        ("chromadb_backup_options", Config().backup.options),
        ("chromadb_backup_keep", Config().backup.keep.model_dump()),
    ],
)
def test_roles_and_daemon_have_the_same_defaults(variable: str, value: object) -> None:
    assert (SERVICE | BACKUP)[variable] == value


@pytest.mark.parametrize(
    ("variable", "parse", "value"),
    [
        ("chromadb_checkpoint_interval", parse_duration, Config().checkpoint.interval),
        ("chromadb_checkpoint_after_log", parse_size, Config().checkpoint.after_log),
        ("chromadb_warm_timeout", parse_duration, Config().warm.timeout),
        ("chromadb_engine_max_payload_size", parse_size, Config().engine.max_payload_size),
    ],
)
def test_role_and_daemon_have_the_same_durations_and_sizes(
    variable: str, parse: Callable[[object], float], value: float
) -> None:
    assert parse(SERVICE[variable]) == value


def test_every_key_of_the_configuration_is_written_by_the_role() -> None:
    template = yaml.safe_load(EXPRESSION.sub("x", (ROLES / "chromadb/templates/chromad.yml.j2").read_text()))
    # The daemon as root is for trials and containers, never for a host. Other roles fill the sections backup and gateway.
    written = _keys(template)
    assert {"backup", "gateway"} <= written
    ours = {key for key in _keys(Config().model_dump()) if not key.startswith(("backup.", "gateway."))}
    assert ours - written == {"allow_root"}


def test_every_key_of_the_section_backup_is_written_by_its_role() -> None:
    section = yaml.safe_load((ROLES / "chromadb_backup/vars/main.yml").read_text())["_chromadb_backup_section"]
    assert set(re.findall(r"'(\w+)':", section)) == Backup.model_fields.keys() | CopyTo.model_fields.keys()


def test_static_units_say_the_defaults() -> None:
    service = _unit("chromadb.service")
    data, checkpoints, repository = (
        SERVICE["chromadb_data_dir"],
        SERVICE["chromadb_checkpoint_dir"],
        BACKUP["chromadb_backup_repository"],
    )
    assert f"User={SERVICE['chromadb_user']}" in service
    assert f"TimeoutStartSec={SERVICE['chromadb_start_timeout']}" in service
    assert f"TimeoutStopSec={SERVICE['chromadb_stop_timeout']}" in service
    # The one mount that things are renamed in.
    assert {Path(data).parent, Path(checkpoints).parent, Config().quarantine_dir.parent} == {Path("/opt/chromadb")}
    assert "ReadWritePaths=-/opt/chromadb" in service
    assert "ReadOnlyPaths=-/opt/chromadb/venvs -/opt/chromadb/restore" in service
    assert f"RequiresMountsFor={data} {checkpoints} {SERVICE['chromadb_config_dir']}" in service
    for name in BACKUP_UNITS:
        lines = _unit(name)
        assert f"User={SERVICE['chromadb_user']}" in lines
        assert f"ReadWritePaths=-{data} -{checkpoints} -{repository}" in lines
        key = Path(BACKUP["chromadb_backup_key_file"])
        assert str(key.parent) == SERVICE["chromadb_config_dir"]
        assert f"RequiresMountsFor={data} {checkpoints} {repository} {key.parent}" in lines
        assert f"LoadCredential={key.name}:{key}" in lines


@pytest.mark.parametrize(("timer", "variable"), [("chromadb-backup", ""), ("chromadb-verify", "drill_")])
def test_static_timers_say_the_defaults(timer: str, variable: str) -> None:
    lines = _unit(f"{timer}.timer")
    schedule, delay = f"chromadb_backup_{variable}schedule", f"chromadb_backup_{variable}randomized_delay"
    assert f"OnCalendar={BACKUP[schedule]}" in lines
    assert f"RandomizedDelaySec={BACKUP[delay]}" in lines
    # A time at which the host was off is made up for; and the delay is the same each time.
    assert {"Persistent=true", "FixedRandomDelay=true"} <= set(lines)
    # The role installs a drop-in where a variable differs from what the static file says.
    roles = (ROLES / "chromadb_backup/vars/main.yml").read_text()
    assert f"{schedule} != '{BACKUP[schedule]}' or {delay} != '{BACKUP[delay]}'" in roles


def test_what_a_drop_in_replaces_is_what_the_static_unit_says() -> None:
    template = (ROLES / "chromadb_backup/templates/service.j2").read_text()
    for key in {*re.findall(r"^(\w+)=", EXPRESSION.sub("x", template), re.MULTILINE)} - {"Wants", "RestartMode"}:
        for name in BACKUP_UNITS:
            assert any(line.startswith(f"{key}=") for line in _unit(name)), f"{name} has no {key}="


def test_a_hang_is_ended_and_what_trying_again_cannot_mend_is_not_tried_again() -> None:
    service = _unit("chromadb.service")
    assert {"Type=notify", "WatchdogSec=30s", "Restart=on-failure", "RestartPreventExitStatus=77 78"} <= set(service)
    assert {
        "OnFailure=chromadb-failure@%n.service",
        "TimeoutAbortSec=1min",
        "LimitCORE=0",
        "OOMScoreAdjust=-500",
    } <= set(service)
    for name in BACKUP_UNITS:
        [prevented] = [line for line in _unit(name) if line.startswith("RestartPreventExitStatus=")]
        assert {"1", "2", "77", "78"} <= set(prevented.partition("=")[2].split())


def test_doctor_expects_of_the_unit_what_it_says() -> None:
    lines = _unit("chromadb.service")
    assert [key for key, value in running._HARDENING.items() if f"{key}={value}" not in lines] == []


@pytest.mark.parametrize(("user", "status"), [("chromadb", "ok"), ("", "warn"), ("root", "warn")])
def test_doctor_tells_of_a_service_that_runs_as_root(user: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd has no user to name then, unless a drop-in has named root."""
    told = {**running._HARDENING, "User": user, "DropInPaths": "", "NeedDaemonReload": "no", "UnitFileState": "enabled"}
    monkeypatch.setattr(running, "unit_properties", lambda *_: told)
    [found] = running._unit()
    assert found.status == status
    assert status == "ok" or "User=root" in found.fact


@pytest.mark.parametrize("name", BACKUP_UNITS)
def test_somebody_is_told_of_a_failed_backup_and_of_a_failed_drill(name: str) -> None:
    assert "OnFailure=chromadb-failure@%n.service" in _unit(name)


def test_secrets_are_for_their_owner_alone() -> None:
    tasks = yaml.safe_load((ROLES / "chromadb_backup/tasks/install.yml").read_text())
    secrets = [each["ansible.builtin.copy"] for each in tasks if each.get("no_log")]
    assert len(secrets) == 3
    assert {each["mode"] for each in secrets} == {"0400"}


def test_all_secrets_are_handed_on_to_backups() -> None:
    chosen = {"chromadb_backup_copy_repository": "/srv/copy", "chromadb_backup_copy_key_file": "/etc/chromadb/copy.key"}
    assert [line for line in _drop_in_of_backups(chosen) if line.startswith("LoadCredential=")] == [
        "LoadCredential=",
        "LoadCredential=backup.key:/etc/chromadb/backup.key",
        "LoadCredential=copy.key:/etc/chromadb/copy.key",
    ]


def _drop_in_of_backups(variables: Mapping[str, object]) -> list[str]:
    """The lines of the drop-in of chromadb-backup.service, with some of the variables set."""
    template = (ROLES / "chromadb_backup/templates/service.j2").read_text()
    known: dict[str, Any] = {}
    for role in ("chromadb_backup", "chromadb"):
        found: dict[str, Any] = yaml.safe_load((ROLES / role / "vars/main.yml").read_text())
        known |= {key: trust_as_template(value) if isinstance(value, str) else value for key, value in found.items()}
    others = {"item": {"verb": "backup"}, "ansible_managed": "by a role"}
    templar = Templar(loader=DataLoader(), variables={**SERVICE, **BACKUP, **known, **others, **variables})
    return str(templar.template(trust_as_template(template))).splitlines()


# Of these systemd takes what a drop-in says beside what the unit says, unless it says first that there is none.
_ADDED = {"ExecStart", "ExecReload", "LoadCredential", "ReadWritePaths", "ReadOnlyPaths"}
_ADDED |= {"ConditionPathExists", "ConditionFileIsExecutable"}


@pytest.mark.parametrize("unit", ["chromadb.service", "chromadb-failure@.service", "chromadb-backup.service"])
def test_what_a_drop_in_says_counts_alone(unit: str) -> None:
    """A condition on the usual file beside the one on another would keep backups from being taken, without a failure."""
    elsewhere = {"chromadb_config_dir": "/etc/vectors"}
    if unit == "chromadb.service":
        lines = _drop_in(elsewhere)
    elif unit == "chromadb-backup.service":
        lines = _drop_in_of_backups(elsewhere)
    else:
        text = (ROLES / "chromadb/templates/failure.j2").read_text()
        lines = str(_rendered(text, {**SERVICE, **elsewhere, "ansible_managed": "by a role"})).splitlines()
    said: dict[str, list[str]] = {}
    for line in lines:
        key, _, value = line.partition("=")
        said.setdefault(key, []).append(value)
    again = _ADDED & said.keys() & {line.partition("=")[0] for line in _unit(unit)}
    assert len(again) >= 2
    assert [key for key in sorted(again) if said[key][0]] == []


def test_configuration_is_validated_before_it_lands() -> None:
    tasks = yaml.safe_load((ROLES / "chromadb/tasks/configure.yml").read_text())
    [task] = [each for each in tasks if "chromad.yml.j2" in str(each)]
    assert task["ansible.builtin.template"]["validate"].endswith("/bin/chromactl config validate %s")


def test_what_a_removal_has_stopped_is_as_it_was_where_there_is_no_last_backup() -> None:
    """At the next boot as well."""
    tasks = yaml.safe_load((ROLES / "chromadb/tasks/remove.yml").read_text())
    [stop] = [each for each in tasks if each["name"] == "Stop"]
    [backup] = [each for each in tasks if "rescue" in each]
    start = backup["rescue"][0]
    told = {name: each["ansible.builtin.systemd_service"] for name, each in (("stop", stop), ("start", start))}
    assert [(each["enabled"], each["state"]) for each in told.values()] == [(False, "stopped"), (True, "started")]
    there = [{"stat": {"exists": True}}] * 3
    timers = _rendered(stop["vars"]["timers"], {"__chromadb_there": {"results": there}})
    stopped = _rendered(stop["loop"], {"__chromadb_there": {"results": there}, "timers": timers})
    assert sorted(start["loop"]) == sorted(stopped)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("data", "quarantine", "restore", "fits"),
    [
        ("/ ext4", "/ ext4", "/ ext4", True),
        ("/srv/data xfs", "/ ext4", "/srv/data xfs", False),
        ("/srv/data xfs", "/srv/data xfs", "/ ext4", False),
        ("/srv nfs4", "/srv nfs4", "/srv nfs4", False),
    ],
)
def test_quarantine_and_former_data_are_on_the_file_system_of_the_data(
    data: str, quarantine: str, restore: str, fits: bool
) -> None:
    """What is put there is renamed, for which there is always room."""
    tasks = yaml.safe_load((ROLES / "chromadb/tasks/preflight.yml").read_text())
    [task] = [each for each in tasks if each["name"].startswith("The data lie on a local file system")]
    found: dict[str, object] = {"__chromadb_filesystems": {"stdout_lines": [data, restore, quarantine, data]}}
    found |= {name: _rendered(value, found) for name, value in task["vars"].items()}
    conditions = " and ".join(f"({each})" for each in task["ansible.builtin.assert"]["that"])
    assert _rendered(f"{{{{ {conditions} }}}}", found) is fits


@pytest.mark.parametrize(("codes", "ends"), [([0], 0), ([3], 3), ([75, 75, 0], 0), ([75, 1], 1)])
def test_a_long_verb_ends_as_it_does_when_nothing_is_in_its_way(codes: list[int], ends: int, tmp_path: Path) -> None:
    tasks = yaml.safe_load((ROLES / "chromadb/tasks/long.yml").read_text())
    [begin] = [each for each in tasks if each["name"] == "Begin"]
    again = begin["vars"]["again"].replace("sleep 10", "sleep 0")
    verb = f"echo once >>{tmp_path}/tried; echo said; exit $(sed -n $(wc -l <{tmp_path}/tried)p {tmp_path}/codes)"
    (tmp_path / "codes").write_text("".join(f"{each}\n" for each in codes))
    # As the task calls it: the shell, what it runs, its own name, then the verb.
    done = subprocess.run(
        ["/bin/sh", "-c", again, "sh", "/bin/sh", "-c", verb], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (ends, "said\n")
    assert len((tmp_path / "tried").read_text().splitlines()) == len(codes)


def test_a_link_in_the_place_of_the_data_is_not_followed() -> None:
    tasks = yaml.safe_load((ROLES / "chromadb/tasks/install.yml").read_text())
    [paths] = [each for each in tasks if each["name"] == "Create the paths"]
    assert paths["ansible.builtin.file"]["follow"] == "{{ not item.service }}"
    of_the_service = {each["path"] for each in paths["loop"] if each["service"]}
    assert "{{ chromadb_home }}" not in of_the_service
    assert len(of_the_service) == 4


def test_an_environment_that_is_removed_in_part_is_not_taken_for_a_whole_one() -> None:
    tasks = yaml.safe_load((ROLES / "chromadb/tasks/cleanup.yml").read_text())
    loop = tasks[-1]["loop"]
    assert loop.index("/.complete") < loop.index("+ unused +")


def test_a_backup_and_a_drill_have_the_same_sandbox() -> None:
    first, second = ([line for line in _unit(name) if not line.startswith("#")] for name in BACKUP_UNITS)
    differing = {line.split("=")[0] for line in set(first) ^ set(second)}
    assert differing == {"Description", "After", "ExecStart"}


def test_the_engine_that_proves_a_backup_may_do_what_the_serving_one_may() -> None:
    served = {line for line in _unit("chromadb.service") if re.match(r"SystemCall|Restrict|Memory|LimitNOFILE", line)}
    for name in BACKUP_UNITS:
        # It has a network namespace of its own.
        assert served - set(_unit(name)) == {"RestrictNamespaces=yes"}
        assert "RestrictNamespaces=net user" in _unit(name)


def test_make_runs_every_scenario() -> None:
    listed = re.search(r"^SCENARIOS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed
    assert sorted(listed[1].split()) == sorted(path.parent.name for path in ROOT.glob("tests/molecule/*/molecule.yml"))


@pytest.mark.parametrize(
    "scenario", sorted(path.parent.name for path in (ROOT / "tests/molecule").glob("*/molecule.yml"))
)
def test_every_playbook_of_a_scenario_exists(scenario: str) -> None:
    # molecule passes over a missing verify.yml or side_effect in silence.
    directory = ROOT / "tests/molecule" / scenario
    config = yaml.safe_load((directory / "molecule.yml").read_text()) or {}
    sequence = config.get("scenario", {}).get("test_sequence", ["verify"])
    named = [entry.split()[1] for entry in sequence if " " in entry]
    for name in ["converge.yml", "verify.yml", *named]:
        assert (directory / name).exists(), name
    assert any(entry.startswith("verify") for entry in sequence)


@pytest.mark.parametrize(
    ("variables", "written"),
    [
        ({}, ["/opt/chromadb"]),
        (
            {"chromadb_data_dir": "/srv/vectors/data", "chromadb_checkpoint_dir": "/srv/vectors/copies"},
            ["/srv/vectors"],
        ),
        ({"chromadb_data_dir": "/srv/a+b/data", "chromadb_checkpoint_dir": "/srv/a+b/c/d"}, ["/srv/a+b"]),
        (
            {"chromadb_data_dir": "/srv/vectors/data", "chromadb_checkpoint_dir": "/srv/vectors-copies"},
            ["/srv/vectors", "/srv/vectors-copies"],
        ),
        # Where others live too, each has its own mount, and what goes to quarantine is copied.
        (
            {"chromadb_data_dir": "/srv/vectors", "chromadb_checkpoint_dir": "/srv/checkpoints"},
            ["/srv/vectors", "/srv/checkpoints", "/srv/quarantine"],
        ),
    ],
)
def test_the_daemon_writes_to_one_mount_where_that_is_its_own(variables: dict[str, object], written: list[str]) -> None:
    assert _of_role(variables, "_chromadb_written") == written


@pytest.mark.parametrize(
    ("repository", "within"),
    [("/opt/chromadb/backups", True), ("/opt/chromadb-backups", False), ("sftp:u@h:/x", False)],
)
def test_the_daemon_does_not_write_to_a_repository_beside_its_data(repository: str, within: bool) -> None:
    backup = {"chromadb_backup": {"repository": "/var/backups/chromadb", "copy_to": {"repository": repository}}}
    assert _of_role(backup, "_chromadb_repositories_within") == [repository] * within
    assert bool(_of_role(backup, "_chromadb_drop_in")) is within
    template = (ROLES / "chromadb/templates/chromadb.service.j2").read_text()
    assert re.search(r"^ReadOnlyPaths=.*_chromadb_repositories_within", template, re.MULTILINE)


@pytest.mark.parametrize("name", ["chromadb.service", *BACKUP_UNITS])
def test_what_a_unit_may_write_is_made_at_boot(name: str) -> None:
    lines = [line for path in (ROOT / "systemd/tmpfiles.d").iterdir() for line in path.read_text().splitlines()]
    made = {path: (mode, user) for _, path, mode, user, *_ in (line.split() for line in lines if line[0] == "d")}
    [written] = re.findall(r"^ReadWritePaths=(.*)$", "\n".join(_unit(name)), re.MULTILINE)
    for path in written.split():
        whose = ("0755", "root") if path == "-/opt/chromadb" else ("0750", "chromadb")
        assert made[path.removeprefix("-")] == whose


@pytest.mark.parametrize("role", SPECS)
def test_what_is_given_to_the_service_user_is_no_link(role: str) -> None:
    for path in sorted((ROLES / role / "tasks").glob("*.yml")):
        for task in yaml.safe_load(path.read_text()):
            found = task.get("ansible.builtin.file", {})
            if "_chromadb_owner" in str(found.get("owner", "")).split("{{")[-1]:
                assert found.get("follow") in (False, "{{ not item.service }}"), f"{path.name}: {task['name']}"


def test_settings_of_the_unit_come_last_so_that_they_count() -> None:
    options = {
        "Unit": {"JobTimeoutSec": "2h"},
        "Service": {"MemoryMax": "24G", "IOAccounting": True, "Environment": ["A=1", "B=2"]},
    }
    assert bool(_of_role({"chromadb_service_options": options}, "_chromadb_drop_in"))
    wanted = "[Unit] JobTimeoutSec=2h [Service] MemoryMax=24G IOAccounting=yes Environment=A=1 Environment=B=2"
    assert _drop_in({"chromadb_service_options": options})[-7:] == wanted.split()
    assert _drop_in({})[-1].startswith("TimeoutStopSec=")


def test_whoever_may_come_is_everybody_unless_it_is_said() -> None:
    beyond = {"chromadb_listen_host": "0.0.0.0"}
    assert "IPAddressAllow=any" in _drop_in(beyond)
    assert "IPAddressAllow=10.0.0.0/8 ::1" in _drop_in(beyond | {"chromadb_ip_allow": ["10.0.0.0/8", "::1"]})


def test_later_tries_come_later_where_systemd_can() -> None:
    for version, can in ((252, False), (254, True), (257, True)):
        said = {"__chromadb_before": {"stdout": f"systemd {version} ({version}.1)\n+PAM"}}
        assert ("RestartMode=direct" in _drop_in(said)) is can
        assert bool(_of_role(said, "_chromadb_drop_in")) is can


def _of_role(variables: Mapping[str, object], name: str) -> object:
    """What a variable of the role chromadb is, with some of the others set."""
    found: dict[str, Any] = yaml.safe_load((ROLES / "chromadb/vars/main.yml").read_text())
    known = {key: trust_as_template(value) if isinstance(value, str) else value for key, value in found.items()}
    templar = Templar(loader=DataLoader(), variables={**SERVICE, **known, **variables})
    return templar.template(trust_as_template(f"{{{{ {name} }}}}"))


def _drop_in(variables: Mapping[str, object]) -> list[str]:
    """The lines of the drop-in of chromadb.service, with some of the variables set."""
    found: dict[str, Any] = yaml.safe_load((ROLES / "chromadb/vars/main.yml").read_text())
    known = {key: trust_as_template(value) if isinstance(value, str) else value for key, value in found.items()}
    templar = Templar(loader=DataLoader(), variables={**SERVICE, **known, "ansible_managed": "by a role", **variables})
    template = (ROLES / "chromadb/templates/chromadb.service.j2").read_text()
    return str(templar.template(trust_as_template(template))).splitlines()


def _unit(name: str) -> list[str]:
    return (ROOT / "systemd" / name).read_text().splitlines()


def _keys(document: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in document.items():
        found |= _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("chromadb_user", "vectors"),
        ("chromadb_group", "vectors"),
        ("chromadb_home", "/srv/chromadb"),
        ("chromadb_data_dir", "/srv/data"),
        ("chromadb_checkpoint_dir", "/srv/checkpoints"),
        ("chromadb_config_dir", "/etc/vectors"),
        ("chromadb_listen_host", "192.0.2.1"),
        ("chromadb_start_timeout", "10min"),
        ("chromadb_stop_timeout", "10min"),
    ],
)
def test_any_value_that_the_static_unit_does_not_say_is_in_a_drop_in(variable: str, value: str) -> None:
    assert not _of_role({}, "_chromadb_drop_in")
    assert _of_role({variable: value}, "_chromadb_drop_in")


@pytest.mark.parametrize(("found", "same"), [("1.0.20", False), ("1.5.8", False), ("1.5.9", True), ("1.6.0", False)])
def test_data_of_another_version_are_not_migrated_by_the_way(found: str, same: bool) -> None:
    tasks = yaml.safe_load((ROLES / "chromadb/tasks/versions.yml").read_text())
    [task] = [each for each in tasks if each["name"] == "The data are of the version that is to be installed"]
    templar = Templar(loader=DataLoader(), variables={"found": found, "_chromadb_engine": "1.5.9"})
    condition = task["ansible.builtin.assert"]["that"]
    assert templar.template(trust_as_template(f"{{{{ {condition} }}}}")) is same


@pytest.mark.parametrize("inexact", [False, True])
def test_restore_to_a_time_is_exact_unless_that_is_waived(inexact: bool) -> None:
    [play] = yaml.safe_load((ROOT / "ansible/playbooks/restore.yml").read_text())
    known = {key: trust_as_template(value) for key, value in play["vars"].items()}
    chosen = {"chromadb_restore_at": "2026-01-02T03:04:05Z", "chromadb_restore_inexact": inexact}
    words = Templar(loader=DataLoader(), variables={**known, **chosen}).template(trust_as_template("{{ _restore }}"))
    # It finds the backup by itself, and refuses to be told one as well.
    options = ["--stop", "--at", "2026-01-02T03:04:05Z", *(["--inexact"] if inexact else [])]
    assert words == ["chromactl", "--config", "/etc/chromadb/chromad.yml", "--json", "restore", *options]


@pytest.mark.parametrize("chosen", ["", "1a2b3c4d"])
def test_restore_of_a_backup(chosen: str) -> None:
    [play] = yaml.safe_load((ROOT / "ansible/playbooks/restore.yml").read_text())
    known = {key: trust_as_template(value) for key, value in play["vars"].items()}
    if chosen:
        known["chromadb_restore_id"] = chosen
    words = Templar(loader=DataLoader(), variables=known).template(trust_as_template("{{ _restore }}"))
    assert words[4:] == ["restore", chosen or "latest", "--stop"]


def test_every_key_of_the_configuration_is_the_variable_of_its_name() -> None:
    text = (ROLES / "chromadb/templates/chromad.yml.j2").read_text()
    written = yaml.safe_load(re.sub(r"{{ (\w+).*?}}", r"\1", text))
    for key in _keys(written):
        value: Any = written
        for name in key.split("."):
            value = value[name]
        if key != "control_socket":
            assert value == f"chromadb_{key.replace('.', '_')}"


@pytest.mark.parametrize(
    ("family", "system", "version", "known"),
    [
        ("Debian", "Debian", "12.11", True),
        ("Debian", "Debian", "11.9", False),
        ("Debian", "Ubuntu", "24.04", True),
        ("Debian", "Ubuntu", "22.04", False),
        ("Debian", "Kali", "2026.1", False),
        ("RedHat", "Rocky", "9.6", True),
        ("RedHat", "CentOS", "8", False),
        ("RedHat", "Fedora", "42", False),
        ("Suse", "SLES", "15.6", False),
        ("Alpine", "Alpine", "3.22", False),
    ],
)
def test_a_family_or_system_that_is_not_known_is_refused(family: str, system: str, version: str, known: bool) -> None:
    facts = {
        "os_family": family,
        "distribution": system,
        "distribution_version": version,
        "service_mgr": "systemd",
    }
    tasks = yaml.safe_load((ROLES / "chromadb/tasks/preflight.yml").read_text())
    found = [task for task in tasks if "_chromadb_supported" in str(task)]
    assert [task["name"] for task in found] == [
        "The host runs systemd, and is of a family that this role knows",
        "The system is one that this role knows",
    ]
    role = yaml.safe_load((ROLES / "chromadb/vars/main.yml").read_text())
    variables: dict[str, Any] = {"ansible_facts": facts, "system": system}
    variables |= {name: role[name] for name in ("_chromadb_families", "_chromadb_supported")}
    held = []
    for task in found:
        conditions = " and ".join(f"({each})" for each in task["ansible.builtin.assert"]["that"])
        held.append(_rendered(f"{{{{ {conditions} }}}}", variables))
        said = _rendered(task["ansible.builtin.assert"]["fail_msg"], variables)
        assert re.search(rf"{system} {version} .*is not supported. HINT: use Debian 12", str(said))
        if not held[-1]:
            break
        variables |= yaml.safe_load((ROLES / f"chromadb/vars/{family.lower()}.yml").read_text())
    assert all(held) is known


def test_each_family_says_how_packages_come_and_what_they_are_called() -> None:
    families = yaml.safe_load((ROLES / "chromadb/vars/main.yml").read_text())["_chromadb_families"]
    files = {path.stem.removeprefix("packages_") for path in (ROLES / "chromadb/tasks").glob("packages_*.yml")}
    assert files == {family.lower() for family in families}
    known = {
        file: set(yaml.safe_load((ROLES / f"chromadb/vars/{file}.yml").read_text())["_chromadb_package_names"])
        for file in files
    }
    assert set(map(frozenset, known.values())) == {frozenset({"venv", "restic", "ssh"})}
    for path in ROLES.glob("*/tasks/*.yml"):
        text = path.read_text(encoding="utf-8")
        assert "ansible.builtin.apt:" not in text or path.name == "packages_debian.yml"
        assert "ansible.builtin.dnf:" not in text or path.name == "packages_redhat.yml"


def test_a_proxy_with_a_password_goes_into_the_configuration_of_dnf_alone() -> None:
    [task] = yaml.safe_load((ROLES / "chromadb/tasks/packages_redhat.yml").read_text())
    proxies = {"http_proxy": "http://a:1", "https_proxy": "http://host:word@proxy.test:3128", "no_proxy": "here"}
    variables: dict[str, object] = {
        "chromadb_proxy_env": proxies,
        "__chromadb_dnf_main": {"content": "W21haW5dCmdwZ2NoZWNrPTEK"},
    }
    variables["_chromadb_proxy"] = str(_rendered(task["vars"]["_chromadb_proxy"], variables)).strip()
    assert variables["_chromadb_proxy"] == proxies["https_proxy"]
    text = str(_rendered((ROLES / "chromadb/templates/dnf.conf.j2").read_text(), variables))
    assert text.split() == [
        "[main]",
        "gpgcheck=1",
        "proxy=http://proxy.test:3128",
        "proxy_username=host",
        "proxy_password=word",
    ]
    assert str(_rendered(task["vars"]["_chromadb_proxy"], {"chromadb_proxy_env": {}})).strip() == ""


def _rendered(text: str, variables: Mapping[str, object]) -> object:
    return Templar(loader=DataLoader(), variables=dict(variables)).template(trust_as_template(text))
