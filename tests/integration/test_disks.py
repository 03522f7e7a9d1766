"""The disk guard, and what happens when the file system of the backups is full, fails, or hangs."""

import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.daemon.guard import Guard
from chromad.store import fence

from tests.integration import mounts, records
from tests.integration.account import until
from tests.integration.site import Site

pytestmark = pytest.mark.root

_SIZE = 64 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A data directory on a file system of 64 MiB, with a table to fence."""
    data = tmp_path / "data"
    data.mkdir()
    with mounts.small(data, _SIZE):
        with closing(sqlite3.connect(data / sqlite.FILE)) as database, database:
            database.execute("CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY, operation, topic)")
        yield data


def fill(directory: Path, percent: int) -> None:
    """Fills the file system up to about this, with what is there."""
    path = directory / "bystander"
    path.unlink(missing_ok=True)
    used = int(subprocess.check_output(["df", "--output=used", "-B1", directory], text=True).split()[1])
    subprocess.run(["fallocate", "--length", str(_SIZE * percent // 100 - used), path], check=True)


def make(data: Path, backups: Path) -> Guard:
    document = {
        "data_dir": str(data),
        "backup": {"repository": str(backups), "password_file": "/k"},
        "disk": {"warn_percent": 80, "fence_percent": 95, "release_percent": 90},
    }
    return Guard(Config.model_validate(document))


def test_fence_stays_until_it_is_released(small: Path, tmp_path: Path) -> None:
    guard = make(small, tmp_path / "none")
    fill(small, 93)
    assert guard.look(0) == "warn", "not yet"
    fill(small, 97)
    assert guard.look(0) == "fence"
    fill(small, 92)
    assert guard.look(0) == "fence", "between release_percent and fence_percent"
    assert fence.DISK in fence.read(small)
    fill(small, 85)
    assert guard.look(0) == "warn"
    assert fence.read(small) == {}


def test_full_disk_of_backups_warns(small: Path, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    guard = make(small, backups)
    with mounts.small(backups, _SIZE):
        fill(backups, 99)
        assert guard.look(0) == "warn"
        assert str(backups) in guard.text
        assert fence.read(small) == {}
        assert guard.places()["backups"]["used_ratio"] > 0.98


def test_guard_beside_a_file_system_that_hangs_and_fails(small: Path, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    guard = make(small, backups)
    with mounts.hanging(backups) as fail:
        started = time.monotonic()
        fill(small, 97)
        assert guard.look(0) == "fence", "the data disk is guarded"
        fill(small, 50)
        assert guard.look(0) == "ok"
        assert guard.places().keys() == {"data"}
        assert time.monotonic() - started < 5
        assert guard.unreachable == {}, "it may be but slow"
        guard._backups._silent = 0.0  # type: ignore[union-attr]
        guard.look(0)
        assert "it has not answered for" in guard.unreachable["backups"]
        fail()
        until(lambda: guard.look(0) == "ok" and "not connected" in guard.unreachable["backups"], "another error")
        fill(small, 97)
        assert guard.look(0) == "fence", "the data disk is guarded"
    until(lambda: guard.look(0) == "fence" and guard.unreachable == {}, "the directory below answers")


def test_service_beside_backups_that_hang(site: Site) -> None:
    with mounts.hanging(site.backups) as fail:
        daemon = site.serve()
        held = records.fill(daemon.client(), "some", 30)
        until(lambda: daemon.status()["disk"]["unreachable"], "that it does not answer", 30)
        [reason] = daemon.status()["disk"]["unreachable"].values()
        assert f"{site.backups}: it has not answered for" in reason
        assert "it has not answered for" in site.chromactl("status").output
        assert 'chromad_disk_unreachable{place="backups"} 1.0' in page(site, "metrics")
        assert "it has not answered for" in page(site, "api/status")
        found = {each["name"]: each for each in site.chromactl("doctor", "--json").json()}
        assert found["backup_disk"]["status"] == "fail"
        assert "it has not answered for" in found["backup_disk"]["fact"]
        assert not any(daemon.status()["threads"].values())
        assert site.chromactl("checkpoint").code == 0
        fail()
        until(lambda: "not connected" in str(daemon.status()["disk"]["unreachable"]), "another error", 30)
        records.assert_equal(daemon.client(), "some", held)
    until(lambda: not daemon.status()["disk"]["unreachable"], "it is reachable again", 30)
    assert 'chromad_disk_unreachable{place="backups"} 0.0' in page(site, "metrics")
    daemon.stop()


def page(site: Site, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{site.metrics_port}/{path}", timeout=20) as answer:
        return str(answer.read().decode())
