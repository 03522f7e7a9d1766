"""Chroma's phrases, each provoked from the real engine, and what clients may put into its messages and log lines."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from chromad.chroma import additions
from chromad.chroma import sqlite as store
from chromad.config import Listen
from chromad.engine import texts
from chromad.engine.api import Api
from chromad.engine.witness import Witness
from chromad.errors import EngineError, NotFound, RecordLost, SegmentUnreadable, TablesMissing

from tests.integration import mounts, records
from tests.integration.account import AS_ROOT, BIN, alive
from tests.integration.bare import HERE, Bare, engine
from tests.integration.site import Site

LEVELS = ("info", "error")
FULL_LINE = (
    "  2026-01-02T03:04:05.123456Z ERROR  error: Query error: Database error: error returned from database: "
    "(code: 13) database or disk is full"
)
FORGED = f"x\n{FULL_LINE}\n    at rust/log/src/log.rs:173\n\n"
# Neither the fence nor the room that is kept for the log is to get in first.
WITHOUT_GUARD = """
import sys
from chromad.daemon import guard, lifecycle
from chromad.__main__ import main
sys.argv = sys.argv[1:]
lifecycle.GUARD_INTERVAL = 1e6
guard.Guard._reserve_log = lambda self: None
main()
"""
# A client's write fails for the disk at the moment at which a collection is warmed.
ENDED_IN_WARMING = f"""
import sys
from chromad.__main__ import main
from chromad.engine import api, process
query = api.Api.query
def fail(self, *words):
    DAEMON[0]._listen((WRITE_FAILED, True))
    return query(self, *words)
DAEMON = []
started = process.Engine.start
def start(self):
    DAEMON.append(self)
    started(self)
process.Engine.start = start
api.Api.query = fail
WRITE_FAILED = {FULL_LINE.replace("(code: 13)", "(code: 1034)").strip()!r}
sys.argv = sys.argv[1:]
main()
"""
# A file of a segment cannot be read while the disk fails, and the look at the disk tells that later than the engine answers.
FAILS_IN_WARMING = """
import sys, time
from pathlib import Path
from chromad.__main__ import main
from chromad.engine import api, witness
query = api.Api.query
[file] = Path("DATA").glob("*/header.bin")
def fail(self, *words):
    away = file.rename(file.with_name("away"))
    try:
        return query(self, *words)
    finally:
        away.rename(file)
api.Api.query = fail
witness.Witness.trouble = lambda self: time.sleep(0.5) or "the disk failing"
sys.argv = sys.argv[1:]
main()
"""
# A client has the engine die of what it asks for, each time that a collection is warmed.
KILLED_IN_WARMING = """
import sys
from chromad.__main__ import main
from chromad.config import Listen
from chromad.engine import api
from chromad.errors import EngineError
query = api.Api.query
def ask(self, tenant, database, collection, *words):
    try:
        client = api.Api(Listen(port=PORT))
        client.post(tenant, database, f"/{collection}/get", {"where": {"$and": [{"a": 1}] * 20000}})
    except (EngineError, OSError):
        pass
    return query(self, tenant, database, collection, *words)
api.Api.query = ask
sys.argv = sys.argv[1:]
main()
"""
NEW = {"id": "new", "embedding": [1.0] * 8, "document": "document number new", "metadata": {"version": 1}}
SAID_FULL = "the engine found the disk full"


def execute(data: Path, *statements: str) -> None:
    with closing(sqlite3.connect(data / store.FILE)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("made")
    with engine(data) as bare:
        settings = {"hnsw": {"sync_threshold": 10, "batch_size": 5}}
        found = bare.api.request("POST", HERE, {"name": "some", "configuration": settings})
        additions.keep_log(data)
        ids = [f"r{number}" for number in range(30)]
        vectors = [[1.0, float(number)] for number in range(30)]
        bare.api.request("POST", f"{HERE}/{found['id']}/add", {"ids": ids, "embeddings": vectors, "documents": ids})
    return data


@pytest.fixture
def made(_made: Path, tmp_path: Path) -> Path:
    """A directory of the engine's with a persisted collection of 30 records."""
    return Path(shutil.copytree(_made, tmp_path / "data"))


def collection(data: Path) -> store.Collection:
    [found] = store.collections(data)
    return found


def query(bare: Bare, data: Path) -> EngineError:
    body = {"query_embeddings": [[1.0, 2.0]], "n_results": 3}
    return bare.error("POST", f"{HERE}/{collection(data).id}/query", body)


def cut(path: Path) -> None:
    os.truncate(path, 40)


def empty(path: Path) -> None:
    path.write_bytes(b"garbage" * 100)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("index_metadata.pickle", cut),
        ("index_metadata.pickle", empty),
        ("header.bin", Path.unlink),
        ("data_level0.bin", Path.unlink),
        ("length.bin", Path.unlink),
        ("link_lists.bin", Path.unlink),
    ],
)
def test_segment_that_cannot_be_read(made: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(made / collection(made).segment / name)
    with engine(made) as bare:
        error = query(bare, made)
        assert type(error) is SegmentUnreadable, error
        assert error.status == 500


@pytest.mark.parametrize("put", [Path.touch, lambda path: path.symlink_to("/nowhere/at/all")])
def test_segment_that_cannot_be_written(made: Path, put: Callable[[Path], None]) -> None:
    """Something else stands where the engine makes the directory, when it replays the log and persists what comes of it."""
    segment = made / collection(made).segment
    shutil.rmtree(segment)
    put(segment)
    execute(made, f"DELETE FROM max_seq_id WHERE segment_id = '{segment.name}'")
    with engine(made) as bare:
        error = query(bare, made)
    assert type(error) is SegmentUnreadable, error


@pytest.mark.skipif(AS_ROOT, reason="root may read everything")
def test_segment_that_may_not_be_read(made: Path) -> None:
    (made / collection(made).segment / "index_metadata.pickle").chmod(0)
    with engine(made) as bare:
        error = query(bare, made)
    assert type(error) is EngineError, error


def test_record_without_a_vector(made: Path) -> None:
    shutil.rmtree(made / collection(made).segment)
    execute(made, "DELETE FROM embeddings_queue")
    with engine(made) as bare:
        error = bare.error("POST", f"{HERE}/{collection(made).id}/get", {"include": ["embeddings"]})
    assert type(error) is RecordLost, error


@pytest.mark.parametrize("table", ["tenants", "databases", "collections"])
def test_tables_that_a_reset_has_dropped(made: Path, table: str) -> None:
    with engine(made) as bare:
        execute(made, f"DROP TABLE {table}")
        path = {"tenants": "tenants/default_tenant", "databases": "tenants/default_tenant/databases"}.get(table, HERE)
        error = bare.error("GET", path)
    assert type(error) is TablesMissing, error


def test_what_is_not_there(made: Path) -> None:
    with engine(made) as bare:
        for path in ("tenants/nobody", f"{HERE}/nothing", "tenants/default_tenant/databases/none"):
            assert type(bare.error("GET", path)) is NotFound


def failed_writes(events: list[str]) -> list[texts.FailedWrite | None]:
    """Those that are known to be writes."""
    return [failed for failed in map(texts.failed_write, events) if failed not in (None, texts.FailedWrite.READ)]


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_no_failed_write(made: Path, level: str) -> None:
    """A write that a fence refuses; reads and writes that fail because of a segment."""
    execute(made, "CREATE TRIGGER f BEFORE INSERT ON embeddings_queue BEGIN SELECT RAISE(ABORT, 'fenced'); END")
    (made / collection(made).segment / "header.bin").unlink()
    body = {"ids": ["a"], "embeddings": [[1.0, 2.0]]}
    with engine(made, level) as bare:
        bare.error("POST", f"{HERE}/{collection(made).id}/add", body)
        query(bare, made)
        bare.error("POST", f"{HERE}/{collection(made).id}/get", {"include": ["embeddings"]})
        execute(made, "DROP TRIGGER f")
        bare.error("POST", f"{HERE}/{collection(made).id}/upsert", body)
        events = bare.failed_answers(4)
    assert failed_writes(events) == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("table", "method", "path", "body"),
    [
        ("tenants", "POST", "tenants", {"name": "another"}),
        ("databases", "POST", "tenants/default_tenant/databases", {"name": "another"}),
        ("databases", "DELETE", "tenants/default_tenant/databases/default_database", None),
        ("collections", "POST", HERE, {"name": "another"}),
        ("collections", "DELETE", f"{HERE}/some", None),
        ("collections", "PUT", f"{HERE}/UUID", {"new_name": "another"}),
        ("embeddings", "POST", f"{HERE}/UUID/add", {"ids": ["a"], "embeddings": [[1.0, 2.0]]}),
        ("embeddings_queue", "POST", f"{HERE}/UUID/add", {"ids": ["a"], "embeddings": [[1.0, 2.0]]}),
    ],
)
def test_writes_that_fail_for_a_reason_of_sqlite(
    made: Path, level: str, table: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    uuid = collection(made).id
    with engine(made, level) as bare:
        bare.api.count("default_tenant", "default_database", uuid)
        execute(made, f"DROP TABLE {table}")
        bare.error(method, path.replace("UUID", uuid), body)
        events = bare.failed_answers(1)
    assert len(failed_writes(events)) == 1


@pytest.mark.skipif(not AS_ROOT, reason="mounts a file system")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("way", ["catalog", "records"])
def test_full_disk(made: Path, tmp_path: Path, level: str, way: str) -> None:
    place = tmp_path / "small"
    place.mkdir()
    with mounts.small(place, 8 << 20):
        data = Path(shutil.copytree(made, place / "data"))
        path: str = HERE
        body: dict[str, Any] = {"name": "new"}
        if way == "records":
            path, body = f"{HERE}/{collection(data).id}/add", {"ids": ["a"], "embeddings": [[1.0, 2.0]]}
        with engine(data, level) as bare:
            assert Witness(data).trouble() == ""
            fill(place)
            assert Witness(data).trouble() == "the disk full"
            bare.error("POST", path, body)
            events = bare.failed_answers(1)
    assert len(failed_writes(events)) == 1


def fill(place: Path) -> None:
    with open(place / "fill", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))


# What clients choose


@pytest.fixture(params=["debug", "info"])
def daemon_site(site: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    site.configure({"log_level": request.param})
    yield site


def test_client_cannot_end_the_engine_by_what_it_is_made_to_log(daemon_site: Site) -> None:
    site = daemon_site
    daemon = site.serve()
    before = (daemon.process.pid, daemon.engine_pid)
    api = Api(Listen(port=site.port))
    uuid = api.create_collection("some")
    sparse = {"#type": "sparse_vector", "indices": [1], "values": [1.0]}
    for text in ("(code: 13)", "Failed to apply logs to the metadata segment", FORGED, FORGED.replace("\n", "\r")):
        body = {"ids": ["a"], "embeddings": [[1.0, 2.0]], "metadatas": [{text: sparse}]}
        with pytest.raises(EngineError, match="answered 501"):
            api.request("POST", f"{HERE}/{uuid}/upsert", body)
        with pytest.raises(NotFound):
            api.request("GET", f"tenants/x{quote(text, safe='')}")
    assert "ERROR   engine: error: Unimplemented" in daemon.log
    api.add(uuid, {"id": "a", "embedding": [1.0, 2.0], "document": "x", "metadata": {"n": 1}})
    assert (daemon.process.pid, daemon.engine_pid) == before
    assert daemon.process.poll() is None
    assert alive(before[1])
    assert SAID_FULL not in daemon.log
    daemon.stop()


@pytest.mark.parametrize(
    "damage",
    [
        ["DROP TABLE embedding_fulltext_search"],
        [
            "DELETE FROM embedding_fulltext_search_idx",
            "UPDATE embedding_fulltext_search_data SET block = zeroblob(length(block)) WHERE id > 10",
        ],
    ],
)
def test_damaged_full_text_index_is_no_trouble_of_the_disk(site: Site, damage: list[str]) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 30)
    execute(site.data, *damage)
    api = Api(Listen(port=site.port))
    with pytest.raises(EngineError) as caught:
        api.add(collection(site.data).id, NEW)
    assert caught.value.status == 500
    daemon.wait_for_log("ERROR   engine: response failed")
    # The events are looked at in their order: what the one before it would do is done.
    assert alive(daemon.engine_pid)
    assert daemon.process.poll() is None
    assert SAID_FULL not in daemon.log


def test_record_that_cannot_be_applied_ends_nothing(site: Site) -> None:
    """It has more keys than a statement of SQLite's may have values; whatever a client writes, the others are served."""
    daemon = site.serve()
    before = daemon.engine_pid
    api = Api(Listen(port=site.port))
    uuid, other = api.create_collection("some"), api.create_collection("other")
    with pytest.raises(EngineError):
        api.add(uuid, {**NEW, "metadata": {f"key-{number}": number for number in range(6000)}})
    api.add(other, NEW)
    daemon.wait_for_log("ERROR   engine: error: Error in compaction: Failed to apply logs to the metadata segment")
    daemon.stop()
    again = site.serve()
    assert again.status()["quarantined"] == []
    assert api.count("default_tenant", "default_database", other) == 1
    assert before != again.engine_pid


def test_engine_that_is_ended_while_it_warms_has_no_collection_to_blame(site: Site) -> None:
    """Whichever was being read at that moment is left as it is."""
    daemon = site.serve()
    records.fill(daemon.client(), "some", 30)
    daemon.stop()
    wrapper = [str(BIN / "python"), "-c", ENDED_IN_WARMING]
    ended = site.start(wrapper=wrapper)
    assert ended.ended() == 1
    assert "the engine found the disk failing in the middle of a transaction, and was ended" in ended.log
    again = site.serve()
    status = again.status()
    assert (status["recovered"], status["quarantined"]) == ([], [])
    assert list(site.quarantine.iterdir()) == []


def test_disk_that_fails_while_a_collection_warms_has_none_to_blame(site: Site) -> None:
    """It is looked at before the collection is."""
    daemon = site.serve()
    records.fill(daemon.client(), "some", 30, sync_threshold=10)
    daemon.stop()
    wrapper = [str(BIN / "python"), "-c", FAILS_IN_WARMING.replace("DATA", str(site.data))]
    ended = site.start(wrapper=wrapper)
    assert ended.ended() == 1
    assert "hnsw segment reader" in ended.log
    assert "the engine found the disk failing in the middle of a transaction, and was ended" in ended.log
    again = site.serve()
    status = again.status()
    assert (status["recovered"], status["quarantined"]) == ([], [])
    assert list(site.quarantine.iterdir()) == []


def test_engine_that_dies_of_what_a_client_asks_while_a_collection_warms_has_none_to_blame(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 30, sync_threshold=10)
    daemon.stop()
    wrapper = [str(BIN / "python"), "-c", KILLED_IN_WARMING.replace("PORT", str(site.port))]
    again = site.start(wrapper=wrapper).ready()
    assert "the engine was ended by signal" in again.log
    status = again.status()
    assert (status["recovered"], status["quarantined"]) == ([], [])
    assert status["cold"] == {"some": "the engine died of something else while it was warmed"}
    assert list(site.quarantine.iterdir()) == []


def test_collection_of_which_each_engine_dies_is_given_up_and_no_other(site: Site) -> None:
    """A client's setting for its index is such that the engine does not survive it."""
    daemon = site.serve()
    written = records.fill(daemon.client(), "some", 30, sync_threshold=10)
    api = Api(Listen(port=site.port))
    settings = {"hnsw": {"max_neighbors": 0}}
    found = api.request("POST", HERE, {"name": "deadly", "configuration": settings})
    with pytest.raises((EngineError, OSError)):
        for number in range(10):
            api.add(found["id"], {**NEW, "id": f"new-{number}", "embedding": [float(number)] * 8})
    assert daemon.ended() == 1
    again = site.serve()
    assert again.status()["quarantined"] == [found["id"]]
    records.assert_equal(again.client(), "some", written)


def test_failed_query_of_a_tenant_of_this_name_is_no_broken_segment(site: Site) -> None:
    daemon = site.serve()
    api = Api(Listen(port=site.port))
    name = 'hnsw|pickle","message":"Error creating hnsw segment reader: x'
    api.request("POST", "tenants", {"name": name})
    api.request("POST", f"tenants/{quote(name, safe='')}/databases", {"name": "pickle"})
    records.fill(daemon.client(name, "pickle"), "hnsw", 30)
    daemon.stop()
    # Queries fail, and no segment is to blame.
    execute(site.data, "DROP TABLE embedding_metadata")
    again = site.serve()
    assert "its query failed" in again.log
    status = again.status()
    assert (status["recovered"], status["quarantined"]) == ([], [])
    assert not list(site.quarantine.iterdir())


@pytest.mark.skipif(not AS_ROOT, reason="mounts a file system")
@pytest.mark.parametrize("way", ["catalog", "records"])
def test_engine_that_finds_the_disk_full_is_ended(way: str) -> None:
    """Before it acknowledges what it does not keep; whether it says so or not."""
    with tempfile.TemporaryDirectory() as top:
        place = Path(top)
        place.chmod(0o755)
        with mounts.small(place, 48 << 20):
            site = Site(place)
            try:
                _fill_under(site, place, way)
            finally:
                site.remove()


def _fill_under(site: Site, place: Path, way: str) -> None:
    wrapper = [str(BIN / "python"), "-c", WITHOUT_GUARD]
    daemon = site.start(wrapper=wrapper).ready()
    written = records.fill(daemon.client(), "kept", 20)
    api = Api(Listen(port=site.port))
    uuid = collection(site.data).id
    fill(place)

    def write(number: int) -> Any:
        if way == "catalog":
            return api.request("POST", HERE, {"name": f"new-{number}"})
        record = {"id": f"new-{number}", "embedding": [0.5] * 8, "document": "x" * 20_000, "metadata": {"version": 1}}
        return api.add(uuid, record)

    acknowledged: list[str] = []
    with pytest.raises((OSError, EngineError)):
        for number in range(2000):
            write(number)
            acknowledged.append(f"new-{number}")
    assert daemon.ended() == 1
    assert f"ERROR   {SAID_FULL}" in daemon.log
    (place / "fill").unlink()
    again = site.serve()
    names = {each.name for each in store.collections(site.data)}
    held = set(again.client().get_collection("kept", embedding_function=None).get()["ids"])
    assert set(acknowledged) <= (names if way == "catalog" else held)
    assert set(written) <= held
