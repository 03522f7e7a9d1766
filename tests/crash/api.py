"""Chroma's HTTP API over one kept connection, without the weight of the official client."""

import http.client
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tests.crash.model import Recipe, Record

_BASE = "/api/v2/tenants/default_tenant/databases/default_database/collections"
_PAGE = 2000

# Seconds in which the server has to answer.
TIMEOUT = 15.0

# What a request raises when the server goes away.
GONE = (OSError, http.client.HTTPException)


class Refused(Exception):
    """The server answered, with an error."""


@dataclass(frozen=True)
class Answer:
    status: int
    text: bytes


class Connection:
    """Not for several threads."""

    def __init__(self, port: int, timeout: float = TIMEOUT) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def close(self) -> None:
        self._connection.close()

    def post(self, path: str, body: object) -> Answer:
        """Sends to a path below the collections. Raises what is in GONE."""
        self._connection.request("POST", _BASE + path, orjson.dumps(body), {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        return Answer(response.status, response.read())

    def ask(self, path: str, body: object) -> Any:
        """As `post`, for an answer in JSON. Raises Refused."""
        answer = self.post(path, body)
        if answer.status >= 300:
            raise Refused(f"{answer.status} to {path}: {answer.text[:500].decode(errors='replace')}")
        return orjson.loads(answer.text)

    def create(self, recipe: Recipe) -> str:
        """Makes a collection and gives its id."""
        hnsw = {"sync_threshold": recipe.threshold}
        body = {"name": recipe.name, "metadata": {"of": recipe.name}, "configuration": {"hnsw": hnsw}}
        return str(self.ask("", body)["id"])

    def collections(self) -> dict[str, Any]:
        """All collections by name, with all that is known of each: id, metadata, configuration. Raises as `ask`."""
        self._connection.request("GET", _BASE)
        response = self._connection.getresponse()
        text = response.read()
        if response.status >= 300:
            raise Refused(f"{response.status} to the list of collections: {text[:500].decode(errors='replace')}")
        return {each["name"]: each for each in orjson.loads(text)}

    def read(self, collection: str) -> dict[str, Record]:
        """All records of a collection, with the vectors of its index."""
        records: dict[str, Record] = {}
        while True:
            body = {"limit": _PAGE, "offset": len(records), "include": ["embeddings", "documents", "metadatas", "uris"]}
            found = self.ask(f"/{collection}/get", body)
            vectors = np.array(found["embeddings"], dtype=np.float32)
            rows = zip(found["ids"], vectors, found["documents"], found["metadatas"], found["uris"], strict=True)
            for key, vector, document, metadata, uri in rows:
                records[key] = Record(vector.tobytes(), document, metadata, uri)
            if len(found["ids"]) < _PAGE:
                return records

    def nearest(self, collection: str, vectors: list[bytes], results: int) -> list[list[str]]:
        """For each vector the ids of the records that the index holds nearest."""
        numbers = [np.frombuffer(vector, dtype=np.float32).tolist() for vector in vectors]
        body = {"query_embeddings": numbers, "n_results": results, "include": []}
        found: list[list[str]] = self.ask(f"/{collection}/query", body)["ids"]
        return found


def heartbeat(port: int) -> bool:
    """Whether the server answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/api/v2/heartbeat")
        return connection.getresponse().status == 200
    except GONE:
        return False
    finally:
        connection.close()
