"""Taking backups: with the service up or down, one at a time, proven or not counted."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromad.chroma import sqlite
from chromad.store import fence

from tests.integration import mounts, records
from tests.integration.account import AS_ROOT, BIN, current, until
from tests.integration.site import Site


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
    site.make_repository()
    copy = site.backup_dir / "next/chroma.sqlite3"
    for _ in range(20):
        backup = site.spawn([BIN / "chromactl", "--config", site.config, "backup", "--full"], current())
        while backup.poll() is None:
            if copy.exists():
                _stop(backup)
                break
        if backup.poll() is None and copy.exists():
            return backup
        os.kill(_worker(backup), signal.SIGCONT)
        backup.wait()
    raise AssertionError("every backup was too fast to stop")


def _worker(backup: subprocess.Popen[bytes]) -> int:
    """The process that works: root's has one for that."""
    children = Path(f"/proc/{backup.pid}/task/{backup.pid}/children").read_text(encoding="ascii").split()
    return int(children[0]) if AS_ROOT else backup.pid


def _stop(backup: subprocess.Popen[bytes]) -> None:
    os.kill(_worker(backup), signal.SIGSTOP)
    until(lambda: backup.poll() is not None or _is_stopped(_worker(backup)), "it to stop")


def _is_stopped(pid: int) -> bool:
    return "State:\tT" in Path(f"/proc/{pid}/status").read_text(encoding="ascii")


def finish(backup: subprocess.Popen[bytes]) -> None:
    os.kill(_worker(backup), signal.SIGCONT)
    assert backup.wait(60) == 0


def held(site: Site) -> dict[str, Any]:
    """The manifest of the newest backup, as the repository has it."""
    found: dict[str, Any] = site.chromactl("backups", "show", "latest", "--json").json()["manifest"]
    return found


def test_backup_of_a_running_service(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "one", 150, sync_threshold=100)
    records.fill(daemon.client(), "two", 10)
    found = site.backup()
    assert (found["collections"], found["records"], found["base"]) == (2, 160, "the first one here")
    assert found["added"] > 0
    [listed] = site.listed()
    expected = {key: found[key] for key in ("id", "created", "collections", "records", "bytes", "added")}
    assert listed == listed | expected | {"proven": True, "drilled": None}
    status = daemon.status()
    assert status["state"] == "serving"
    assert status["backup"] == {
        "last_good": found["created"],
        "problem": None,
        "shrunk": None,
        "drill": None,
        "drill_good": None,
        "drill_problem": None,
    }
    daemon.stop()


def test_manifest(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "persisted", 150, sync_threshold=100)
    records.fill(daemon.client(), "in-log", 10)
    site.backup()
    manifest = held(site)
    entries = {entry["name"]: entry for entry in manifest["collections"]}
    assert entries["persisted"]["records"] == 150
    assert entries["persisted"]["seq_id"] > 0
    assert (entries["in-log"]["records"], entries["in-log"]["seq_id"]) == (10, None)
    for entry in entries.values():
        assert len(entry["samples"]) >= 5
        assert all(sample["digest"] and sample["nearest"] for sample in entry["samples"]), "seen when it was proven"
    files = {str(path.relative_to(site.current)) for path in site.current.rglob("*") if path.is_file()}
    assert {entry["path"] for entry in manifest["files"]} == files - {"manifest.json"}
    assert manifest["format"] == 2
    assert manifest["base_created"] == manifest["created"]
    assert not list(site.backup_dir.glob("proof*"))


def test_metadata_of_a_collection_is_in_the_manifest(site: Site) -> None:
    metadata = {"text": "t", "whole": 7, "part": 0.5, "truth": True}
    site.serve().client().create_collection("some", metadata=metadata, embedding_function=None)
    site.backup()
    assert held(site)["collections"][0]["metadata"] == metadata


def test_backup_with_the_service_down(site: Site) -> None:
    daemon = site.serve()
    written = records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    daemon.stop()
    before = site.tree()
    site.backup()
    assert site.tree() == before
    site.wipe()
    assert site.chromactl("restore", "latest").code == 0
    records.assert_equal(site.serve().client(), "kept", written)


def test_text_for_people(site: Site) -> None:
    records.fill(site.serve().client(), "one", 10)
    site.make_repository()
    result = site.chromactl("backup")
    identity, _, rest = result.output.partition(":")
    assert rest.startswith(" 1 collections, 10 records, ")
    assert "proven" in rest
    assert "a base of its own: the first one here" in rest
    head, line = site.chromactl("backups").output.splitlines()
    assert head.split() == ["ID", "CREATED", "AGE", "SIZE", "ADDED", "COLLECTIONS", "RECORDS", "PROVEN", "DRILLED"]
    assert line.split()[0] == identity
    assert line.split()[-3:] == ["1", "10", "yes"]
    shown = site.chromactl("backups", "show", identity).output
    assert shown.startswith(f"{identity} of ")
    assert shown.splitlines()[-1].split() == ["one", "default_tenant", "default_database", "8", "10"]


def test_files_are_private_and_belong_to_the_owner_of_the_data(site: Site) -> None:
    records.fill(site.serve().client(), "one", 150, sync_threshold=100)
    site.backup()
    for path in (site.backup_dir, *site.backup_dir.rglob("*"), *site.backups.rglob("*")):
        assert path.stat().st_uid == site.account.uid, path
        # What restic encrypts it leaves readable; its directory closes the door.
        assert path.is_relative_to(site.backups) or path.stat().st_mode & 0o007 == 0, path
    assert site.backups.stat().st_mode & 0o007 == 0


def test_two_at_once(heavy: Site) -> None:
    older = heavy.backup()["id"]
    heavy.backup()
    first = paused(heavy)
    for words in (["backup"], ["verify"], ["restore"], ["backups", "forget", older, "--confirm"]):
        second = heavy.chromactl(*words)
        assert second.code == 75, second.output
        assert re.search(r"is in use for a backup, a drill or a restore by pid \d+ \(", second.output)
        assert "HINT: wait for it" in second.output
    assert heavy.asides() == []
    finish(first)
    assert len(heavy.listed()) == 3


def test_killed_backup_leaves_nothing_that_counts(heavy: Site) -> None:
    good = heavy.backup()
    backup = paused(heavy)
    backup.kill()
    backup.wait()
    assert [each["id"] for each in heavy.listed()] == [good["id"]]
    assert (heavy.backup_dir / "next").exists()
    again = heavy.backup("--full")
    assert [each["id"] for each in heavy.listed()] == [good["id"], again["id"]]
    assert not (heavy.backup_dir / "next").exists()


def test_daemon_starts_while_a_backup_runs(heavy: Site) -> None:
    backup = paused(heavy)
    daemon = heavy.serve()
    finish(backup)
    daemon.stop()


def test_daemon_stops_while_a_backup_runs(heavy: Site) -> None:
    daemon = heavy.serve()
    backup = paused(heavy)
    daemon.stop()
    finish(backup)


def test_collection_deleted_by_a_client_is_not_in_it(site: Site) -> None:
    client = site.serve().client()
    records.fill(client, "kept", 150, sync_threshold=100)
    records.fill(client, "gone", 150, sync_threshold=100)
    client.delete_collection("gone")
    site.backup()
    assert len([path for path in site.current.iterdir() if path.is_dir()]) == 1


def test_no_database_yet(site: Site) -> None:
    site.make_repository()
    result = site.chromactl("backup")
    assert result.code == 78
    assert f"{site.data} holds no Chroma database" in result.output
    assert "HINT: start the service once" in result.output


@pytest.mark.parametrize("words", [["backup"], ["backup", "--dry-run"], ["verify"], ["restore"]])
def test_no_data_directory(used: Site, words: list[str]) -> None:
    used.make_repository()
    used.data.rename(used.root / "elsewhere")
    result = used.chromactl(*words)
    assert result.code in (1, 78), result.output
    assert "Traceback" not in result.output
    assert str(used.data) in result.output or "no proven backup" in result.output
    assert "HINT: " in result.output


def test_no_checkpoint_directory(used: Site) -> None:
    used.make_repository()
    used.checkpoints.rmdir()
    result = used.chromactl("backup")
    assert result.code == 77
    assert f"{used.checkpoints} does not exist" in result.output
    assert "HINT: start the service once" in result.output


def test_checkpoint_directory_that_may_not_be_written(used: Site) -> None:
    used.make_repository()
    used.checkpoints.chmod(0o550)
    result = used.chromactl("backup")
    assert result.code == 77
    assert f"{used.checkpoints}/.backup: Permission denied" in result.output
    assert "HINT: " in result.output


def test_dry_run_does_nothing(used: Site) -> None:
    used.make_repository()
    before = used.tree(used.root)
    plan = used.chromactl("backup", "--dry-run", "--json").json()
    assert plan == plan | {"repository": str(used.backups), "base": "the first one here"}
    assert used.tree(used.root) == before
    taken = used.backup()
    before = used.tree(used.root)
    plan = used.chromactl("backup", "--dry-run", "--json").json()
    assert (plan["base"], plan["bytes"]) == ("", taken["bytes"])
    assert used.chromactl("backup", "--dry-run", "--full", "--json").json()["base"] == "asked for"
    assert f"store it in {used.backups}" in used.chromactl("backup", "--dry-run").output
    assert used.tree(used.root) == before


@pytest.mark.root
def test_no_space_for_a_base(heavy: Site) -> None:
    heavy.make_repository()
    heavy.backup_dir.mkdir()
    with mounts.full(heavy.backup_dir, heavy.account):
        result = heavy.chromactl("backup")
        assert result.code == 1
        assert "Traceback" not in result.output
        assert "HINT: " in result.output
        assert not (heavy.backup_dir / "current").exists()
    assert heavy.listed() == []


@pytest.mark.root
def test_no_space_for_a_proof(heavy: Site) -> None:
    """The base has room, its private copy would fill the file system beyond the fence."""
    heavy.make_repository()
    heavy.backup_dir.mkdir()
    size = sum(path.stat().st_size for path in heavy.data.glob("chroma.sqlite3*"))
    with mounts.small(heavy.backup_dir, size * 3 // 2):
        heavy.give(heavy.backup_dir)
        result = heavy.chromactl("backup")
        assert result.code == 1
        assert f"{heavy.backup_dir} has " in result.output
        assert "below disk.fence_percent" in result.output
        assert "HINT: free some space" in result.output
        assert heavy.ledger["last_good"] == ""
        assert "below disk.fence_percent" in heavy.ledger["problem"]
    assert heavy.listed() == []


def test_damaged_database_is_not_backed_up(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "one", 200)
    good = site.backup()
    daemon.stop()
    with open(site.data / "chroma.sqlite3", "r+b") as file:
        file.seek(8192)
        file.write(os.urandom(40_000))
    result = site.chromactl("backup", "--full")
    assert result.code == 1
    assert "Traceback" not in result.output
    assert "HINT: " in result.output
    assert [each["id"] for each in site.listed()] == [good["id"]]
    assert (site.ledger["last_good"], bool(site.ledger["problem"])) == (good["created"], True)


def rows_after(site: Site, seq_id: int) -> int:
    with sqlite.connect(site.data) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM embeddings_queue WHERE seq_id > ?", (seq_id,)).fetchall()
    return int(count)


def test_log_is_kept_from_the_first_try_on(site: Site) -> None:
    """There is no repository, so nothing is backed up yet: checkpoints alone do not let the log go."""
    daemon = site.serve()
    records.fill(daemon.client(), "some", 150, sync_threshold=100)
    assert site.chromactl("backup").code == 78
    assert site.chromactl("checkpoint", "--json").json()["purged"] == 0
    assert rows_after(site, 0) == 150
    site.backup()
    assert site.chromactl("checkpoint", "--json").json()["purged"] > 0
    daemon.stop()


def test_backup_that_is_not_proven_covers_nothing_of_the_log(site: Site) -> None:
    daemon = site.serve()
    collection = records.create(daemon.client(), "some", 100)
    records.upsert(collection, {f"a{number}": records.make(f"a{number}") for number in range(150)})
    site.backup()
    covered = site.ledger["last_seq_id"]
    records.upsert(collection, {f"b{number}": records.make(f"b{number}") for number in range(150)})
    with open(site.current / "chroma.sqlite3", "r+b") as file:
        file.write(b"scribble" * 100)
    assert site.chromactl("backup").code == 1
    assert site.ledger["last_seq_id"] == covered
    assert site.chromactl("checkpoint").code == 0
    assert rows_after(site, covered) == 150
    assert site.backup()["base"]
    assert site.ledger["last_seq_id"] == covered + 150
    daemon.stop()


def test_backup_while_a_collection_is_in_quarantine(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "broken", 150, sync_threshold=100)
    [collection] = sqlite.collections(site.data)
    fence.put_around(site.data, collection, "the collection is in quarantine")
    site.make_repository()
    result = site.chromactl("backup")
    assert result.code == 1, result.output
    assert "the collection 'broken' is in quarantine" in result.output
    assert "HINT: chromactl repair" in result.output
    assert site.listed() == []
    daemon.stop()


def test_backup_that_cannot_begin_while_another_one_runs(heavy: Site) -> None:
    """What it has to say is not worth what the other one writes into the ledger."""
    backup = paused(heavy)
    before = heavy.ledger
    heavy.key.rename(heavy.root / "elsewhere")
    assert heavy.chromactl("backup").code == 78
    assert heavy.ledger == before
    finish(backup)
    assert heavy.ledger["problem"] == ""
    assert heavy.chromactl("backup").code == 78
    assert str(heavy.key) in heavy.ledger["problem"]
    (heavy.root / "elsewhere").rename(heavy.key)
