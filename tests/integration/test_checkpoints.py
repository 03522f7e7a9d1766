"""Checkpoints are taken in time, stand for what they say, and let the log go."""

import os
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
from chromad.chroma import log, sqlite
from chromad.store import history, state

from tests.integration import mounts, records
from tests.integration.account import until
from tests.integration.daemon import Daemon
from tests.integration.site import Site
from tests.integration.writers import Writers


def count(site: Site, statement: str) -> int:
    connection = sqlite3.connect(site.data / sqlite.FILE)
    try:
        [(number,)] = connection.execute(statement).fetchall()
    finally:
        connection.close()
    return int(number)


def log_rows(site: Site) -> int:
    return count(site, "SELECT count(*) FROM embeddings_queue")


def checkpoints(site: Site) -> list[Path]:
    return sorted(path.parent for path in site.checkpoints.glob("*/*/checkpoint.json"))


def with_text(daemon: Daemon, text: str) -> None:
    """Adds a record with this text, and deletes it."""
    collection = daemon.client().get_collection("some", embedding_function=None)
    collection.add(ids=["secret"], embeddings=records.as_array([records.make("secret")]), documents=[text])
    collection.delete(ids=["secret"])


def test_interval(site: Site) -> None:
    site.configure({"checkpoint.interval": "1s"})
    daemon = site.serve()
    records.fill(daemon.client(), "some", 250, sync_threshold=100)
    until(lambda: [path.name for path in checkpoints(site)] in (["200"], ["250"]), "a checkpoint", 20)
    assert not list(site.checkpoints.glob(".*"))
    until(lambda: log_rows(site) <= 60, "the log to be purged", 20)
    assert daemon.status()["checkpoint"]["newest"]


def test_so_much_log(site: Site) -> None:
    site.configure({"checkpoint.after_log": "100K"})
    daemon = site.serve()
    records.fill(daemon.client(), "some", 250, dimension=256, sync_threshold=100)
    until(lambda: checkpoints(site), "a checkpoint", 20)


def test_before_a_stop(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 250, sync_threshold=100)
    daemon.stop()
    assert len(checkpoints(site)) == 1
    inode = checkpoints(site)[0].stat().st_ino
    site.serve().stop()
    assert checkpoints(site)[0].stat().st_ino == inode, "nothing has changed"


def test_older_one_goes(site: Site) -> None:
    daemon = site.serve()
    held = records.fill(daemon.client(), "some", 250, sync_threshold=100)
    assert site.chromactl("checkpoint").code == 0
    [before] = checkpoints(site)
    records.upsert(daemon.client().get_collection("some", embedding_function=None), held)
    assert site.chromactl("checkpoint", "--json").json()["taken"] == 1
    [after] = checkpoints(site)
    assert int(after.name) > int(before.name)


def test_newest_row_of_a_log_stays(site: Site) -> None:
    """SQLite would give its seq id again, and a segment that has seen it would ignore the record."""
    daemon = site.serve()
    records.fill(daemon.client(), "some", 100, sync_threshold=100)
    records.fill(daemon.client(), "other", 50, sync_threshold=50)
    assert site.chromactl("checkpoint").code == 0
    assert log_rows(site) == 2
    daemon.client().delete_collection("other")
    later = {"later": records.make("later")}
    collection = daemon.client().get_collection("some", embedding_function=None)
    records.upsert(collection, later)
    assert records.read(collection)["later"] == later["later"]


def test_log_waits_for_the_next_backup(site: Site) -> None:
    daemon = site.serve()
    held = records.fill(daemon.client(), "some", 200, sync_threshold=100)
    site.backup()
    records.upsert(daemon.client().get_collection("some", embedding_function=None), held)
    assert site.chromactl("checkpoint").code == 0
    assert log_rows(site) == 200, "covered by a checkpoint, but not by a backup"
    site.backup()
    assert site.chromactl("checkpoint").code == 0
    assert log_rows(site) == 1


def test_log_stays_while_backups_fail(site: Site) -> None:
    daemon = site.serve()
    held = records.fill(daemon.client(), "some", 200, sync_threshold=100)
    site.backup()
    records.upsert(daemon.client().get_collection("some", embedding_function=None), held)
    site.backups.rename(site.root / "elsewhere")
    assert site.chromactl("backup").code == 78
    assert site.chromactl("checkpoint", "--json").json()["purged"]
    assert log_rows(site) == 200, "what came after the last good backup"
    assert site.chromactl("checkpoint", "--json").json()["purged"] == 0
    (site.root / "elsewhere").rename(site.backups)
    assert site.backup()["base"] == ""
    assert site.chromactl("checkpoint", "--json").json()["purged"] == 199


def test_backup_of_another_history_covers_nothing(site: Site) -> None:
    daemon = site.serve()
    held = records.fill(daemon.client(), "some", 200, sync_threshold=100)
    site.backup()
    daemon.stop()
    assert site.chromactl("restore", "latest").code == 0
    daemon = site.serve()
    assert len(checkpoints(site)) == 1, "the one of the former data is replaced"
    records.assert_equal(daemon.client(), "some", held)


def test_checkpoints_of_another_history_are_not_used(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 250, sync_threshold=100)
    daemon.stop()
    [before] = checkpoints(site)
    kept = state.read(site.data)
    assert kept
    other = replace(kept, data_id=state.new_data_id())
    history.accept(site.checkpoints, other.data_id)
    state.write(site.data, other)
    site.give(site.data / state.FILE)
    site.serve().stop()
    [after] = checkpoints(site)
    assert after != before


def test_many_under_writers(site: Site) -> None:
    """Each checkpoint is opened by recovery later; here: writers are not refused, and what they wrote is there."""
    daemon = site.serve()
    writers = Writers(daemon, {"often": 20, "seldom": 300}, each=2, dimension=64)
    writers.start()
    taken = 0
    deadline = time.monotonic() + 60
    while taken < 8 and time.monotonic() < deadline:
        taken += site.chromactl("checkpoint", "--json").json()["taken"]
    since = writers.acknowledged()
    writers.stop()
    assert taken >= 8
    daemon.stop()
    writers.assert_kept(site.serve({"CHROMAD_BOOT_ID": "another"}), since)


def test_deleted_text_leaves_the_file(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 99, sync_threshold=100)
    text = "a secret that must not remain 8f3a"
    with_text(daemon, text)
    records.fill(daemon.client(), "large", 300, dimension=512, sync_threshold=100)
    daemon.client().delete_collection("large")
    assert text.encode() in site.database_bytes()
    result = site.chromactl("compact", "--json")
    assert result.code == 0, result.output
    sizes = result.json()
    assert sizes["after"] < sizes["before"]
    assert sizes["after"] == (site.data / sqlite.FILE).stat().st_size
    assert text.encode() not in site.database_bytes()
    assert daemon.client().get_collection("some", embedding_function=None).count() == 99


def test_purge_ends_when_told(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 2000, sync_threshold=100)
    [collection] = sqlite.collections(site.data)
    assert log.purge(site.data, {collection.topic: 1900}, lambda _count: False) == 500
    assert log_rows(site) == 1500
    daemon.stop()


def test_segment_of_a_deleted_collection_is_moved_out(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "gone", 100, sync_threshold=50)
    [collection] = sqlite.collections(site.data)
    assert site.chromactl("checkpoint").code == 0
    daemon.client().delete_collection("gone")
    last_written = time.time() - 2 * 86400
    os.utime(site.data / collection.segment, (last_written, last_written))
    assert site.chromactl("checkpoint").code == 0
    assert not (site.data / collection.segment).exists()
    assert not checkpoints(site)
    [moved] = site.quarantine.iterdir()
    assert moved.name.startswith(f"{collection.segment}-orphan-")
    remains = [place / f".{moved.name}" for place in (site.data, site.checkpoints, site.quarantine)]
    for path in remains:
        path.mkdir()
        site.give(path)
    assert site.chromactl("checkpoint").code == 0
    assert moved.exists(), "its day in quarantine has only begun"
    assert not [path for path in remains if path.exists()], "what moves that were killed have left"


@pytest.mark.root
def test_segment_of_a_deleted_collection_that_quarantine_has_no_room_for(site: Site) -> None:
    """It stays where it is, harmlessly: said once, tried again, and nothing is left in quarantine."""
    daemon = site.serve()
    records.fill(daemon.client(), "gone", 100, sync_threshold=50)
    [collection] = sqlite.collections(site.data)
    segment = site.data / collection.segment
    daemon.client().delete_collection("gone")
    with mounts.small(site.quarantine, 8 << 20):
        site.give(site.quarantine)
        for _ in range(3):
            assert site.chromactl("checkpoint").code == 0
        assert segment.exists()
        assert list(site.quarantine.iterdir()) == []
        assert daemon.log.count(f"{segment} cannot be moved to {site.quarantine}") == 1
        assert f"{collection.segment} among them" in site.chromactl("doctor").output
    assert site.chromactl("checkpoint").code == 0
    assert not segment.exists()
    assert len(list(site.quarantine.iterdir())) == 1
    daemon.stop()


def test_checkpoint_dir_that_cannot_be_had(site: Site) -> None:
    site.configure({"checkpoint_dir": str(site.root / "nowhere" / "checkpoints")})
    site.assert_refused(78, f"checkpoint_dir {site.root}/nowhere/checkpoints", "install -d")


def test_checkpoint_dir_that_cannot_be_written(site: Site) -> None:
    site.checkpoints.chmod(0o500)
    site.assert_refused(78, f"checkpoint_dir {site.checkpoints}: Permission denied", "ReadWritePaths=")
