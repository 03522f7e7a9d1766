"""List values of deleted records: Chroma leaves them behind, and gives their row ids to others."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chromad.chroma import sqlite as store
from chromad.config import Listen
from chromad.engine.api import Api

from tests.integration import holders, records
from tests.integration.account import until
from tests.integration.clients import connected
from tests.integration.site import Site, free_port

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

GHOST = "written by one who is gone"


def add(client: "ClientAPI", name: str, metadatas: Mapping[str, Mapping[str, object]]) -> None:
    collection = client.get_or_create_collection(name, embedding_function=None)
    vectors = records.as_array(records.make(key) for key in metadatas)
    collection.add(ids=list(metadatas), embeddings=vectors, metadatas=list(metadatas.values()))  # type: ignore[arg-type]


def read(client: "ClientAPI", name: str) -> dict[str, object]:
    found = client.get_collection(name, embedding_function=None).get()
    assert found["metadatas"] is not None
    return dict(zip(found["ids"], found["metadatas"], strict=True))


def ghosts(data: Path) -> int:
    connection = sqlite3.connect(data / store.FILE)
    try:
        return int(
            connection.execute(
                "SELECT count(*) FROM embedding_metadata_array WHERE id NOT IN (SELECT id FROM embeddings)"
            ).fetchone()[0]
        )
    finally:
        connection.close()


def stock(site: Site) -> Path:
    """A directory of a stock server whose next records get the lists of deleted ones; it has ended."""
    port = free_port()
    server = holders.stock_server(site, port)
    with connected(port) as client:
        add(client, "keep", {"first": {"tags": ["of the first"], "n": 1}})
        add(client, "notes", {f"n{number}": {"tags": [GHOST]} for number in range(5)})
        add(client, "keep", {"last": {"n": 2}})
        client.delete_collection("notes")
        client.get_collection("keep", embedding_function=None).delete(ids=["last"])
    server.terminate()
    server.wait()
    return site.data


def test_next_collection_does_not_get_them(site: Site) -> None:
    client = site.serve().client()
    add(client, "keep", {f"k{number}": {"n": number} for number in range(5)})
    add(client, "notes", {"a": {"tags": [GHOST]}, "b": {"tags": [GHOST, "more"], "numbers": [1, 2]}})
    add(client, "keep", {"last": {"n": 9}})
    site.backup()
    client.delete_collection("notes")
    client.get_collection("keep", embedding_function=None).delete(ids=["last"])
    wanted = {key: {"s": "new"} for key in ("a", "b", "c")}
    add(client, "notes2", wanted)
    assert read(client, "notes2") == wanted
    for _ in range(2):
        assert site.backup()["base"] == ""
    assert ghosts(site.data) == 0
    result = site.chromactl("verify")
    assert result.code == 0, result.output


def test_next_tenant_does_not_get_them(site: Site) -> None:
    daemon = site.serve()
    api = Api(Listen(port=site.port))
    for tenant in ("tenant_a", "tenant_b"):
        api.request("POST", "tenants", {"name": tenant})
        api.request("POST", f"tenants/{tenant}/databases", {"name": "theirs"})
    add(daemon.client("tenant_a", "theirs"), "docs", {"a": {"acl": [GHOST]}})
    api.request("DELETE", "tenants/tenant_a/databases/theirs")
    add(daemon.client("tenant_b", "theirs"), "docs", {"b": {"n": 1}})
    assert read(daemon.client("tenant_b", "theirs"), "docs") == {"b": {"n": 1}}


def test_lists_of_records_that_stay_are_kept(site: Site) -> None:
    client = site.serve().client()
    add(client, "notes", {"a": {"tags": ["one"]}, "b": {"tags": ["two", "three"]}})
    collection = client.get_collection("notes", embedding_function=None)
    collection.delete(where={"tags": {"$contains": "one"}})  # type: ignore[dict-item]
    collection.update(ids=["b"], metadatas=[{"tags": ["four"]}])
    collection.upsert(ids=["a"], embeddings=records.as_array([records.make("a")]), metadatas=[{"n": 1}])
    assert read(client, "notes") == {"a": {"n": 1}, "b": {"tags": ["four"]}}


def test_reset_by_a_client_does_not_bring_them_back(site: Site) -> None:
    site.configure({"engine.allow_reset": True})
    daemon = site.serve()
    daemon.client().reset()
    until(lambda: has_trigger(site.data), "the trigger", 15)
    client = daemon.client()
    add(client, "notes", {"a": {"tags": [GHOST]}})
    client.delete_collection("notes")
    add(client, "notes", {"a": {"n": 1}})
    assert read(client, "notes") == {"a": {"n": 1}}


def has_trigger(data: Path) -> bool:
    connection = sqlite3.connect(data / store.FILE)
    try:
        return bool(
            connection.execute(
                "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'embeddings'"
            ).fetchone()
        )
    finally:
        connection.close()


@pytest.mark.parametrize("way", ["adopt", "start"])
def test_those_of_a_stock_server_are_gone(site: Site, way: str) -> None:
    stock(site)
    assert ghosts(site.data) == 5
    if way == "adopt":
        site.make_repository()
        source = site.root / "old"
        site.data.rename(source)
        site.data.mkdir(mode=0o750)
        site.give(site.data)
        result = site.chromactl("adopt", str(source))
        assert result.code == 0, result.output
    daemon = site.serve()
    assert ("removed 5 list values of records that are no more" in daemon.log) is (way == "start")
    client = daemon.client()
    add(client, "notes", {"a": {"n": 1}, "b": {"n": 2}})
    assert read(client, "notes") == {"a": {"n": 1}, "b": {"n": 2}}
    assert read(client, "keep") == {"first": {"tags": ["of the first"], "n": 1}}
    assert ghosts(site.data) == 0
    assert site.backup()["base"] == ("" if way == "adopt" else "the first one here")
    assert site.backup()["base"] == ""
