"""The hold of an upgrade: no client can change anything, and nothing but that is different."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chromad.chroma import sqlite
from chromad.config import Listen
from chromad.engine.api import Api
from chromad.store import hold
from chromadb.api import ClientAPI

from tests.integration import records
from tests.integration.site import Site

REASON = "changes are held while it's upgraded"
Change = Callable[[ClientAPI, Api], Any]


def _some(client: ClientAPI) -> Any:
    return client.get_collection("some", embedding_function=None)


CHANGES: dict[str, Change] = {
    "upsert": lambda client, _api: records.upsert(_some(client), {"new": records.make("new")}),
    "update": lambda client, _api: _some(client).update(ids=["some-1"], metadatas=[{"text": "other"}]),
    "delete": lambda client, _api: _some(client).delete(ids=["some-2"]),
    "create a collection": lambda client, _api: records.create(client, "new"),
    "delete a collection": lambda client, _api: client.delete_collection("some"),
    "rename a collection": lambda client, _api: _some(client).modify(name="other"),
    "change metadata": lambda client, _api: _some(client).modify(metadata={"a": 2}),
    "create a database": lambda _client, api: api.request("POST", "tenants/default_tenant/databases", {"name": "new"}),
    "delete a database": lambda _client, api: api.request(
        "DELETE", "tenants/default_tenant/databases/default_database"
    ),
    # With no collection in it that would be held.
    "delete an empty database": lambda _client, api: api.request("DELETE", "tenants/default_tenant/databases/empty"),
    "create a tenant": lambda _client, api: api.request("POST", "tenants", {"name": "new"}),
}


@pytest.fixture(scope="module")
def serving() -> Iterator[Site]:
    """A served site with a collection."""
    site = Site()
    records.fill(site.serve().client(), "some", 30, sync_threshold=20)
    Api(Listen(port=site.port)).request("POST", "tenants/default_tenant/databases", {"name": "empty"})
    yield site
    site.remove()


@pytest.mark.parametrize("name", CHANGES)
def test_refuses(serving: Site, name: str) -> None:
    client = serving.daemon.client()
    api = Api(Listen(port=serving.port))
    held = _contents(client)
    with sqlite.connect(serving.data) as connection:
        hold.put(connection, REASON)
    try:
        with pytest.raises(Exception, match=REASON):
            CHANGES[name](client, api)
        assert _contents(client) == held
    finally:
        with sqlite.connect(serving.data) as connection:
            hold.drop(connection)


def test_lets_everything_through_afterwards(serving: Site) -> None:
    client = serving.daemon.client()
    with sqlite.connect(serving.data) as connection:
        hold.put(connection, REASON)
        hold.put(connection, "another reason")
        hold.drop(connection)
        assert not connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'chromad_hold%'").fetchall()
    records.upsert(_some(client), {"new": records.make("new")})
    assert _some(client).count() == 31


def _contents(client: ClientAPI) -> Any:
    found = [(each.name, each.metadata, each.count()) for each in client.list_collections()]
    return found, _some(client).get(include=["documents", "metadatas"])
