"""A backup adds to the base before it as long as it can, and begins a new one when it must; both restore exactly."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration import opened, records
from tests.integration.records import Record
from tests.integration.site import Site

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection


@dataclass
class World:
    """A served site, and what its collections hold."""

    site: Site
    model: dict[str, dict[str, Record]] = field(default_factory=dict)

    @property
    def client(self) -> "ClientAPI":
        return self.site.daemon.client()

    def collection(self, name: str) -> "Collection":
        return self.client.get_collection(name, embedding_function=None)

    def fill(self, name: str, count: int, sync_threshold: int = 1000) -> None:
        self.model[name] = records.fill(self.client, name, count, sync_threshold=sync_threshold)

    def put(self, name: str, *keys: str, version: int = 1) -> None:
        written = {key: records.make(key, version) for key in keys}
        records.upsert(self.collection(name), written)
        self.model[name] |= written

    def delete(self, name: str, *keys: str) -> None:
        self.collection(name).delete(ids=list(keys))
        for key in keys:
            del self.model[name][key]

    def drop(self, name: str) -> None:
        self.client.delete_collection(name)
        del self.model[name]

    def snapshot(self) -> dict[str, dict[str, Record]]:
        return {name: dict(held) for name, held in self.model.items()}


def manifest(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((site.current / "manifest.json").read_bytes())
    return found


@pytest.fixture
def world(site: Site) -> World:
    site.serve()
    return World(site)


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """A served site with a backup, in whatever state the tests before have left it."""
    site = Site()
    site.serve()
    world = World(site)
    world.fill("some", 150, sync_threshold=100)
    site.backup()
    yield world
    site.remove()


def test_second_one_adds_to_the_base(world: World) -> None:
    site = world.site
    world.fill("persisted", 150, sync_threshold=100)
    world.fill("gone", 30, sync_threshold=10)
    world.fill("in-log", 20)
    first, before = site.backup(), world.snapshot()
    base = manifest(site)
    world.put("persisted", "persisted-0", "persisted-149", "new")
    world.delete("persisted", "persisted-1", "persisted-148")
    world.put("in-log", "in-log-0")
    world.fill("later", 25, sync_threshold=10)
    world.drop("gone")
    world.put("persisted", "last")
    second = site.backup()
    assert (second["base"], second["collections"], second["records"]) == ("", 3, 150 + 20 + 25)
    now = manifest(site)
    assert now["created"] > base["created"]
    assert now["last_seq_id"] > base["last_seq_id"]
    for same in ("base_created", "base_seq_id", "continues", "data_id"):
        assert now[same] == base[same]
    files = {entry["path"]: entry["sha256"] for entry in now["files"]}
    assert {entry["path"] for entry in base["files"] if entry["sha256"] != files[entry["path"]]} == {"log.sqlite3"}
    opened.assert_restored(site, world.model, second["id"])
    opened.assert_restored(site, before, first["id"])
    assert site.chromactl("verify").code == 0


def test_next_one_adds_to_the_same_base_after_a_kill(world: World) -> None:
    """With the service down, too: what is logged counts, applied or not."""
    site = world.site
    world.fill("some", 150, sync_threshold=100)
    site.backup()
    world.put("some", "a")
    site.daemon.process.kill()
    site.daemon.process.wait()
    taken = site.backup()
    assert (taken["base"], taken["records"]) == ("", 151)
    site.serve()
    world.delete("some", "a")
    world.put("some", "b")
    assert site.chromactl("checkpoint").code == 0, "purges what the former backups hold"
    assert site.backup()["base"] == ""
    opened.assert_restored(site, world.model)


def test_one_is_small_when_little_has_changed(world: World) -> None:
    site = world.site
    collection = records.create(world.client, "some", 100)
    for start in range(0, 3000, 500):
        held = {f"{number}": records.make(f"{number}", dimension=128) for number in range(start, start + 500)}
        records.upsert(collection, held)
    first = site.backup()
    records.upsert(collection, {f"{number}": records.make(f"{number}", 1, 128) for number in range(0, 3000, 100)})
    second = site.backup()
    assert second["base"] == ""
    assert second["added"] <= 0.05 * first["added"]


def test_new_base_when_it_is_asked_for(shared: World) -> None:
    before = manifest(shared.site)
    shared.put("some", "a")
    assert shared.site.backup("--full")["base"] == "asked for"
    now = manifest(shared.site)
    assert now["base_created"] == now["created"] > before["created"]
    assert now["continues"] == before["last_seq_id"]
    opened.assert_restored(shared.site, shared.model)


def test_new_base_when_the_log_since_the_last_one_is_long(shared: World) -> None:
    shared.site.backup()
    long = {f"long-{number}": records.make(f"long-{number}") for number in range(150)}
    collection = shared.collection("some")
    collection.upsert(ids=list(long), embeddings=records.as_array(long.values()), documents=["x" * 60_000] * len(long))
    assert shared.site.backup()["base"] == ""
    collection.delete(ids=list(long))
    assert shared.site.backup()["base"].startswith("the log since the last base takes ")
    opened.assert_restored(shared.site, shared.model)
    assert shared.site.backup()["base"] == "", "and goes on from there"


def test_new_base_when_seq_ids_may_be_used_again(shared: World) -> None:
    """SQLite gives the seq ids of a deleted collection's rows to the next records."""
    shared.fill("other", 10)
    shared.site.backup()
    before = manifest(shared.site)
    shared.drop("other")
    shared.put("some", "again", "and-again")
    taken = shared.site.backup()
    assert "seq ids may be used again" in taken["base"]
    assert manifest(shared.site)["last_seq_id"] <= before["last_seq_id"]
    opened.assert_restored(shared.site, shared.model)


@pytest.mark.parametrize("name", ["chroma.sqlite3", "manifest.json"])
def test_new_base_when_the_last_one_lacks_a_file(shared: World, name: str) -> None:
    (shared.site.current / name).unlink()
    assert name in shared.site.backup()["base"]


def test_new_base_when_another_engine_wrote_the_last_one(shared: World) -> None:
    path: Path = shared.site.current / "manifest.json"
    path.write_text(json.dumps(manifest(shared.site) | {"engine_version": "1.4.0"}), encoding="utf-8")
    assert shared.site.backup()["base"] == "it was written by Chroma 1.4.0"


def test_new_base_after_a_restore(shared: World) -> None:
    """Last of those that share a site: what is restored has a history of its own."""
    site = shared.site
    before = shared.snapshot()
    site.backup()
    shared.put("some", "unwanted")
    site.daemon.stop()
    assert site.chromactl("restore").code == 0
    site.serve()
    shared.model = before
    shared.put("some", "new")
    assert site.backup()["base"] == "the data have another history"
    assert manifest(site)["continues"] is None
    opened.assert_restored(site, shared.model)
