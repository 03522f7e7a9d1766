"""What the log does not say: collections that were empty, their names, metadata and configuration between two backups."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from chromad.config import Listen
from chromad.engine.api import Api

from tests.integration import opened, records, seconds
from tests.integration.site import Site

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

# No plain text, and too long for a part of a URL that is not quoted
TENANT = "küche/ablage 50% \x1b[31m"


@dataclass
class History:
    """seconds: what there was between the two backups, by what had just been done."""

    site: Site
    seconds: dict[str, int] = field(default_factory=dict)

    @property
    def client(self) -> "ClientAPI":
        return self.site.daemon.client()

    @property
    def api(self) -> Api:
        return Api(Listen(port=self.site.port))

    def put(self, name: str, *keys: str) -> None:
        held = {key: records.make(key) for key in keys}
        records.upsert(self.client.get_collection(name, embedding_function=None), held)

    def refused(self, at: str) -> str:
        """What is said of a second that cannot be exact, with nothing done."""
        before = self.site.tree()
        result = self.site.chromactl(
            "restore", "--target", f"{self.site.root}/look", "--at", seconds.iso(self.seconds[at])
        )
        assert result.code == 1, result.output
        assert "it cannot be exact:" in result.output
        assert "HINT: --inexact restores it all the same; nothing was touched" in result.output
        assert not (self.site.root / "look").exists()
        assert self.site.tree().keys() == before.keys()
        return result.output

    def restored(self, at: str) -> dict[str, tuple[list[str], Any]]:
        """Names, with ids and metadata, of what comes back in spite of that."""
        with opened.restored(self.site, "--at", seconds.iso(self.seconds[at]), "--inexact") as client:
            return {
                each.name: (sorted(each.get(include=[])["ids"]), each.metadata) for each in client.list_collections()
            }


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    site = Site()
    client = site.serve().client()
    made = History(site)
    for name in ("notes", "empty-then-filled", "renamed", "swapped", "remade", "gone", "settings"):
        client.create_collection(name, embedding_function=None, metadata={"of": name})
    client.create_collection("two", embedding_function=None, configuration={"hnsw": {"space": "cosine"}})
    made.put("notes", "a")
    made.put("remade", "old")
    for tenant, databases in ((TENANT, ("one", "gone")), ("bare", ())):
        made.api.request("POST", "tenants", {"name": tenant})
        for database in databases:
            place = "k%C3%BCche%2Fablage%2050%25%20%1B%5B31m"
            made.api.request("POST", f"tenants/{place}/databases", {"name": database})
            made.api.post(tenant, database, "", {"name": "notes", "metadata": {"of": database}})
    site.backup()
    made.seconds["nothing"] = seconds.done()
    made.put("empty-then-filled", "x", "y")
    made.put("notes", "b")
    made.seconds["filled"] = seconds.done()
    yield made
    site.remove()


def test_collection_that_was_empty_at_the_backup(history: History) -> None:
    """Before anything else is done: exact at each second, from the live log and from the next backup's."""
    for words in ([], ["backed up"]):
        for at, keys in (("nothing", []), ("filled", ["x", "y"])):
            with opened.restored(history.site, "--at", seconds.iso(history.seconds[at])) as client:
                found = client.get_collection("empty-then-filled", embedding_function=None)
                assert sorted(found.get(include=[])["ids"]) == keys
                if keys:
                    records.assert_equal(client, "empty-then-filled", {key: records.make(key) for key in keys})
        if not words:
            assert history.site.backup()["base"] == ""
    assert history.site.chromactl("restore", "--collection", "empty-then-filled", "--into", "again", "--at",
                                  seconds.iso(history.seconds["filled"])).code == 0  # fmt: skip
    records.assert_equal(history.client, "again", {key: records.make(key) for key in ("x", "y")})
    history.client.delete_collection("again")


def test_what_the_log_does_not_say(history: History) -> None:
    client = history.client
    site = history.site
    history.put("notes", "c")
    site.backup()
    client.create_collection("empty-a", embedding_function=None, metadata={"new": 1})
    client.get_collection("notes", embedding_function=None).modify(metadata={"changed": True})
    client.get_collection("settings", embedding_function=None).modify(configuration={"hnsw": {"ef_search": 77}})
    client.get_collection("renamed", embedding_function=None).modify(name="new-name")
    client.delete_collection("gone")
    client.delete_collection("remade")
    client.create_collection("remade", embedding_function=None)
    # One name goes from a collection to another.
    client.get_collection("swapped", embedding_function=None).modify(name="swapped-before")
    client.create_collection("swapped", embedding_function=None)
    history.put("swapped", "s")
    history.put("notes", "d")
    api = history.api
    api.request("DELETE", "tenants/k%C3%BCche%2Fablage%2050%25%20%1B%5B31m/databases/gone")
    api.request("POST", "tenants/bare/databases", {"name": "late"})
    history.seconds["changed"] = seconds.done()
    history.put("empty-a", "late")
    history.put("remade", "late")
    assert site.backup()["base"] == ""

    said = history.refused("changed")
    for line in (
        "the collection 'empty-a' was made between",
        "the collection 'remade' was deleted between",
        "the collection 'remade' was made between",
        "the metadata of the collection 'notes' changed between",
        "the configuration of the collection 'settings' changed between",
        "the collection 'renamed' was renamed to 'new-name' between",
        "the collection 'gone' was deleted between",
        "/gone' was deleted between",
        "the database 'bare/late' was made between",
    ):
        assert line in said
    assert "'swapped" not in said, "whose rows tell"
    assert "'empty-then-filled'" not in said
    assert "\x1b" not in said
    found = history.restored("changed")
    assert found == {
        "empty-a": ([], {"new": 1}),
        "empty-then-filled": (["x", "y"], {"of": "empty-then-filled"}),
        "gone": ([], {"of": "gone"}),
        "notes": (["a", "b", "c", "d"], {"of": "notes"}),
        "remade": (["old"], {"of": "remade"}),
        "renamed": ([], {"of": "renamed"}),
        "settings": ([], {"of": "settings"}),
        "swapped": (["s"], None),
        "swapped-before": ([], {"of": "swapped"}),
        "two": ([], None),
    }


def test_what_matters_to_one_collection(history: History) -> None:
    """The others may be as inexact as they like."""
    words = ("--into", "look-at-it", "--at", seconds.iso(history.seconds["changed"]), "--json")
    result = history.site.chromactl("restore", "--collection", "empty-then-filled", *words)
    assert result.code == 0, result.output
    assert result.json()["notes"] == []
    history.client.delete_collection("look-at-it")
    result = history.site.chromactl("restore", "--collection", "default_tenant/default_database/notes", *words)
    assert result.code == 1
    assert "the metadata of the collection 'notes' changed between" in result.output
    assert "'gone'" not in result.output


def test_nothing_is_said_where_all_is_known(history: History) -> None:
    """Last in this file: keys that the engine adds to a schema are no change, and what the latest backup says is exact."""
    history.site.backup()
    history.client.get_collection("two", embedding_function=None).add(
        ids=["k"], embeddings=[1.0, 2.0], metadatas=[{"a key": "of its own"}]
    )
    history.seconds["more"] = seconds.done()
    history.put("notes", "e")
    history.site.backup()
    with opened.restored(history.site, "--at", seconds.iso(history.seconds["more"])) as client:
        assert client.get_collection("two", embedding_function=None).count() == 1
        assert client.get_collection("notes", embedding_function=None).metadata == {"changed": True}
        assert client.get_collection("new-name", embedding_function=None).count() == 0
