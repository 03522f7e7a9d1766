"""Taking backups: with the service up or down, one at a time, whole or not at all."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.integration import mounts, records
from tests.integration.account import BIN
from tests.integration.site import Site


def take(site: Site) -> Path:
    """Takes a backup and gives its directory."""
    result = site.chromactl("backup", "--json")
    assert result.code == 0, result.output
    return Path(result.json()["path"])


def listed(site: Site) -> list[str]:
    return [backup["name"] for backup in site.chromactl("backups", "--json").json()["backups"]]


@pytest.fixture(scope="module")
def _prepared() -> Iterator[Site]:
    site = Site()
    collection = records.create(site.serve().client(), "heavy")
    for start in range(0, 500, 100):
        keys = [f"{number}" for number in range(start, start + 100)]
        collection.add(ids=keys, embeddings=np.ones((100, 2), np.float32), metadatas=[{"heavy": "x" * 20_000}] * 100)
    site.daemon.stop()
    yield site
    site.remove()


@pytest.fixture
def heavy(site: Site, _prepared: Site) -> Site:
    """A stopped site with so much data that a backup takes a moment."""
    site.copy_from(_prepared)
    return site


def paused(site: Site) -> subprocess.Popen[bytes]:
    """A backup that was stopped by SIGSTOP while it copies the database."""
    for _ in range(20):
        backup = site.spawn([BIN / "chromactl", "--config", site.config, "backup"])
        while backup.poll() is None:
            if list(site.backups.glob(".unfinished-*/chroma.sqlite3")):
                backup.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, backup.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                break
        if backup.poll() is None and list(site.backups.glob(".unfinished-*")):
            return backup
        backup.send_signal(signal.SIGCONT)
        backup.wait()
    raise AssertionError("every backup was too fast to stop")


def test_backup_of_a_running_service(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "one", 150, sync_threshold=100)
    records.fill(daemon.client(), "two", 10)
    result = site.chromactl("backup", "--json")
    assert result.code == 0
    found = result.json()
    assert (found["collections"], found["records"], found["path"]) == (2, 160, f"{site.backups}/{found['name']}")
    assert listed(site) == [found["name"]]
    assert daemon.status()["state"] == "serving"
    daemon.stop()


def test_manifest(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "persisted", 150, sync_threshold=100)
    records.fill(daemon.client(), "in-log", 10)
    backup = take(site)
    manifest = json.loads((backup / "manifest.json").read_text(encoding="utf-8"))
    held = {entry["name"]: (entry["records"], entry["seq_id"]) for entry in manifest["collections"]}
    assert held["persisted"][0] == 150
    assert held["persisted"][1] > 0
    assert held["in-log"] == (10, None)
    files = {str(path.relative_to(backup)) for path in backup.rglob("*") if path.is_file()}
    assert {entry["path"] for entry in manifest["files"]} == files - {"manifest.json"}
    assert (manifest["name"], manifest["format"]) == (backup.name, 1)


def test_backup_with_the_service_down(site: Site) -> None:
    daemon = site.serve()
    written = records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    daemon.stop()
    before = site.tree()
    take(site)
    assert {name: facts for name, facts in site.tree().items() if "lock" not in name} == before
    site.wipe()
    assert site.chromactl("restore", "latest").code == 0
    records.assert_equal(site.serve().client(), "kept", written)


def test_text_for_people(site: Site) -> None:
    records.fill(site.serve().client(), "one", 10)
    name = site.chromactl("backup").output.split(":")[0]
    result = site.chromactl("backups")
    assert result.output.splitlines()[0].split() == ["NAME", "SIZE", "COLLECTIONS", "RECORDS", "PROBLEM"]
    assert result.output.splitlines()[1].split()[0] == name
    assert result.output.splitlines()[1].split()[-2:] == ["1", "10"]


def test_files_are_private_and_belong_to_the_owner_of_the_data(site: Site) -> None:
    records.fill(site.serve().client(), "one", 150, sync_threshold=100)
    backup = take(site)
    for path in (backup, *backup.rglob("*")):
        assert path.stat().st_uid == site.account.uid
        assert path.stat().st_mode & 0o007 == 0


def test_second_backup_at_the_same_time(heavy: Site) -> None:
    first = paused(heavy)
    second = heavy.chromactl("backup")
    assert second.code == 75
    assert f"is in use for a backup by pid {first.pid} (" in second.output
    assert "HINT: wait for it" in second.output
    first.send_signal(signal.SIGCONT)
    assert first.wait(60) == 0
    assert len(listed(heavy)) == 1


def test_killed_backup_leaves_nothing_that_counts(heavy: Site) -> None:
    backup = paused(heavy)
    backup.kill()
    backup.wait()
    finished = listed(heavy)
    assert list(heavy.backups.glob(".unfinished-*"))
    take(heavy)
    assert len(listed(heavy)) == len(finished) + 1
    assert not list(heavy.backups.glob(".unfinished-*"))


def test_daemon_starts_while_a_backup_runs(heavy: Site) -> None:
    backup = paused(heavy)
    daemon = heavy.serve()
    backup.send_signal(signal.SIGCONT)
    assert backup.wait(60) == 0
    daemon.stop()


def test_no_restore_while_a_backup_runs(heavy: Site) -> None:
    take(heavy)
    backup = paused(heavy)
    result = heavy.chromactl("restore", "latest")
    assert result.code == 75
    assert f"pid {backup.pid} (" in result.output
    backup.send_signal(signal.SIGCONT)
    assert backup.wait(60) == 0


def test_daemon_stops_while_a_backup_runs(heavy: Site) -> None:
    daemon = heavy.serve()
    backup = paused(heavy)
    daemon.stop()
    backup.send_signal(signal.SIGCONT)
    assert backup.wait(60) == 0


def test_collection_deleted_by_a_client_is_not_in_it(site: Site) -> None:
    client = site.serve().client()
    records.fill(client, "kept", 150, sync_threshold=100)
    records.fill(client, "gone", 150, sync_threshold=100)
    client.delete_collection("gone")
    backup = take(site)
    assert len([path for path in backup.iterdir() if path.is_dir()]) == 1


def test_two_backups_in_a_row_have_two_names(used: Site) -> None:
    first, second = take(used), take(used)
    assert first.name < second.name
    assert listed(used) == [first.name, second.name]


def test_no_database_yet(site: Site) -> None:
    result = site.chromactl("backup")
    assert result.code == 78
    assert f"{site.data} holds no Chroma database" in result.output
    assert "HINT: start the service once" in result.output


def test_directory_is_made_for_the_owner_of_the_data(used: Site) -> None:
    used.configure({"backup.directory": f"{used.backups}/new"})
    backup = take(used)
    assert backup.parent.stat().st_uid == used.account.uid
    assert backup.parent.stat().st_mode & 0o777 == 0o750


def test_parent_of_the_directory_is_missing(used: Site) -> None:
    used.configure({"backup.directory": f"{used.backups}/none/deep"})
    result = used.chromactl("backup")
    assert result.code == 78
    assert f"{used.backups}/none does not exist" in result.output
    assert "HINT: create backup.directory" in result.output


def test_directory_that_may_not_be_written(used: Site) -> None:
    used.backups.chmod(0o550)
    result = used.chromactl("backup")
    assert result.code == 77
    assert str(used.backups) in result.output
    assert "Permission denied" in result.output
    assert "HINT: " in result.output


def test_file_in_place_of_the_directory(used: Site) -> None:
    (used.root / "file").touch()
    used.configure({"backup.directory": f"{used.root}/file"})
    result = used.chromactl("backup")
    assert result.code == 78
    assert f"{used.root}/file" in result.output
    assert "HINT: " in result.output


@pytest.mark.root
def test_no_space_for_a_backup(heavy: Site) -> None:
    with mounts.full(heavy.backups, heavy.account):
        result = heavy.chromactl("backup")
        assert result.code == 1
        assert f"{heavy.backups} has 0 bytes free" in result.output
        assert "HINT: free some space" in result.output
        assert [path.name for path in heavy.backups.iterdir()] == ["fill"]


def test_damaged_database_is_not_backed_up(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "one", 200)
    daemon.stop()
    with open(site.data / "chroma.sqlite3", "r+b") as file:
        file.seek(8192)
        file.write(os.urandom(40_000))
    result = site.chromactl("backup")
    assert result.code == 1
    assert "Traceback" not in result.output
    assert "HINT: " in result.output
    assert listed(site) == []
    assert not list(site.backups.iterdir())
