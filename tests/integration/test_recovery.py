"""After a stop that was not clean: what recovery does to each segment, and that nothing acknowledged is missing."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from chromad.chroma import sqlite
from chromadb.errors import ChromaError

from tests.integration import records
from tests.integration.account import BIN, alive, until
from tests.integration.daemon import Daemon
from tests.integration.records import Record
from tests.integration.site import Site
from tests.integration.test_backup_stalls import stop_within_persist
from tests.integration.writers import Writers

ANOTHER_BOOT = {"CHROMAD_BOOT_ID": "another"}


def kill(daemon: Daemon) -> None:
    """Ends daemon and engine at once, as a SIGKILL of the whole unit does."""
    engine = daemon.engine_pid
    for pid in (engine, daemon.process.pid):
        os.kill(pid, signal.SIGKILL)
    daemon.process.wait()
    until(lambda: not alive(engine), "the engine's end")


def recovered(daemon: Daemon) -> dict[str, str]:
    """Collection and what recovery did with its segment."""
    return {each["collection"]: each["action"] for each in daemon.status()["recovered"]}


def filled(site: Site, *, checkpoint: bool) -> tuple[Daemon, dict[str, Record]]:
    """A daemon with a collection that has changed since its checkpoint, or that has none."""
    daemon = site.serve()
    held = records.fill(daemon.client(), "some", 250, sync_threshold=100)
    if checkpoint:
        assert site.chromactl("checkpoint").code == 0
        more = {key: records.make(key) for key in (f"later-{number}" for number in range(150))}
        records.upsert(daemon.client().get_collection("some", embedding_function=None), more)
        held |= more
    records.fill(daemon.client(), "bystander", 120, sync_threshold=50)
    return daemon, held


def spoil(segment: Path, name: str) -> None:
    """Writes over the middle of a file, and leaves its times as they were."""
    path = segment / name
    times = path.stat()
    with open(path, "r+b") as file:
        file.seek(times.st_size // 3)
        file.write(b"\xff" * min(2000, times.st_size // 3))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def spoil_vector(segment: Path, key: str) -> None:
    """Another vector for one record than the one that was logged, as the engine may leave it; times tell nothing."""
    path = segment / "data_level0.bin"
    times = path.stat()
    vector = np.array(records.make(key).vector, np.float32)
    content = path.read_bytes()
    assert content.count(vector.tobytes()) == 1
    path.write_bytes(content.replace(vector.tobytes(), (vector / 2).tobytes()))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def spoil_log(site: Site, name: str) -> None:
    """Makes a page with rows of a collection's log unreadable, which the engine does not need any more."""
    [topic] = [sqlite.topic(found.id) for found in sqlite.collections(site.data) if found.name == name]
    path = site.data / sqlite.FILE
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    content = path.read_bytes()
    # The leaf of a table begins with 13: https://sqlite.org/fileformat2.html#b_tree_pages
    leaves = [place for place in range(0, len(content), size) if content[place] == 13]
    place = next(place for place in leaves if content[place : place + size].count(topic.encode()) > 1)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(bytes(8))


def segment_of(site: Site, name: str) -> Path:
    [uuid] = [found.segment for found in sqlite.collections(site.data) if found.name == name]
    return site.data / uuid


def test_kill_within_a_persist(site: Site) -> None:
    daemon = site.serve()
    writers = Writers(daemon, {"torn": 300}, each=2, dimension=64)
    writers.start()
    segment = site.first_segment()
    assert site.chromactl("checkpoint").code == 0
    stop_within_persist(daemon.engine_pid, segment)
    since = writers.acknowledged()
    kill(daemon)
    writers.join()
    daemon = site.serve()
    assert recovered(daemon) == {"torn": "restored"}
    assert "a persist of it was not completed" in daemon.log
    writers.assert_kept(daemon, since)
    daemon.stop()


@pytest.mark.parametrize("checkpoint", [True, False])
def test_power_cut(site: Site, checkpoint: bool) -> None:
    daemon, held = filled(site, checkpoint=checkpoint)
    kill(daemon)
    daemon = site.serve(ANOTHER_BOOT)
    assert recovered(daemon) == {"some": "restored" if checkpoint else "rebuilt", "bystander": "rebuilt"}
    records.assert_equal(daemon.client(), "some", held)
    assert [path for path in site.quarantine.iterdir() if ("-broken-" if checkpoint else "-rebuilt-") in path.name]
    daemon.stop()


def test_power_cut_that_changed_a_page_after_the_checkpoint(site: Site) -> None:
    """The seq id is the checkpoint's, sizes and times are: only what the files hold tells."""
    daemon, held = filled(site, checkpoint=True)
    assert site.chromactl("checkpoint").code == 0
    kill(daemon)
    # The engine opens it, and serves another vector.
    spoil_vector(segment_of(site, "some"), "some-7")
    daemon = site.serve(ANOTHER_BOOT)
    assert recovered(daemon)["some"] == "restored"
    records.assert_equal(daemon.client(), "some", held)


def test_power_cut_after_a_clean_start_changes_nothing(site: Site) -> None:
    daemon, held = filled(site, checkpoint=True)
    daemon.stop()
    kill(site.serve())
    daemon = site.serve(ANOTHER_BOOT)
    assert recovered(daemon) == {}
    records.assert_equal(daemon.client(), "some", held)


@pytest.mark.parametrize("name", ["header.bin", "data_level0.bin", "link_lists.bin", "index_metadata.pickle"])
def test_damaged_file(site: Site, name: str) -> None:
    daemon, held = filled(site, checkpoint=True)
    # Link lists are empty while the graph has one level only.
    if name == "link_lists.bin":
        until(lambda: (segment_of(site, "some") / name).stat().st_size, "upper levels")
    kill(daemon)
    spoil(segment_of(site, "some"), name)
    daemon = site.serve()
    assert recovered(daemon) == {"some": "restored"}
    records.assert_equal(daemon.client(), "some", held)


def test_log_that_cannot_be_read(site: Site) -> None:
    """What is sound in itself is not given up for it."""
    daemon, held = filled(site, checkpoint=False)
    kill(daemon)
    segment = segment_of(site, "some")
    before = site.tree(segment)
    spoil_log(site, "some")
    daemon = site.serve()
    assert recovered(daemon) == {}
    assert "its segment is kept, but could not be compared with the log: " in daemon.log
    assert site.tree(segment) == before
    records.assert_equal(daemon.client(), "some", held)


def test_damaged_checkpoint_is_not_used(site: Site) -> None:
    daemon, held = filled(site, checkpoint=False)
    site.backup()  # its log is needed from here on, so that the checkpoint's log is not purged
    kill(daemon)
    daemon = site.serve()
    assert site.chromactl("checkpoint").code == 0
    more = {f"more-{number}": records.make(f"more-{number}") for number in range(150)}
    records.upsert(daemon.client().get_collection("some", embedding_function=None), more)
    kill(daemon)
    segment = segment_of(site, "some")
    [copy] = (site.checkpoints / segment.name).iterdir()
    spoil(copy, "data_level0.bin")
    spoil(segment, "data_level0.bin")
    result = site.serve()
    assert recovered(result)["some"] in ("rebuilt", "quarantined")
    assert f"{copy}/data_level0.bin is damaged" in result.log
    if recovered(result)["some"] == "rebuilt":
        records.assert_equal(result.client(), "some", held | more)


def without_a_way_back(site: Site) -> dict[str, Record]:
    """A stopped site whose collection `some` is damaged, has no checkpoint, and lost its log."""
    daemon, _ = filled(site, checkpoint=True)
    bystander = records.read(daemon.client().get_collection("bystander", embedding_function=None))
    kill(daemon)
    segment = segment_of(site, "some")
    shutil.rmtree(site.checkpoints / segment.name)
    spoil(segment, "data_level0.bin")
    return bystander


def test_what_cannot_be_brought_back_goes_to_quarantine(site: Site) -> None:
    bystander = without_a_way_back(site)
    daemon = site.serve()
    assert recovered(daemon)["some"] == "quarantined"
    assert "in quarantine" in daemon.notify.statuses()[-1]
    records.assert_equal(daemon.client(), "bystander", bystander)
    result = site.chromactl("status")
    assert result.code == 4
    collection = daemon.client().get_collection("some", embedding_function=None)
    with pytest.raises(ChromaError, match="is in quarantine"):
        records.upsert(collection, {"new": records.make("new")})
    with pytest.raises(ChromaError, match="is in quarantine"):
        collection.delete(ids=["some-0"])
    [path] = site.quarantine.glob("*-broken-*")
    assert (path / "index_metadata.pickle").exists()
    daemon.stop()
    daemon = site.serve()
    assert len(daemon.status()["quarantined"]) == 1
    daemon.client().delete_collection("some")
    until(lambda: daemon.status()["quarantined"] == [], "the fence to go with its collection")
    assert site.chromactl("status").code == 0


def test_segment_that_the_engine_cannot_open_is_mended_while_warming(site: Site) -> None:
    daemon, held = filled(site, checkpoint=True)
    daemon.stop()
    # Size and times stay, so that only who reads it finds out.
    spoil(segment_of(site, "some"), "index_metadata.pickle")
    daemon = site.serve()
    assert recovered(daemon)["some"] == "restored"
    assert "the engine answered 500" in daemon.status()["recovered"][0]["reason"]
    records.assert_equal(daemon.client(), "some", held)


def test_recovery_that_is_cut_short_is_done_again(site: Site) -> None:
    daemon, held = filled(site, checkpoint=True)
    kill(daemon)
    for _ in range(6):
        # Each of these starts is another boot: a start that took itself for the last run would trust too much.
        again = site.start(ANOTHER_BOOT)
        again.notify.wait_for("STATUS=recovering")
        time.sleep(0.01)
        again.process.kill()
        again.process.wait()
        state = json.loads((site.data / "chromad.json").read_text())
        assert not state["clean"]
        assert state["boot_id"] != "another", "the boot of the run that did not end well is what counts"
    daemon = site.serve(ANOTHER_BOOT)
    records.assert_equal(daemon.client(), "some", held)


def test_update_of_a_missing_id_then_add(site: Site) -> None:
    """Replayed from files that are ahead of their seq id this would give the updated vector."""
    daemon = site.serve()
    collection = records.create(daemon.client(), "ahead", 50)
    records.upsert(collection, {f"first-{n}": records.make(f"first-{n}") for n in range(50)})
    assert site.chromactl("checkpoint").code == 0
    right, wrong = records.make("odd", 1), records.make("odd", 2)
    collection.update(ids=["odd"], embeddings=records.as_array([wrong]), documents=["x"], metadatas=[{"version": 2}])
    collection.add(
        ids=["odd"],
        embeddings=records.as_array([right]),
        documents=[right.document],
        metadatas=[{"version": 1}],
    )
    records.upsert(collection, {f"next-{n}": records.make(f"next-{n}") for n in range(48)})
    kill(daemon)
    # As if the kill had come between the pickle and the seq id.
    connection = sqlite3.connect(site.data / sqlite.FILE)
    connection.execute("UPDATE max_seq_id SET seq_id = 50 WHERE segment_id = ?", (segment_of(site, "ahead").name,))
    connection.commit()
    connection.close()
    daemon = site.serve()
    held = records.read(daemon.client().get_collection("ahead", embedding_function=None))
    assert held["odd"] == right


def test_first_start_on_a_used_directory_takes_checkpoints(site: Site) -> None:
    daemon, held = filled(site, checkpoint=False)
    daemon.stop()
    (site.data / "chromad.json").unlink()
    shutil.rmtree(site.checkpoints)
    site.checkpoints.mkdir()
    os.chown(site.checkpoints, site.account.uid, site.account.gid)
    daemon = site.start()
    daemon.notify.wait_for("STATUS=taking the first checkpoints of 2 collections")
    daemon.ready()
    assert len(list(site.checkpoints.glob("*/*/checkpoint.json"))) == 2
    records.assert_equal(daemon.client(), "some", held)


def test_monster(site: Site) -> None:
    """A sparse file that claims terabytes, as the engine writes after it has read a damaged one."""
    daemon, held = filled(site, checkpoint=True)
    os.truncate(segment_of(site, "some") / "link_lists.bin", 1 << 40)
    assert daemon.ended() == 1
    assert "so that it cannot be read again; ending it" in daemon.log
    daemon = site.serve()
    assert recovered(daemon)["some"] == "restored"
    records.assert_equal(daemon.client(), "some", held)


def test_checkpoints_removed_by_hand_are_taken_again(site: Site) -> None:
    daemon, held = filled(site, checkpoint=True)
    daemon.stop()
    daemon = site.serve()
    for path in site.checkpoints.glob("*-*-*"):
        shutil.rmtree(path)
    assert site.chromactl("checkpoint", "--json").json()["taken"] == 2
    kill(daemon)
    # Not seen by its times: the engine dies of it.
    spoil(segment_of(site, "some"), "data_level0.bin")
    daemon = site.serve()
    assert recovered(daemon) == {"some": "restored"}
    records.assert_equal(daemon.client(), "some", held)


def test_repair(site: Site) -> None:
    without_a_way_back(site)
    daemon = site.serve()
    assert recovered(daemon)["some"] == "quarantined"
    assert site.chromactl("repair").code == 75, "the service is running"
    daemon.stop()
    result = site.chromactl("repair", "--json")
    [repaired] = result.json()
    assert repaired["salvaged"] > 150
    assert repaired["from_log"] + repaired["salvaged"] + len(repaired["lost"]) == repaired["records"] == 400
    assert result.code == (1 if repaired["lost"] else 0)
    daemon = site.serve()
    assert daemon.status()["quarantined"] == []
    collection = daemon.client().get_collection("some", embedding_function=None)
    kept = sorted({f"some-{n}" for n in range(250)} - set(repaired["lost"]))
    found = collection.get(ids=kept, include=["embeddings"])
    assert found["embeddings"] is not None
    vectors = {
        key: tuple(np.asarray(vector, np.float32).tolist())
        for key, vector in zip(found["ids"], found["embeddings"], strict=True)
    }
    assert vectors == {key: records.make(key).vector for key in kept}
    assert [path for path in site.quarantine.glob("*-broken-*") if path.is_dir()]
    assert site.chromactl("repair").code == 75


def test_repair_one_segment_at_a_time(site: Site) -> None:
    """What cannot be repaired keeps nothing else from it, and what has a checkpoint gets it back."""
    daemon, held = filled(site, checkpoint=True)
    for name in ("first", "second"):
        records.fill(daemon.client(), name, 250, sync_threshold=100)
    assert site.chromactl("checkpoint").code == 0
    kill(daemon)
    paths = {name: segment_of(site, name) for name in ("first", "second", "some")}
    for name in ("first", "second"):
        shutil.rmtree(site.checkpoints / paths[name].name)
        spoil(paths[name], "data_level0.bin")
    site.serve().stop()
    assert len(list(site.quarantine.glob("*-broken-*"))) == 2
    [missing] = site.quarantine.glob(f"{paths['first'].name}-broken-*")
    missing.rename(site.root / missing.name)
    spoil(paths["some"], "data_level0.bin")
    result = site.chromactl("repair", "--json")
    assert result.code == 1
    found = {each["collection"]: each for each in result.json()}
    assert found.keys() == {"first", "second", "some"}
    assert "move it back there" in found["first"]["problem"]
    assert found["some"]["from_checkpoint"]
    assert found["second"]["salvaged"]
    again = site.chromactl("repair", "--json")
    assert [(each["collection"], each["lost"]) for each in again.json()] == [("first", [])]
    assert again.code == 1, "nothing is lost, and all the same it is not in order"
    daemon = site.serve()
    assert len(daemon.status()["quarantined"]) == 1
    records.assert_equal(daemon.client(), "some", held)
    daemon.stop()
    (site.root / missing.name).rename(missing)
    assert site.chromactl("repair", "--json").json()[0]["salvaged"]
    assert site.serve().status()["quarantined"] == []


def test_segment_that_is_gone_with_its_log(site: Site) -> None:
    """Nothing has its vectors any more: they are listed, and the rest is served."""
    daemon, held = filled(site, checkpoint=True)
    daemon.stop()
    for path in (segment_of(site, "some"), site.checkpoints / segment_of(site, "some").name):
        shutil.rmtree(path)
    daemon = site.serve()
    assert recovered(daemon) == {"some": "quarantined"}
    daemon.stop()
    # Killed where their list is to be written: they are still to be listed then.
    killed = (
        "import os\nfrom chromad.store import quarantine\nquarantine.list_lost = lambda *_: os.kill(os.getpid(), 9)\n"
    )
    main = "from chromad import chromactl\nchromactl.main()"
    command: list[str | Path] = [BIN / "python", "-c", killed + main, "--config", site.config, "repair"]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode in (-signal.SIGKILL, 1)
    assert list(site.quarantine.glob("*.lost")) == []
    # And where it cannot be done after that: the list would be of what is not lost yet.
    full = (
        "import resource\nfrom chromad.store import quarantine\nlist_lost = quarantine.list_lost\n"
        "def listed(*arguments):\n"
        "    path = list_lost(*arguments)\n"
        "    assert path.read_text()\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "    return path\n"
        "quarantine.list_lost = listed\n"
    )
    command = [BIN / "python", "-c", full + main, "--config", site.config, "repair", "--json"]
    failed = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert failed.returncode == 1, failed
    assert list(site.quarantine.glob("*.lost")) == [], failed
    result = site.chromactl("repair", "--json")
    [repaired] = result.json()
    assert result.code == 1
    assert repaired["lost"]
    assert Path(repaired["lost_file"]).read_text().split() == sorted(repaired["lost"])
    assert repaired["salvaged"] == 0
    daemon = site.serve()
    assert daemon.status()["quarantined"] == []
    collection = daemon.client().get_collection("some", embedding_function=None)
    assert collection.count() == len(held)
    kept = sorted(held.keys() - set(repaired["lost"]))
    assert len(kept) == repaired["from_log"]
    found = collection.get(ids=kept, include=["embeddings"])["ids"]
    assert sorted(found) == kept


@pytest.mark.parametrize("neighbors", [1])
def test_legal_collection_that_is_never_sound(site: Site, neighbors: int) -> None:
    """The log covers it: each stop is clean, each start makes it anew, and quarantine does not grow."""
    daemon = site.serve()
    collection = daemon.client().create_collection(
        "thin",
        embedding_function=None,
        configuration={"hnsw": {"max_neighbors": neighbors, "sync_threshold": 100, "batch_size": 50}},
    )
    held = {f"thin-{number}": records.make(f"thin-{number}") for number in range(1100)}
    records.upsert(collection, held)
    sizes = []
    for _ in range(3):
        daemon.stop()
        daemon = site.serve()
        sizes.append(len(list(site.quarantine.iterdir())))
        assert daemon.client().get_collection("thin", embedding_function=None).count() == len(held)
    assert sizes[-1] == sizes[0]


def test_nothing_to_repair(site: Site) -> None:
    daemon, _ = filled(site, checkpoint=True)
    daemon.stop()
    assert site.chromactl("repair").output.strip() == "nothing to repair"


def test_segment_that_the_engine_writes_incompletely(site: Site) -> None:
    """As after a disk that was full in a persist: the engine goes on, its files do not."""
    daemon, held = filled(site, checkpoint=True)
    level0 = segment_of(site, "some") / "data_level0.bin"
    os.truncate(level0, level0.stat().st_size // 2)
    os.utime(segment_of(site, "some") / "index_metadata.pickle")
    site.chromactl("checkpoint")
    assert daemon.ended() == 1
    daemon = site.serve()
    assert recovered(daemon)["some"] == "restored"
    records.assert_equal(daemon.client(), "some", held)


def test_start_after_a_stop_with_an_incomplete_segment(site: Site) -> None:
    """The checkpoint covers it: the stop is clean, but it does not call the segment whole."""
    daemon, held = filled(site, checkpoint=True)
    level0 = segment_of(site, "some") / "data_level0.bin"
    os.truncate(level0, level0.stat().st_size // 2)
    os.utime(segment_of(site, "some") / "index_metadata.pickle")
    daemon.stop()
    assert "collection some: its segment is not whole" in daemon.log
    daemon = site.serve()
    assert recovered(daemon)["some"] == "restored"
    records.assert_equal(daemon.client(), "some", held)
