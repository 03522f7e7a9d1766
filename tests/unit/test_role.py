"""The role's files say the same as each other."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chromad.config import Config, parse_duration, parse_size

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "ansible" / "roles" / "chromadb"
OPTIONS: dict[str, Any] = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"][
    "options"
]
DEFAULTS: dict[str, Any] = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())


def test_argument_specs_and_defaults_agree() -> None:
    assert {name: option["default"] for name, option in OPTIONS.items()} == DEFAULTS


def test_every_variable_is_changed_in_the_alternative_scenario() -> None:
    changed = yaml.safe_load((ROOT / "tests/molecule/alternative/vars/all.yml").read_text())
    assert set(DEFAULTS) <= set(changed) | {"chromadb_index_url", "chromadb_wheelhouse"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("chromadb_data_dir", str(Config().data_dir)),
        ("chromadb_checkpoint_dir", str(Config().checkpoint_dir)),
        ("chromadb_backup_dir", str(Config().backup.directory)),
        ("chromadb_listen_host", Config().listen.host),
        ("chromadb_listen_port", Config().listen.port),
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
    ],
)
def test_role_and_daemon_have_the_same_defaults(variable: str, value: object) -> None:
    assert DEFAULTS[variable] == value


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
    assert parse(DEFAULTS[variable]) == value


def test_every_key_of_the_configuration_is_written_by_the_role() -> None:
    template = yaml.safe_load(re.sub(r"{{.*?}}", "x", (ROLE / "templates" / "chromad.yml.j2").read_text()))
    # The daemon as root is for trials and containers, never for a host.
    assert _keys(Config().model_dump()) - _keys(template) == {"allow_root"}


def test_static_units_say_the_defaults() -> None:
    service = (ROOT / "systemd/chromadb.service").read_text().splitlines()
    timer = (ROOT / "systemd/chromadb-backup.timer").read_text().splitlines()
    assert f"User={DEFAULTS['chromadb_user']}" in service
    assert f"TimeoutStartSec={DEFAULTS['chromadb_start_timeout']}" in service
    assert f"TimeoutStopSec={DEFAULTS['chromadb_stop_timeout']}" in service
    data, checkpoints = DEFAULTS["chromadb_data_dir"], DEFAULTS["chromadb_checkpoint_dir"]
    assert f"ReadWritePaths=-{data} -{checkpoints} -{Config().quarantine_dir}" in service
    assert f"RequiresMountsFor={data} {checkpoints}" in service
    assert f"OnCalendar={DEFAULTS['chromadb_backup_schedule']}" in timer
    assert f"RandomizedDelaySec={DEFAULTS['chromadb_backup_randomized_delay']}" in timer


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


def test_what_the_unit_may_write_is_made_at_boot() -> None:
    service = (ROOT / "systemd/chromadb.service").read_text()
    lines = (ROOT / "systemd/tmpfiles.d/chromadb.conf").read_text().splitlines()
    made = {path: (mode, user) for _, path, mode, user, *_ in (line.split() for line in lines if line[0] == "d")}
    [written] = re.findall(r"^ReadWritePaths=(.*)$", service, re.MULTILINE)
    for path in written.split():
        assert made[path.removeprefix("-")] == ("0750", "chromadb")


def _keys(document: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in document.items():
        found |= _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found
