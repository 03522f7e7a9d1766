"""The write fence, and the disk guard that puts one."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromad.chroma import sqlite
from chromadb.errors import ChromaError

from tests.integration import mounts, records
from tests.integration.account import until
from tests.integration.site import Site

REASON = "moving to another host, it's done by 14:00"


def test_clients_read_the_reason(site: Site) -> None:
    daemon = site.serve()
    held = records.fill(daemon.client(), "some", 30)
    assert REASON in site.chromactl("fence", "--reason", REASON).output
    collection = daemon.client().get_collection("some", embedding_function=None)
    with pytest.raises(ChromaError, match="writes are fenced: moving to another host, it's done by 14:00"):
        records.upsert(collection, {"new": records.make("new")})
    collection.delete(ids=["some-0"])
    assert collection.count() == 29
    assert REASON in site.chromactl("status").output
    assert site.chromactl("unfence").code == 0
    records.upsert(collection, {"some-0": held["some-0"]})
    records.assert_equal(daemon.client(), "some", held)


def test_survives_a_restart_and_a_reset_but_not_a_backup(site: Site) -> None:
    site.configure({"engine.allow_reset": True})
    daemon = site.serve()
    records.fill(daemon.client(), "some", 30)
    site.chromactl("fence", "--reason", REASON)
    site.backup()
    daemon.stop()
    daemon = site.serve()
    assert list(daemon.status()["fences"]) == ["operator"]
    daemon.client().reset()
    daemon.wait_for_log("the operator fence was dropped by a reset, and is back")
    collection = records.create(daemon.client(), "new")
    with pytest.raises(ChromaError, match="writes are fenced"):
        records.upsert(collection, {"new": records.make("new")})
    daemon.stop()
    assert site.chromactl("restore", "latest").code == 0
    daemon = site.serve()
    assert daemon.status()["fences"] == {}
    records.upsert(daemon.client().get_collection("some", embedding_function=None), {"new": records.make("new")})


@pytest.mark.parametrize("reason", ["", "two\nlines", "x" * 501])
def test_wrong_reason(site: Site, reason: str) -> None:
    site.serve()
    result = site.chromactl("fence", "--reason", reason)
    assert result.code == (78 if reason else 2)
    assert "HINT" in result.output


@pytest.mark.parametrize("verb", ["checkpoint", "compact", "unfence"])
def test_service_is_not_running(site: Site, verb: str) -> None:
    result = site.chromactl(verb)
    assert result.code == 75
    assert "the service is not running" in result.output


@pytest.fixture
def small(site: Site) -> Iterator[Site]:
    """A site whose data lie on a file system of 256 MiB."""
    with mounts.small(site.root, 256 << 20):
        for directory in (site.data, site.checkpoints, site.quarantine, site.backups, site.run):
            directory.mkdir(mode=0o750)
            site.give(directory)
        site.configure({})
        yield site
        site.end()


def fill_disk(site: Site, percent: int) -> Path:
    """Fills the file system up to about this."""
    path = site.root / "bystander"
    size = (256 << 20) * percent // 100
    subprocess.run(["fallocate", "--length", str(size), str(path)], check=True)
    return path


@pytest.mark.root
def test_full_disk(small: Site) -> None:
    told = small.root / "told"
    small.configure({"disk.command": ["/bin/sh", "-c", f'echo "$0" >>{small.run}/told']})
    daemon = small.serve()
    held = records.fill(daemon.client(), "some", 30)
    collection = daemon.client().get_collection("some", embedding_function=None)
    bystander = fill_disk(small, 82)
    daemon.wait_for_log(f"WARNING disk: {small.data}: 8")
    assert daemon.status()["disk"]["level"] == "warn"
    bystander.unlink()
    daemon.wait_for_log("disk: below 80 % again")
    bystander = fill_disk(small, 93)
    daemon.wait_for_log("disk: writes are fenced")
    with pytest.raises(ChromaError, match=f"writes are fenced: {small.data}: 9. % of its space used"):
        records.upsert(collection, {"new": records.make("new")})
    collection.delete(ids=["some-0"])
    assert collection.count() == 29
    bystander.unlink()
    daemon.wait_for_log("disk: writes are let through again")
    records.upsert(collection, {"some-0": held["some-0"]})
    records.assert_equal(daemon.client(), "some", held)
    assert (small.run / "told").read_text().split() == ["warn", "ok", "fence", "ok"]
    assert not told.exists()
    assert sqlite.collections(small.data)


@pytest.mark.root
def test_wal_has_room_on_a_full_disk(small: Site) -> None:
    daemon = small.serve()
    collection = records.fill(daemon.client(), "some", 30)
    wal = small.data / "chroma.sqlite3-wal"
    until(lambda: wal.stat().st_blocks * 512 >= 8 << 20, "the reserve of the WAL")
    assert wal.stat().st_size < 8 << 20
    assert collection


@pytest.mark.root
def test_start_on_a_full_disk(small: Site) -> None:
    daemon = small.serve()
    held = records.fill(daemon.client(), "some", 30)
    until((small.data / ".chromad-ballast").exists, "the ballast")
    daemon.stop()
    bystander = fill_disk(small, 90)
    with contextlib.suppress(OSError), open(small.root / "more", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    daemon = small.serve()
    assert not (small.data / ".chromad-ballast").exists()
    assert "disk" in daemon.status()["fences"]
    records.assert_equal(daemon.client(), "some", held)
    bystander.unlink()
    (small.root / "more").unlink()
    daemon.wait_for_log("disk: writes are let through again")
    until((small.data / ".chromad-ballast").exists, "the ballast to be back")
    daemon.stop()
