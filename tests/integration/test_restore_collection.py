"""One collection out of a backup into the running service, while clients use the others."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import chromadb
import pytest
from chromadb.config import DEFAULT_TENANT, Settings

from tests.integration import records
from tests.integration.account import until
from tests.integration.records import Record
from tests.integration.site import Site
from tests.integration.writers import Writers

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

METADATA = {"team": "blue", "size": 7, "part": 0.5, "hot": True}
COSINE = {"hnsw": {"space": "cosine", "sync_threshold": 100, "batch_size": 50, "max_neighbors": 9}}


@dataclass(frozen=True)
class Backup:
    site: Site
    held: dict[str, Record]

    @property
    def client(self) -> "ClientAPI":
        return self.site.daemon.client()

    def restore(self, *words: str) -> Any:
        result = self.site.chromactl("restore", "--json", *words)
        assert result.code == 0, result.output
        return result.json()

    def refused(self, code: int, fact: str, *words: str) -> None:
        before = sorted(collection.name for collection in self.client.list_collections())
        result = self.site.chromactl("restore", *words)
        assert result.code == code, result.output
        assert "Traceback" not in result.output
        assert fact in result.output
        assert "HINT: " in result.output
        assert sorted(collection.name for collection in self.client.list_collections()) == before
        assert self.site.asides() == []


@pytest.fixture(scope="module")
def backup() -> Iterator[Backup]:
    """A served site with a backup of a collection, and of two of one name in other databases."""
    site = Site()
    client = site.serve().client()
    collection = client.create_collection("notes", embedding_function=None, metadata=METADATA)
    cosine = client.create_collection("cosine", embedding_function=None, configuration=COSINE)  # type: ignore[arg-type]
    held = {key: records.make(key) for key in (f"notes-{number}" for number in range(1500))}
    for start in range(0, 1500, 500):
        for each in (collection, cosine):
            records.upsert(each, {key: held[key] for key in list(held)[start : start + 500]})
    admin = chromadb.AdminClient(
        Settings(
            chroma_api_impl="chromadb.api.fastapi.FastAPI",
            chroma_server_host="127.0.0.1",
            chroma_server_http_port=site.port,
            anonymized_telemetry=False,
        )
    )
    admin.create_tenant("other")
    for tenant, database in ((DEFAULT_TENANT, "second"), ("other", "third")):
        admin.create_database(database, tenant)
        twin = records.create(site.daemon.client(tenant, database), "twin")
        records.upsert(twin, {database: records.make(database)})
    client.create_collection("empty", embedding_function=None, metadata={"hnsw:space": "ip"})
    site.backup()
    yield Backup(site, held)
    site.remove()


class Reader(threading.Thread):
    """Reads from a collection until it is stopped."""

    def __init__(self, client: "ClientAPI", name: str) -> None:
        super().__init__(daemon=True)
        self.reads = 0
        self.errors: list[Exception] = []
        self._collection = client.get_collection(name, embedding_function=None)
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._collection.get(limit=5)
                self.reads += 1
            except Exception as error:
                self.errors.append(error)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def test_while_clients_use_the_others(backup: Backup) -> None:
    """No request of theirs fails; what comes back is what was there."""
    backup.client.delete_collection("notes")
    writers = Writers(backup.site.daemon, {"often": 15, "seldom": 1000}, each=2)
    reader = Reader(backup.client, "often")
    writers.start()
    reader.start()
    try:
        until(lambda: writers.written() > 100, "writes")
        since, before = writers.acknowledged(), writers.written()
        found = backup.restore("--collection", "notes")
        assert writers.written() > before
    finally:
        reader.stop()
        writers.stop()
    assert reader.reads
    assert not reader.errors
    assert (found["name"], found["records"], found["notes"]) == ("notes", 1500, [])
    records.assert_equal(backup.client, "notes", backup.held)
    writers.assert_kept(backup.site.daemon, since)
    after = backup.client.get_collection("notes", embedding_function=None)
    assert after.metadata == METADATA
    for name in writers.names:
        backup.client.delete_collection(name)


def test_cosine(backup: Backup) -> None:
    """The engine keeps vectors of length one then, so that a second rounding may show in the last bit."""
    before = backup.client.get_collection("cosine", embedding_function=None)
    backup.restore("--collection", "cosine", "--into", "cosine-again")
    after = backup.client.get_collection("cosine-again", embedding_function=None)
    assert after.configuration_json["hnsw"] == before.configuration_json["hnsw"]
    assert after.configuration_json["hnsw"]["space"] == "cosine"
    assert after.configuration_json["hnsw"]["max_neighbors"] == 9
    first, second = records.read(before), records.read(after)
    assert first.keys() == second.keys() == backup.held.keys()
    for key, record in first.items():
        assert (record.document, record.version) == (second[key].document, second[key].version)
        assert second[key].vector == pytest.approx(record.vector, rel=1e-5, abs=1e-6)
    records.assert_found(after, first)
    backup.client.delete_collection("cosine-again")


def test_under_another_name(backup: Backup) -> None:
    collection = backup.client.get_collection("notes", embedding_function=None)
    collection.delete(ids=["notes-0"])
    found = backup.restore("--collection", "notes", "--into", "notes-restored")
    assert found["name"] == "notes-restored"
    records.assert_equal(backup.client, "notes-restored", backup.held)
    assert collection.count() == 1499
    records.upsert(collection, {"notes-0": backup.held["notes-0"]})
    backup.client.delete_collection("notes-restored")


def test_what_is_restored_is_in_the_next_backup(backup: Backup) -> None:
    backup.restore("--collection", "notes", "--into", "again")
    backup.site.backup()
    backup.client.delete_collection("again")
    backup.restore("--collection", "again", "--into", "once-more")
    records.assert_equal(backup.client, "once-more", backup.held)
    backup.client.delete_collection("once-more")


def test_empty_collection(backup: Backup) -> None:
    assert backup.restore("--collection", "empty", "--into", "empty-again")["records"] == 0
    again = backup.client.get_collection("empty-again", embedding_function=None)
    assert again.metadata == {"hnsw:space": "ip"}
    assert again.configuration_json["hnsw"]["space"] == "ip"
    backup.client.delete_collection("empty-again")


@pytest.mark.parametrize(("tenant", "database"), [(DEFAULT_TENANT, "second"), ("other", "third")])
def test_collection_of_another_database(backup: Backup, tenant: str, database: str) -> None:
    backup.refused(2, "several collections have the name 'twin'", "--collection", "twin")
    client = backup.site.daemon.client(tenant, database)
    client.delete_collection("twin")
    backup.restore("--collection", f"{tenant}/{database}/twin")
    records.assert_equal(client, "twin", {database: records.make(database)})
    assert "twin" not in [collection.name for collection in backup.client.list_collections()]


def test_name_is_taken(backup: Backup) -> None:
    backup.refused(78, "the service has a collection 'notes' already", "--collection", "notes")
    backup.refused(78, "the service has a collection 'empty' already", "--collection", "notes", "--into", "empty")


@pytest.mark.parametrize("name", ["unknown", "other/third/notes", "notes/"])
def test_unknown_name(backup: Backup, name: str) -> None:
    backup.refused(1, f"the backup has no collection {name!r}", "--collection", name)


def test_name_that_the_service_does_not_take(backup: Backup) -> None:
    backup.refused(78, "the service does not make the collection 'a b'", "--collection", "notes", "--into", "a b")


def test_dry_run(backup: Backup) -> None:
    before = backup.site.tree()
    result = backup.site.chromactl("restore", "--collection", "notes", "--into", "xxx", "--dry-run")
    assert result.code == 0
    assert "the collection notes into the running service" in result.output
    assert backup.site.tree() == before


def test_service_is_down(backup: Backup) -> None:
    """Last in this file, since it stops the service."""
    backup.site.daemon.stop()
    before = backup.site.tree()
    result = backup.site.chromactl("restore", "--collection", "notes", "--into", "x")
    assert result.code == 75
    assert "the service does not answer" in result.output
    assert "HINT: systemctl start chromadb" in result.output
    assert backup.site.tree() == before
