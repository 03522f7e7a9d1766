"""A client as fast as one can be: raw HTTP over one kept connection, bodies made before the clock runs."""

import base64
import http.client
import json
import ssl
from typing import Any

import numpy as np

DIMENSION = 384

Vectors = np.ndarray[Any, np.dtype[np.float32]]

_DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"


class Refused(Exception):
    """The server answered with an error."""


class Client:
    """One connection to the server on a port of this machine. tls, token: where it is a gateway. Raises Refused for HTTP errors."""

    def __init__(self, port: int, timeout: float = 600.0, tls: ssl.SSLContext | None = None, token: str = "") -> None:
        if tls:
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", port, timeout=timeout, context=tls
            )
        else:
            self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._headers = {"Content-Type": "application/json"}
        self.use(token)

    def use(self, token: str) -> None:
        """Sends this token from now on; none where it is empty."""
        self._headers.pop("Authorization", None)
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def create(self, name: str, sync_threshold: int = 1000, **settings: int) -> str:
        """Makes a collection and gives its id. sync_threshold: Chroma's default is 1000. settings: more of its index."""
        hnsw = {"sync_threshold": sync_threshold, "batch_size": min(100, sync_threshold), **settings}
        body = json.dumps({"name": name, "configuration": {"hnsw": hnsw}}).encode()
        return str(json.loads(self.send("POST", "", body))["id"])

    def post(self, collection: str, verb: str, body: bytes) -> bytes:
        """Sends add, update, upsert, delete, get or query to a collection, given by its id."""
        return self.send("POST", f"/{collection}/{verb}", body)

    def count(self, collection: str) -> int:
        """The records of a collection."""
        return int(self.send("GET", f"/{collection}/count", None))

    def ids(self) -> list[str]:
        """Those of all collections."""
        return [str(each["id"]) for each in json.loads(self.send("GET", "", None))]

    def drop(self, name: str) -> None:
        """Deletes a collection, given by its name."""
        self.send("DELETE", f"/{name}", None)

    def send(self, method: str, path: str, body: bytes | None) -> bytes:
        """Any request; path: below the collections of the default database."""
        self._connection.request(method, f"{_DATABASE}/collections{path}", body, self._headers)
        response = self._connection.getresponse()
        text = response.read()
        if response.status >= 400:
            raise Refused(f"{response.status}: {text[:500].decode(errors='replace')}")
        return text


def encode(vectors: Vectors) -> list[str]:
    """Vectors as the official client sends them: base64 of little-endian 32-bit floats."""
    return [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]


def upserts(keys: list[str], size: int, numbers: np.random.Generator, dimension: int = DIMENSION) -> list[bytes]:
    """Bodies that write all keys with random vectors, documents and metadata, `size` records in each body."""
    bodies = []
    for start in range(0, len(keys), size):
        ids = keys[start : start + size]
        body = {
            "ids": ids,
            "embeddings": encode(numbers.random((len(ids), dimension), dtype=np.float32) - 0.5),
            "documents": [f"document of {key}, the {numbers.integers(1 << 30)}th of its kind" for key in ids],
            "metadatas": [{"number": int(numbers.integers(1000)), "kind": "bench"} for _ in ids],
        }
        bodies.append(json.dumps(body).encode())
    return bodies


def queries(count: int, numbers: np.random.Generator, dimension: int = DIMENSION) -> list[bytes]:
    """Bodies that ask for the ten nearest records of a random vector each."""
    return [
        json.dumps(
            {
                "query_embeddings": (numbers.random((1, dimension), dtype=np.float32) - 0.5).tolist(),
                "n_results": 10,
                "include": ["documents", "metadatas", "distances"],
            }
        ).encode()
        for _ in range(count)
    ]
