"""Eight official clients at the gateway of a host, while Chroma restarts and while the certificate is replaced.

python -m tests.gateway_clients HOST. No request of theirs may fail, and none that was answered may be lost.
"""

import argparse
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.gateway_host import PORT, GatewayHost
from tests.integration import raw_http
from tests.integration.account import until

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

_CLIENTS = 8
_DIMENSION = 64
# Requests of each client before and after
_REQUESTS = 20
# Seconds that a request may take: chromadb_gateway_wait while Chroma restarts; a reload keeps nobody waiting, and a restart of the gateway does
_WAIT, _RELOAD = 60.0, 5.0


class Client(threading.Thread):
    """Writes, queries and reads until it is ended or a request fails. longest: seconds for one request."""

    def __init__(self, collection: "Collection") -> None:
        super().__init__(daemon=True)
        self.collection = collection
        self.answered = 0
        self.longest = 0.0
        self.error: Exception | None = None
        self.ended = threading.Event()
        self._random = random.Random(collection.name)
        self._records = 0

    def run(self) -> None:
        while not self.ended.is_set():
            vector: Any = [self._random.random() for _ in range(_DIMENSION)]
            requests: list[Callable[[], Any]] = [
                partial(self._write, vector),
                partial(self.collection.query, query_embeddings=[vector], n_results=1),
                self.collection.count,
            ]
            for request in requests:
                started = time.monotonic()
                try:
                    request()
                except Exception as error:
                    self.error = error
                    return
                self.longest = max(self.longest, time.monotonic() - started)
                self.answered += 1

    def _write(self, vector: Any) -> None:
        name = str(self._records)
        self.collection.upsert(ids=[name], embeddings=[vector], documents=[name])
        self._records += 1

    def lost(self) -> int:
        """Records whose write was answered, and which are not there."""
        return self._records - len(self.collection.get(ids=[str(each) for each in range(self._records)])["ids"])


def beside(clients: list[Client], title: str, act: Callable[[], None], most: float) -> None:
    """Does something while all clients ask. Raises SystemExit when one of them has met an error, or has waited for more than `most` seconds."""

    def each_has(more: int) -> None:
        goal = [client.answered + more for client in clients]

        def reached() -> bool:
            if failed := [client for client in clients if client.error]:
                raise SystemExit(f"{title}: {len(failed)} clients have failed, the first one with: {failed[0].error!r}")
            return all(client.answered >= wanted for client, wanted in zip(clients, goal, strict=True))

        until(reached, f"{more} more answers to each client", 120)

    each_has(_REQUESTS)
    for client in clients:
        client.longest = 0
    before, started = sum(client.answered for client in clients), time.monotonic()
    act()
    each_has(_REQUESTS)
    answered, seconds = sum(client.answered for client in clients) - before, time.monotonic() - started
    longest = max(client.longest for client in clients)
    print(f"{title}: {answered} requests in {seconds:.1f} s, none failed; the longest took {longest:.1f} s", flush=True)
    if longest > most:
        raise SystemExit(f"{title}: a request took {longest:.1f} s, more than {most:.0f}")


def serial(host: GatewayHost) -> int:
    """Of the certificate that the gateway shows; 0 when it shows none."""
    try:
        with raw_http.connected(PORT, host.certificate, address=host.address) as connection:
            shown = connection.getpeercert()
    except OSError:
        return 0
    assert shown
    return int(str(shown["serialNumber"]), 16)


def renew(host: GatewayHost) -> None:
    """A new certificate of the same authority takes the place of the old one; returns when it is shown."""
    before = serial(host)
    directory = "/etc/chromadb/gateway"
    host.sudo(
        f'names=$(sed "s/DNS://g; s/IP://g; s/,/ /g" {directory}/own.names); rm {directory}/own.names;'
        f" {directory}/certificate make {directory} $names"
    )
    until(lambda: serial(host) not in (0, before), "a new certificate", 90)


def main() -> int:
    """0 when no client has noticed anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.gateway_clients", description=__doc__)
    parser.add_argument("host")
    host = GatewayHost(parser.parse_args().host)
    token = host.sudo(
        "chromactl token revoke eight >/dev/null 2>&1 || true; chromactl token add eight --role rw"
    ).strip()
    with ExitStack() as stack:
        opened = [stack.enter_context(host.client(token)) for _ in range(_CLIENTS)]
        clients = [
            Client(client.get_or_create_collection(f"client-{number}", embedding_function=None))
            for number, client in enumerate(opened)
        ]
        for client in clients:
            client.start()
        beside(clients, "restart", lambda: void(host.sudo("systemctl restart chromadb")), _WAIT)
        beside(clients, "certificate", lambda: renew(host), _RELOAD)
        for client in clients:
            client.ended.set()
        for client in clients:
            client.join(60)
        if lost := sum(client.lost() for client in clients):
            raise SystemExit(f"{lost} records are lost that were answered")
        for client, connection in zip(clients, opened, strict=True):
            connection.delete_collection(client.collection.name)
    host.sudo("chromactl token revoke eight")
    return 0


def void(_: object) -> None:
    """What it gives is of no use."""


if __name__ == "__main__":
    sys.exit(main())
