"""Keys of the configuration that the engine gets, and paths and addresses of any form."""

import re
import socket
from urllib.parse import quote

import pytest
from chromad.config import Listen
from chromad.engine.api import Api
from chromadb.errors import ChromaError

from tests.integration import records
from tests.integration.site import Site


def test_largest_request(site: Site) -> None:
    site.configure({"engine.max_payload_size": "100K"})
    collection = records.create(site.serve().client(), "some")
    collection.add(ids=["small"], embeddings=[[1.0, 2.0]], documents=["x" * 50_000])  # type: ignore[arg-type]
    with pytest.raises(Exception, match="Payload too large"):
        collection.add(ids=["large"], embeddings=[[1.0, 2.0]], documents=["x" * 150_000])  # type: ignore[arg-type]
    assert collection.get()["ids"] == ["small"]


@pytest.mark.parametrize("allowed", [True, False])
def test_reset(site: Site, allowed: bool) -> None:
    site.configure({"engine.allow_reset": allowed})
    client = site.serve().client()
    records.create(client, "some")
    if allowed:
        client.reset()
    else:
        with pytest.raises(ChromaError):
            client.reset()
    assert len(site.daemon.client().list_collections()) == (0 if allowed else 1)


def test_data_directory_with_special_characters(site: Site) -> None:
    odd = site.root / "da ta#1?%41'\""
    site.data.rename(odd)
    site.configure({"data_dir": str(odd)})
    daemon = site.serve()
    written = records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    assert (odd / "chroma.sqlite3").exists()
    site.backup()
    daemon.stop()
    assert site.chromactl("restore", "latest").code == 0
    records.assert_equal(site.serve().client(), "kept", written)


def test_status_of_systemd_is_utf8(site: Site) -> None:
    odd = site.root / "données"
    site.data.rename(odd)
    site.configure({"data_dir": str(odd)})
    assert site.serve().notify.statuses()[0].endswith(str(odd))


def test_ipv6(site: Site) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    site.configure({"listen.host": "::1"})
    daemon = site.serve()
    assert f"STATUS=serving 0 collections, 0 records on [::1]:{site.port}" in daemon.notify.lines
    Api(Listen(host="::1", port=site.port)).heartbeat()
    assert f"chromadb serving on [::1]:{site.port}" in site.chromactl("status").output


def test_all_addresses(site: Site) -> None:
    site.configure({"listen.host": "0.0.0.0", "allow_unauthenticated_network": True})
    daemon = site.serve({"WATCHDOG_USEC": "3000000"})
    daemon.wait_until_fed(6)
    daemon.stop()


@pytest.mark.parametrize("tenant", ["a tenant/with? signs", "мир", "forged\nSTOPPING=1\n<0>line"])
def test_any_name_of_a_tenant(site: Site, tenant: str) -> None:
    """Clients choose it, and it reaches systemd and the journal."""
    daemon = site.serve()
    api = Api(Listen(port=site.port))
    database = f"tenants/{quote(tenant, safe='')}/databases"
    api.request("POST", "tenants", {"name": tenant})
    api.request("POST", database, {"name": "some"})
    found = api.request("POST", f"{database}/some/collections", {"name": "some"})
    api.request("POST", f"{database}/some/collections/{found['id']}/add", {"ids": ["a"], "embeddings": [[1.0]]})
    daemon.stop()
    daemon = site.serve()
    assert daemon.status()["cold"] == {}
    assert "STOPPING=1" not in daemon.notify.lines
    assert [text for text in daemon.notify.statuses() if text.startswith("warming 1/1: ")]
    daemon.stop()
    site.configure({"warm.collections": "none"})
    daemon = site.serve()
    assert all(re.match(r"\d\d:\d\d:\d\d [A-Z]", line) for line in daemon.log.splitlines())
    assert api.count(tenant, "some", found["id"]) == 1
