"""What a proof asks of the running service, and what it makes of the answers."""

from pathlib import Path

from chromad.backup import proof
from chromad.backup.manifest import CollectionEntry
from chromad.chroma import sqlite
from chromad.config import Listen
from chromad.engine.api import Api

from tests.integration import records
from tests.integration.site import Site


def entry_of(site: Site, name: str) -> CollectionEntry:
    with sqlite.connect(site.data) as connection:
        return next(each for each in proof.entries(connection, {}) if each.name == name)


def test_seq_ids_that_are_given_again(site: Site, tmp_path: Path) -> None:
    """Those of a deleted collection go to the next writes: what these wrote was written since, whatever its seq id."""
    client = site.serve().client()
    records.fill(client, "kept", 5)
    records.fill(client, "newest", 20)
    sqlite.copy(site.data, tmp_path / sqlite.FILE, lambda _done, _total: None)
    ask = proof.ask_service(Api(Listen(port=site.port)), site.data, tmp_path, sqlite.last_seq_id(site.data))
    entry = entry_of(site, "kept")
    ids = [f"kept-{number}" for number in range(5)]
    assert ask(entry, ids).keys() == set(ids)
    client.delete_collection("newest")
    collection = client.get_collection("kept", embedding_function=None)
    records.upsert(collection, {"kept-1": records.make("kept-1", 1)})
    collection.delete(ids=["kept-2"])
    records.upsert(collection, {"kept-3": records.make("kept-3")})
    assert ask(entry, ids).keys() == {"kept-0", "kept-4"}
    client.delete_collection("kept")
    assert ask(entry, ids) == {}
