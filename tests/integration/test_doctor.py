"""chromactl doctor: what goes wrong with a host is provoked, and found with a hint; a sound host has no warning."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from chromad.chroma import sqlite

from tests.integration import holders, records
from tests.integration.account import BIN, need_closed_doors, stranger
from tests.integration.site import Site, free_port
from tests.segments import refilled

Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def healthy() -> Iterator[Site]:
    """A served site with a backup and a drill."""
    site = Site()
    records.fill(site.serve().client(), "some", 150, sync_threshold=100)
    site.backup()
    assert site.chromactl("verify").code == 0
    yield site
    site.remove()


def doctor(site: Site, code: int, *words: str, environment: dict[str, str] | None = None) -> Results:
    path = f"{BIN}:/usr/bin:/bin"
    result = site.chromactl("doctor", "--output", "json", *words, environment={"PATH": path, **(environment or {})})
    assert "Traceback" not in result.output
    assert result.code == code, result.output
    found: Results = result.json()
    for each in found:
        assert each["status"] in ("ok", "skip") or each["hint"], each
    return found


def wrong(found: Results) -> dict[str, str]:
    return {each["name"]: each["fact"] for each in found if each["status"] in ("warn", "fail")}


def test_sound_host(healthy: Site) -> None:
    found = doctor(healthy, 0)
    # Only hosts that systemd runs have a unit to look at, and only those of the role several environments.
    assert {each["name"] for each in found if each["status"] != "ok"} <= {"unit", "upgrade"}
    names = {each["name"] for each in found}
    assert names >= {
        "service",
        "owner",
        "mode",
        "disk",
        "single_writer",
        "version",
        "backup",
        "drill",
        "exposure",
        "log",
        "configuration",
        "file_system",
        "mounts",
        "open_files",
        "clock",
        "packages",
        "running",
        "restic",
        "path",
        "python",
        "environments",
        "environment",
        "checkpoints",
        "orphans",
        "journal_mode",
        "free_pages",
        "quarantine",
        "parents",
        "last_stop",
    }
    [disk] = [each for each in found if each["name"] == "disk"]
    assert disk["data"]["percent"] > 0


def test_deep(healthy: Site) -> None:
    [integrity] = [each for each in doctor(healthy, 0, "--deep") if each["name"] == "integrity"]
    assert integrity["status"] == "ok"


def test_records_that_no_search_finds(site: Site, tmp_path: Path) -> None:
    """Chroma's index has lost the way to them, without any kill."""
    data, _, missed = refilled.tries(tmp_path / "tries")[-1]
    shutil.rmtree(site.data)
    shutil.copytree(data, site.data)
    site.give_all(site.data)
    segments = wrong(doctor(site, 1, "--deep"))["segments"]
    said = re.match(rf"(\d+) of the 100 records of {refilled.NAME} are in no search's reach", segments)
    assert said
    assert 0 < int(said[1]) <= len(missed)


def test_text_and_nagios(healthy: Site) -> None:
    text = healthy.chromactl("doctor").output
    assert "service: serving " in text
    line = healthy.chromactl("doctor", "--output", "nagios", environment={"PATH": f"{BIN}:/usr/bin"})
    assert line.code == 0
    assert line.output.startswith("CHROMADB OK - all is well | ok=")
    assert line.output.count("\n") == 1


def test_environment_and_path(healthy: Site, tmp_path: Path) -> None:
    other = tmp_path / "chroma"
    other.write_text("#!/bin/sh\n", encoding="ascii")
    other.chmod(0o755)
    tmp_path.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{BIN}:/usr/bin:/bin", "CHROMA_SERVER_AUTHN_PROVIDER": "x"}
    found = wrong(doctor(healthy, 1, environment=environment))
    assert str(other) in found["path"]
    assert "CHROMA_SERVER_AUTHN_PROVIDER" in found["environment"]


def _old_backup(site: Site) -> None:
    site.edit_ledger(last_good="2020-01-01T00:00:00+00:00")


def _days_old(days: int) -> Callable[[Site], None]:
    def spoil(site: Site) -> None:
        site.edit_ledger(last_good=(datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds"))

    return spoil


def _shrunk_backup(site: Site) -> None:
    until = (datetime.now(UTC) + timedelta(days=7)).isoformat(timespec="seconds")
    site.edit_ledger(kept=[{"created": site.ledger["last_good"], "until": until, "records": 900, "left": 300}])


def _failed_backup(site: Site) -> None:
    site.edit_ledger(problem="the repository is full")


def _failed_drill(site: Site) -> None:
    drill = site.ledger["drills"][-1] | {"problem": "a file is damaged"}
    site.edit_ledger(drills=[drill])


def _damaged_ledger(site: Site) -> None:
    (site.backup_dir / "ledger.json").write_text("{", encoding="ascii")


@pytest.mark.parametrize(
    ("spoil", "name", "fact", "code"),
    [
        (_old_backup, "backup", "2020-01-01", 1),
        (_days_old(3), "backup", "the last good one is of", 1),
        (_shrunk_backup, "shrunk", "has 900 records, the one after it 300", 1),
        (_failed_backup, "backup", "the repository is full", 2),
        (_failed_drill, "drill", "a file is damaged", 2),
        (_damaged_ledger, "backup", "ledger.json is damaged", 2),
    ],
)
def test_backups(healthy: Site, spoil: Callable[[Site], None], name: str, fact: str, code: int) -> None:
    before = (healthy.backup_dir / "ledger.json").read_bytes()
    spoil(healthy)
    try:
        assert fact in wrong(doctor(healthy, code))[name]
    finally:
        (healthy.backup_dir / "ledger.json").write_bytes(before)


def test_backup_of_yesterday_is_new_enough(healthy: Site) -> None:
    before = (healthy.backup_dir / "ledger.json").read_bytes()
    _days_old(1)(healthy)
    assert "backup" not in wrong(doctor(healthy, 0))
    (healthy.backup_dir / "ledger.json").write_bytes(before)


def test_fence(healthy: Site) -> None:
    healthy.chromactl("fence", "--reason", "maintenance")
    assert "maintenance" in wrong(doctor(healthy, 2))["fence"]
    healthy.chromactl("unfence")
    doctor(healthy, 0)


def test_broken_segments_are_left(healthy: Site) -> None:
    left = healthy.quarantine / "11111111-1111-1111-1111-111111111111-broken-now"
    left.mkdir()
    healthy.give(left)
    assert "1 broken segments" in wrong(doctor(healthy, 1))["leftovers"]
    left.rmdir()


def test_what_else_is_put_aside(healthy: Site) -> None:
    """It harms nobody, and is not hidden from whoever looks for space."""
    rebuilt = healthy.quarantine / "11111111-1111-1111-1111-111111111111-rebuilt-now"
    rebuilt.mkdir()
    lost = healthy.quarantine / "22222222-2222-2222-2222-222222222222-now.lost"
    lost.touch()
    link = healthy.quarantine / "\x1bnowhere"
    link.symlink_to("nowhere")
    for path in (rebuilt, lost, link):
        healthy.give(path)
    [found] = [each for each in doctor(healthy, 0) if each["name"] == "set_aside"]
    assert found["data"]["entries"] == 3
    assert f"are in {healthy.quarantine}, \\x1bnowhere among them" in found["fact"]
    rebuilt.rmdir()
    lost.unlink()
    link.unlink()


@pytest.mark.root
def test_files_of_root(healthy: Site) -> None:
    stray = healthy.data / "stray"
    stray.touch()
    os.chown(stray, 0, 0)
    found = doctor(healthy, 2)
    assert str(stray) in wrong(found)["owner"]
    assert any(each["hint"].startswith("chown -R ") for each in found)
    stray.unlink()


def test_mode(healthy: Site) -> None:
    healthy.data.chmod(0o777)
    assert "others can write" in wrong(doctor(healthy, 2))["mode"]
    healthy.data.chmod(0o755)
    assert "others can read" in wrong(doctor(healthy, 1))["mode"]
    healthy.data.chmod(0o750)


def test_a_port_that_is_left_beside_the_gateway(healthy: Site) -> None:
    healthy.configure({"gateway.local_socket": str(healthy.run / "local.sock")})
    try:
        assert "each user of this host reaches Chroma at 127.0.0.1:" in wrong(doctor(healthy, 2))["exposure"]
        healthy.configure({"listen.port": free_port()})
        assert "exposure" not in wrong(doctor(healthy, 1))
        # As an engine that hangs
        with socket.create_server(("127.0.0.1", 0)) as silent:
            healthy.configure({"listen.port": silent.getsockname()[1]})
            assert "that may be Chroma, past the gateway" in wrong(doctor(healthy, 1))["exposure"]
    finally:
        healthy.configure({"gateway.local_socket": None, "listen.port": healthy.port})


def test_disk_and_exposure(healthy: Site) -> None:
    used = {"disk.warn_percent": 1, "disk.release_percent": 2, "disk.fence_percent": 99}
    healthy.configure({**used, "listen.host": "0.0.0.0", "allow_unauthenticated_network": True})
    try:
        found = wrong(doctor(healthy, 1))
        assert " % full" in found["disk"]
        assert "reachable from the network: Chroma" in found["exposure"]
        healthy.configure({"listen.host": "127.0.0.1", "metrics.host": "0.0.0.0"})
        assert "reachable from the network: metrics" in wrong(doctor(healthy, 1))["exposure"]
    finally:
        defaults = {"disk.warn_percent": 80, "disk.release_percent": 90, "disk.fence_percent": 95}
        hosts = {"listen.host": "127.0.0.1", "metrics.host": "127.0.0.1"}
        healthy.configure({**defaults, **hosts, "allow_unauthenticated_network": False})


def test_another_writer(healthy: Site) -> None:
    holder = holders.sqlite_connection(healthy)
    assert f"pid {holder.pid}" in wrong(doctor(healthy, 2))["single_writer"]
    holder.kill()
    holder.wait()
    doctor(healthy, 0)


def test_service_is_down(used: Site) -> None:
    found = doctor(used, 1)
    assert wrong(found)["service"] == "it does not run"
    assert "no good one" in wrong(found)["backup"]


def test_service_does_not_answer(used: Site) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(used.control))
        silent.listen()
        assert "service" in wrong(doctor(used, 2))


def test_unclean_exit(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 20, sync_threshold=10)
    for pid in (daemon.process.pid, daemon.engine_pid):
        os.kill(pid, signal.SIGKILL)
    daemon.ended()
    assert "did not end well" in wrong(doctor(site, 1))["service"]
    site.serve()
    assert "did not end well" in wrong(doctor(site, 1))["last_stop"]


def test_newer_data(used: Site) -> None:
    path = used.data / "chromad.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"engine_version": "99.0.0"}), encoding="ascii")
    assert "99.0.0" in wrong(doctor(used, 2))["version"]


def test_journal_mode_and_damage(used: Site) -> None:
    connection = sqlite3.connect(used.data / sqlite.FILE)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    assert "delete mode" in wrong(doctor(used, 1))["journal_mode"]
    with open(used.data / sqlite.FILE, "r+b") as file:
        file.seek(40960)
        file.write(b"\xff" * 8192)
    found = doctor(used, 2, "--deep")
    assert [each for each in found if each["name"] in ("integrity", "database") and each["status"] != "ok"]


def test_data_directory_is_gone(site: Site) -> None:
    site.configure({"data_dir": str(site.root / "nowhere"), "checkpoint_dir": str(site.checkpoints)})
    assert "is not a directory" in wrong(doctor(site, 2))["data_dir"]


@pytest.mark.root
def test_nagios_of_a_user_who_may_not_look(healthy: Site) -> None:
    """It knows nothing, which is no alarm."""
    need_closed_doors()
    for mode in (0o644, 0o640):
        healthy.config.chmod(mode)
        line = healthy.chromactl("doctor", "--output", "nagios", account=stranger())
        assert line.code == 3, line.output
        assert line.output.startswith("CHROMADB UNKNOWN - ")
        assert line.output.count("\n") == 1
    healthy.config.chmod(0o644)


def test_what_restores_have_left(healthy: Site) -> None:
    """By name, size and age, with how to remove it; only fresh former data are no reason to warn."""
    parent = healthy.root / "restore"
    young = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    old = "20260102T030405.000006Z"
    left = {f"replaced-{young}": "ok", f"replaced-{old}": "warn", f"failed-{young}": "warn", f"staging-{old}": "warn"}
    for name in left:
        (parent / name).mkdir(parents=True)
        (parent / name / "file").write_bytes(bytes(1 << 20))
    healthy.give_all(parent)
    try:
        found = {each["data"]["path"]: each for each in doctor(healthy, 1) if each["name"] == "asides"}
        assert {name: found[str(parent / name)]["status"] for name in left} == left
        for path, each in found.items():
            assert each["data"]["bytes"] >= 1 << 20
            assert path in each["fact"]
            assert path in each["hint"] or "staging" in path
        assert found[str(parent / f"replaced-{old}")]["data"]["seconds"] > 86400
    finally:
        shutil.rmtree(parent)
