"""What came and went between two backups: neither of them knows it, and the log of a deleted collection goes with it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from chromad.chroma import changes
from chromad.chroma import sqlite as store
from chromad.config import Listen
from chromad.engine.api import Api

from tests.integration import opened, records, seconds
from tests.integration.account import until
from tests.integration.site import Site

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


@dataclass
class History:
    """seconds: by what there was then."""

    site: Site
    seconds: dict[str, int] = field(default_factory=dict)

    @property
    def client(self) -> "ClientAPI":
        return self.site.daemon.client()

    def put(self, name: str, *keys: str) -> None:
        collection = self.client.get_or_create_collection(name, embedding_function=None)
        records.upsert(collection, {key: records.make(key) for key in keys})

    def refused(self, at: str, *notes: str) -> str:
        """What is said of a second that cannot be exact, by the dry run as well, with nothing done."""
        words = ["restore", "--target", f"{self.site.root}/look", "--at", seconds.iso(self.seconds[at])]
        for more in (["--dry-run"], []):
            result = self.site.chromactl(*words, *more)
            assert result.code == 1, result.output
            assert "HINT: --inexact restores it all the same; nothing was touched" in result.output
            assert not (self.site.root / "look").exists()
            for note in notes:
                assert note in result.output
        return result.output

    def notes(self, at: str) -> list[str]:
        """What is said of a second."""
        words = ["--target", f"{self.site.root}/look", "--at", seconds.iso(self.seconds[at]), "--dry-run", "--inexact"]
        result = self.site.chromactl("restore", *words, "--json")
        assert result.code == 0, result.output
        return list(result.json()["notes"])


def recorded(site: Site) -> list[str]:
    with closing(sqlite3.connect(site.data / store.FILE)) as connection:
        if not store.has_table(connection, changes.TABLE):
            return []
        return [event for (event,) in connection.execute(f"SELECT event FROM {changes.TABLE}")]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    site = Site()
    site.serve()
    made = History(site)
    made.put("kept", "a", "b")
    made.client.create_collection("named", embedding_function=None)
    site.backup()
    made.seconds["quiet"] = seconds.done()
    made.put("brief", "before")
    made.client.delete_collection("brief")
    made.seconds["before"] = seconds.done()
    made.put("temp", "t1", "t2")
    made.client.create_collection("empty", embedding_function=None)
    api = Api(Listen(port=site.port))
    api.request("POST", "tenants", {"name": "guest"})
    api.request("POST", "tenants/guest/databases", {"name": "theirs"})
    api.post("guest", "theirs", "", {"name": "inside"})
    made.client.get_collection("named", embedding_function=None).modify(name="other")
    made.seconds["there"] = seconds.done()
    made.client.get_collection("other", embedding_function=None).modify(name="named")
    made.client.delete_collection("temp")
    made.client.delete_collection("empty")
    api.request("DELETE", "tenants/guest/databases/theirs")
    # These get the seq ids of the collection that is gone.
    made.put("kept", "c", "d", "e")
    made.seconds["gone"] = seconds.done()
    made.put("brief", "after")
    made.client.delete_collection("brief")
    made.put("kept", "f")
    yield made
    site.remove()


@pytest.mark.parametrize("source", ["live log", "later base"])
def test_what_came_and_went_is_said(history: History, source: str) -> None:
    site = history.site
    if source == "later base":
        assert site.backup("--full")["base"] == "asked for"
    said = history.refused(
        "there",
        "the collection 'temp' was made between",
        "the collection 'empty' was made between",
        "the database 'guest/theirs' was made between",
        "the collection 'guest/theirs/inside' was made between",
        "the collection 'other' was renamed at",
    )
    assert "'brief'" not in said, "which was not there"
    assert "is not known" not in said
    with opened.restored(site, "--at", seconds.iso(history.seconds["there"]), "--inexact") as client:
        opened.assert_holds(client, {"kept": {key: records.make(key) for key in ("a", "b")}, "named": {}})
    for exact in ("quiet", "gone"):
        assert not [note for note in history.notes(exact) if "the tenant" not in note], exact


def test_it_does_not_matter_to_another_collection(history: History) -> None:
    words = ("--into", "look-at-it", "--at", seconds.iso(history.seconds["there"]), "--json")
    result = history.site.chromactl("restore", "--collection", "kept", *words)
    assert result.code == 0, result.output
    assert result.json()["notes"] == []
    history.client.delete_collection("look-at-it")


def test_restored_data_begin_anew(history: History) -> None:
    """A copy has nothing of ours, and the service that takes it on records again; its backups' own archive tells."""
    site = history.site
    site.daemon.stop()
    result = site.chromactl("restore")
    assert result.code == 0, result.output
    assert recorded(site) == []
    site.serve()
    assert recorded(site) == [changes.BEGUN]
    site.backup()
    history.put("temp", "t")
    history.seconds["again"] = seconds.done()
    history.client.delete_collection("temp")
    history.put("kept", "g", "h")
    assert site.backup()["base"] == ""
    history.refused("again", "the collection 'temp' was made between")


def test_reset_by_a_client(site: Site) -> None:
    """It drops what was recorded; that is said, and recorded again from then on."""
    site.configure({"engine.allow_reset": True})
    client = site.serve().client()
    history = History(site)
    site.backup()
    client.create_collection("temp", embedding_function=None)
    history.seconds["before"] = seconds.done()
    client.reset()
    until(lambda: recorded(site) == [changes.BEGUN], "a record that begins", 15)
    history.seconds["reset"] = seconds.done()
    history.put("temp", "t")
    history.seconds["after"] = seconds.done()
    client.delete_collection("temp")
    history.refused("before", "which collections came and went after")
    assert "which collections" not in "".join(history.notes("reset"))
    history.refused("after", "the collection 'temp' was made between")


def test_a_long_record_is_cut(site: Site) -> None:
    """At a start. It says from when on it tells."""
    daemon = site.serve()
    with closing(sqlite3.connect(site.data / store.FILE)) as connection, connection:
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20100) SELECT i FROM n"
        connection.execute(
            f"INSERT INTO {changes.TABLE} (event, kind, id) SELECT 'made', 'collection', i FROM ({numbers})"
        )
    daemon.stop()
    site.serve()
    found = recorded(site)
    assert len(found) == 10_001
    assert found[0] == changes.BEGUN
    assert set(found[1:]) == {changes.MADE}
