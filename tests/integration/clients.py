"""Official clients that are closed: each one keeps sockets, of which a process of the tests would gather hundreds."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import chromadb
from chromadb.api.client import AdminClient, Client
from chromadb.api.fastapi import FastAPI
from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


@contextmanager
def connected(port: int, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE) -> Iterator["ClientAPI"]:
    """A client of the service at this port of the loopback address."""
    settings = Settings(anonymized_telemetry=False)
    client = chromadb.HttpClient("127.0.0.1", port, settings=settings, tenant=tenant, database=database)
    try:
        yield client
    finally:
        close(client)


def close(client: "ClientAPI") -> None:
    """Closes both connections of an official client: its own close() leaves them open."""
    assert isinstance(client, Client)
    for each in (client, client._admin_client):
        assert isinstance(each, Client | AdminClient)
        assert isinstance(each._server, FastAPI)
        each._server._session.close()
