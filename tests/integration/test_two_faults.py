"""Two faults at once: files of another time or place beside newer ones, and what a stop or a start then makes of them."""

import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from chromad.chroma import sqlite
from chromadb.errors import ChromaError

from tests.integration import mounts, records
from tests.integration.account import until
from tests.integration.daemon import Daemon
from tests.integration.records import Record
from tests.integration.site import Site
from tests.integration.test_recovery import ANOTHER_BOOT, filled, kill, recovered, segment_of, spoil

_WAL = f"{sqlite.FILE}-wal"


def versions(name: str, version: int, count: int = 100) -> dict[str, Record]:
    """Records of a collection in one of their versions."""
    return {key: records.make(key, version) for key in (f"{name}-{number}" for number in range(count))}


def write(daemon: Daemon, name: str, written: Mapping[str, Record]) -> None:
    records.upsert(daemon.client().get_collection(name, embedding_function=None), written)


def checkpointed(site: Site) -> dict[str, int]:
    """What a cycle of checkpoints did."""
    result = site.chromactl("checkpoint", "--json")
    assert result.code == 0, result.output
    found: dict[str, int] = result.json()
    return found


def put_in_place_of(site: Site, former: Path, path: Path) -> None:
    """Puts a copy of a directory in the place of another one."""
    shutil.rmtree(path)
    shutil.copytree(former, path)
    site.give_all(path)


def quarantined(site: Site) -> int:
    """How many segments lie in quarantine."""
    return len([path for path in site.quarantine.iterdir() if path.is_dir()])


def ends(daemon: Daemon) -> bool:
    """Whether the daemon ends for what its last cycle of checkpoints found."""
    goal = daemon.notify.lines.count("WATCHDOG=1") + 2
    until(lambda: daemon.process.poll() is not None or daemon.notify.lines.count("WATCHDOG=1") >= goal, "a decision")
    return daemon.process.poll() is not None


def test_older_segment_put_back_gives_no_older_vectors(site: Site) -> None:
    """Each file is sound, and the log that would tell is purged."""
    daemon = site.serve()
    records.create(daemon.client(), "some", 50)
    write(daemon, "some", versions("some", 0))
    checkpointed(site)
    segment = segment_of(site, "some")
    held: dict[str, Record] = {}
    for number, (what, clean) in enumerate(product(("directory", "vectors"), (True, False))):
        former = site.root / f"former-{number}"
        shutil.copytree(segment, former)
        held = versions("some", number + 1)
        write(daemon, "some", held)
        assert checkpointed(site)["purged"]
        if clean:
            daemon.stop()
        else:
            kill(daemon)
        if what == "directory":
            put_in_place_of(site, former, segment)
        else:
            shutil.copy2(former / "data_level0.bin", segment / "data_level0.bin")
        daemon = site.serve()
        assert recovered(daemon) == {"some": "restored"}, (what, clean)
        records.assert_equal(daemon.client(), "some", held)
    checkpointed(site)
    daemon.stop()
    daemon = site.serve()
    assert recovered(daemon) == {}
    records.assert_equal(daemon.client(), "some", held)


def test_two_segments_that_changed_places_are_told_apart(site: Site) -> None:
    """Both have the same ids, so that only their vectors differ."""
    daemon = site.serve()
    held = {}
    for version, name in enumerate(("first", "second")):
        records.create(daemon.client(), name, 50)
        held[name] = versions("shared", version)
        write(daemon, name, held[name])
    checkpointed(site)
    daemon.stop()
    first, second, between = segment_of(site, "first"), segment_of(site, "second"), site.root / "between"
    first.rename(between)
    second.rename(first)
    between.rename(second)
    daemon = site.serve()
    assert recovered(daemon) == {"first": "restored", "second": "restored"}
    for name, expected in held.items():
        records.assert_equal(daemon.client(), name, expected)


def older_checkpoints(site: Site) -> tuple[Daemon, dict[str, Record]]:
    """A daemon whose checkpoints, once it has ended, are replaced by a copy in `former`, which the log does not reach."""
    daemon = site.serve()
    records.create(daemon.client(), "some", 50)
    write(daemon, "some", versions("some", 0))
    checkpointed(site)
    shutil.copytree(site.checkpoints, site.root / "former")
    held = versions("some", 1)
    write(daemon, "some", held)
    assert checkpointed(site)["purged"]
    return daemon, held


def test_older_checkpoints_put_back_after_a_purge_do_not_replace_a_sound_segment(site: Site) -> None:
    daemon, held = older_checkpoints(site)
    later = versions("some", 2, 50)
    write(daemon, "some", later)
    kill(daemon)
    put_in_place_of(site, site.root / "former", site.checkpoints)
    daemon = site.serve(ANOTHER_BOOT)
    assert recovered(daemon) == {"some": "kept"}
    assert "is too old" in daemon.log
    records.assert_equal(daemon.client(), "some", held | later)
    assert checkpointed(site)["taken"] == 1


def test_older_checkpoints_put_back_after_a_purge_are_not_served_for_a_damaged_segment(site: Site) -> None:
    """Nothing has the vectors: better no answer than those of last week."""
    daemon, _ = older_checkpoints(site)
    kill(daemon)
    put_in_place_of(site, site.root / "former", site.checkpoints)
    spoil(segment_of(site, "some"), "data_level0.bin")
    daemon = site.serve()
    assert recovered(daemon) == {"some": "quarantined"}
    with pytest.raises(ChromaError, match="is in quarantine"):
        write(daemon, "some", versions("some", 3))


def test_stale_wal_beside_a_database_that_was_stopped_cleanly_is_set_aside(site: Site) -> None:
    daemon = site.serve()
    held = records.fill(daemon.client(), "some", 150, sync_threshold=50)
    stale = (site.data / _WAL).read_bytes()
    assert stale
    daemon.stop()
    daemon = site.serve()
    more = versions("more", 0, 300)
    write(daemon, "some", more)
    daemon.stop()
    (site.data / _WAL).write_bytes(stale)
    site.give(site.data / _WAL)
    daemon = site.serve()
    assert recovered(daemon) == {}
    records.assert_equal(daemon.client(), "some", held | more)
    [aside] = site.data.glob(f"{_WAL}.aside-*")
    assert aside.read_bytes() == stale
    daemon.stop()
    with sqlite.connect(site.data) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


_ANOTHER_PROGRAM = """
import os, signal, sys
import chromadb
client = chromadb.PersistentClient(sys.argv[1])
{act}
os.kill(os.getpid(), signal.SIGKILL)
"""
_ADD = """
client.get_collection("some", embedding_function=None).add(ids=["foreign"], embeddings=[[0.5] * 8], documents=["foreign"])
"""
_DELETE = """
client.delete_collection("newest")
"""


def test_wal_that_another_program_wrote_after_a_clean_stop_is_kept(site: Site) -> None:
    """Of a Chroma that was killed: the database file is as the stop left it, and all is in the WAL."""
    daemon = site.serve()
    records.fill(daemon.client(), "some", 150, sync_threshold=50)
    records.fill(daemon.client(), "newest", 20)
    for act in (_DELETE, _ADD):
        daemon.stop()
        before = (site.data / sqlite.FILE).read_bytes()
        other = site.spawn([sys.executable, "-c", _ANOTHER_PROGRAM.format(act=act), site.data])
        output, _ = other.communicate(timeout=60)
        assert other.returncode == -signal.SIGKILL, output
        assert (site.data / sqlite.FILE).read_bytes() == before
        assert (site.data / _WAL).stat().st_size
        daemon = site.serve()
        assert not list(site.data.glob(f"{_WAL}.aside-*")), act
    client = daemon.client()
    assert [each.name for each in client.list_collections()] == ["some"]
    collection = client.get_collection("some", embedding_function=None)
    found = collection.get(ids=["foreign"], include=["embeddings"])
    assert np.asarray(found["embeddings"]).tolist() == [[0.5] * 8]
    assert collection.count() == 151


def test_checkpoint_of_a_later_state_than_the_database_loses_nothing(site: Site) -> None:
    """An older database was put back: what is written to it from then on has no copy but the log."""
    daemon = site.serve()
    records.create(daemon.client(), "some", 50)
    write(daemon, "some", versions("some", 0, 150))
    checkpointed(site)
    daemon.stop()
    former = (site.data / sqlite.FILE).read_bytes()
    daemon = site.serve()
    write(daemon, "some", versions("later", 0, 200))
    checkpointed(site)
    daemon.stop()
    (site.data / sqlite.FILE).write_bytes(former)
    daemon = site.serve()
    fresh = versions("fresh", 0, 40)
    write(daemon, "some", fresh)
    checkpointed(site)
    kill(daemon)
    daemon = site.serve()
    collection = daemon.client().get_collection("some", embedding_function=None)
    found = collection.get(ids=list(fresh), include=["embeddings"])
    vectors = np.asarray(found["embeddings"], np.float32).tolist()
    assert {key: tuple(vector) for key, vector in zip(found["ids"], vectors, strict=True)} == {
        key: record.vector for key, record in fresh.items()
    }


def test_data_that_lost_their_state_find_their_checkpoints(site: Site) -> None:
    daemon, held = filled(site, checkpoint=True)
    checkpointed(site)
    kill(daemon)
    before = json.loads((site.data / "chromad.json").read_text())
    (site.data / "chromad.json").unlink()
    spoil(segment_of(site, "some"), "data_level0.bin")
    daemon = site.serve()
    assert recovered(daemon) == {"some": "restored"}
    records.assert_equal(daemon.client(), "some", held)
    assert json.loads((site.data / "chromad.json").read_text())["data_id"] == before["data_id"]
    assert checkpointed(site)["left"] == 0


def test_stop_whose_checkpoints_cannot_be_written_does_not_call_a_segment_whole(site: Site) -> None:
    with mounts.small(site.checkpoints, 2 << 20):
        site.give(site.checkpoints)
        daemon, held = filled(site, checkpoint=True)
        segment = segment_of(site, "some")
        spoil(segment, "data_level0.bin")
        for name in ("data_level0.bin", "index_metadata.pickle"):
            os.utime(segment / name)
        filler = site.checkpoints / "filler"
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4096))
        daemon.stop()
        filler.unlink()
        mark = json.loads((site.data / "chromad.json").read_text())["mark"]
        assert segment.name not in mark["segments"]
        daemon = site.serve()
        assert recovered(daemon) == {"some": "restored"}
        records.assert_equal(daemon.client(), "some", held)
        site.end()


def test_id_of_5_mib_is_checkpointed_and_read_again(site: Site) -> None:
    """The engine bounds ids by the size of a request alone."""
    daemon = site.serve()
    records.create(daemon.client(), "some", 10)
    held = versions("some", 0, 20)
    write(daemon, "some", held)
    checkpointed(site)
    long = "x" * (5 << 20)
    held |= versions("more", 0, 20)
    held[long] = Record(records.make("long").vector, "long", 0)
    for part in ({long: held[long]}, versions("more", 0, 20)):
        write(daemon, "some", part)
    assert checkpointed(site)["taken"] == 1
    kill(daemon)
    daemon = site.serve(ANOTHER_BOOT)
    assert recovered(daemon) == {}
    write(daemon, "some", versions("last", 0, 20))
    assert checkpointed(site)["taken"] == 1
    records.assert_equal(daemon.client(), "some", held | versions("last", 0, 20))


def test_collection_of_one_neighbor_emptied_and_filled_again_ends_in_one_restart_at_most(site: Site) -> None:
    """The engine writes a layout that cannot be read again, each time: no reason to end it each time."""
    daemon = site.serve()
    collection = daemon.client().create_collection(
        "thin",
        embedding_function=None,
        configuration={"hnsw": {"max_neighbors": 1, "sync_threshold": 10, "batch_size": 10}},
    )
    first = versions("first", 0, 20)
    records.upsert(collection, first)
    collection.delete(ids=list(first))
    checkpointed(site)
    held: dict[str, Record] = {}
    restarts = 0
    for number in range(4):
        written = versions(f"round {number}", 0, 30)
        write(daemon, "thin", written)
        held |= written
        site.chromactl("checkpoint")
        if ends(daemon):
            assert "so that it cannot be read again" in daemon.log
            restarts += 1
            daemon = site.serve()
    assert restarts <= 1
    before = quarantined(site)
    daemon.stop()
    daemon = site.serve()
    assert daemon.client().get_collection("thin", embedding_function=None).count() == len(held)
    assert quarantined(site) <= before + 1


def test_damaged_checkpoint_does_not_condemn_the_live_segment(site: Site) -> None:
    daemon = site.serve()
    names = ("gone", "spoilt")
    held = {}
    for name in names:
        records.create(daemon.client(), name, 10)
        held[name] = versions(name, 0, 50)
        write(daemon, name, held[name])
    checkpointed(site)
    for name in names:
        [former] = (site.checkpoints / segment_of(site, name).name).iterdir()
        if name == "gone":
            (former / "index_metadata.pickle").unlink()
        else:
            spoil(former, "index_metadata.pickle")
        # Without this the comparison needs no segment before.
        collection = daemon.client().get_collection(name, embedding_function=None)
        collection.update(ids=["missing"], embeddings=records.as_array([records.make("missing")]))
        more = versions(f"more {name}", 0, 30)
        write(daemon, name, more)
        held[name] |= more
    assert checkpointed(site)["taken"] == 2
    kill(daemon)
    daemon = site.serve(ANOTHER_BOOT)
    assert recovered(daemon) == {}
    for name in names:
        records.assert_equal(daemon.client(), name, held[name])


def test_reset_after_the_database_was_compacted(site: Site) -> None:
    """VACUUM enters the tables of the full-text index before it, and the engine drops tables in that order."""
    site.configure({"engine.allow_reset": True})
    daemon = site.serve()
    records.fill(daemon.client(), "some", 30, sync_threshold=10)
    assert site.chromactl("compact").code == 0
    for _ in range(2):
        daemon.client().reset()
        assert daemon.client().list_collections() == []
    held = records.fill(daemon.client(), "new", 30, sync_threshold=10)
    daemon.stop()
    with closing(sqlite3.connect(site.data / sqlite.FILE)) as connection:
        connection.execute("VACUUM")
    site.give_all(site.data)
    daemon = site.serve()
    records.assert_equal(daemon.client(), "new", held)
    daemon.client().reset()
    held = records.fill(daemon.client(), "last", 30, sync_threshold=10)
    records.assert_equal(daemon.client(), "last", held)
    found = daemon.client().get_collection("last", embedding_function=None)
    assert found.get(where_document={"$contains": "of last-7"})["ids"] == ["last-7"]


def test_start_after_a_reset_that_failed_halfway(site: Site) -> None:
    """What it leaves of a database that was vacuumed: the entry of the full-text index, without its tables."""
    site.serve().stop()
    with closing(sqlite3.connect(site.data / sqlite.FILE, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name <> 'embedding_fulltext_search'")
    site.give_all(site.data)
    daemon = site.serve()
    held = records.fill(daemon.client(), "new", 30)
    records.assert_equal(daemon.client(), "new", held)


def test_restored_target_moved_into_place_starts(site: Site) -> None:
    """On the host itself, and on another one, where the first deployment started the service with nothing in it."""
    daemon = site.serve()
    held = records.fill(daemon.client(), "kept", 150, sync_threshold=50)
    site.backup()
    daemon.stop()
    other = Site()
    try:
        other.serve().stop()
        put_in_place_of(other, site.backups, other.backups)
        for place in (site, other):
            target = place.root / "target"
            result = place.chromactl("restore", "latest", "--target", str(target))
            assert result.code == 0, result.output
            place.data.rename(place.root / "former")
            target.rename(place.data)
            place.give_all(place.data)
            daemon = place.serve()
            assert recovered(daemon) == {}
            records.assert_equal(daemon.client(), "kept", held)
    finally:
        other.remove()
