"""The engine's HTTP API (Chroma v2), as much of it as the daemon and chromactl need."""

import http.client
import json
import math
from typing import Any
from urllib.parse import quote

from chromad import documents
from chromad.config import Listen
from chromad.engine import texts, ways
from chromad.engine.ways import Connect
from chromad.errors import EngineError, NotFound, one_line

DEFAULT_TENANT = "default_tenant"
DEFAULT_DATABASE = "default_database"
_LONG = 600.0  # seconds, for what may load a large collection


def encoded(body: object) -> bytes:
    """What is sent of a JSON document. Text as it is: escaped it would take up to three times as much, and the engine has a
    limit."""
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")


class Api:
    """One connection per request: nothing is kept open that a stopping engine would wait for."""

    def __init__(self, way: Listen | Connect) -> None:
        """way: to the engine; a port that can be reached from here, or what gives connections."""
        self._connect = ways.at_port(way) if isinstance(way, Listen) else way

    def request(self, method: str, path: str, body: object = None, timeout: float = 30.0) -> Any:
        """Sends a request and gives the decoded JSON answer.

        path: below /api/v2. timeout: seconds for each network step. Raises EngineError with what the engine
        said, and OSError when it cannot be reached in time.
        """
        connection = _Connection(self._connect, timeout)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        try:
            connection.request(method, f"/api/v2/{path}", None if body is None else encoded(body), headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise EngineError(f"the engine gave no valid HTTP answer to {method} {path}: {error!r}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(response.status, f"{method} {path}", text)
        try:
            return documents.parse(text) if text else None
        except ValueError:
            raise EngineError(f"the engine's answer to {method} {path} is not JSON: {text[:200]!r}") from None

    def heartbeat(self) -> None:
        """Returns when the engine answers at all."""
        self.request("GET", "heartbeat", timeout=1.0)

    def read_probe(self, timeout: float) -> None:
        """Returns when the engine answered a read that goes through to SQLite."""
        self.request("GET", f"tenants/{DEFAULT_TENANT}", timeout=timeout)

    def count(self, tenant: str, database: str, collection: str) -> int:
        """The records of a collection, given by its id. The first touch of a collection replays its log."""
        path = f"{_database(tenant, database)}/collections/{collection}/count"
        return int(self.request("GET", path, timeout=_LONG))

    def query(self, tenant: str, database: str, collection: str, vector: list[float], timeout: float) -> Any:
        """The ten nearest records of a collection, given by its id, with all that a client asks for by default."""
        body = {"query_embeddings": [vector], "n_results": 10, "include": ["documents", "metadatas", "distances"]}
        return self.request("POST", f"{_database(tenant, database)}/collections/{collection}/query", body, timeout)

    def vectors(self, tenant: str, database: str, collection: str, ids: list[str]) -> dict[str, list[float]]:
        """The vectors of records of a collection, given by its id, from the vector segment."""
        path = f"{_database(tenant, database)}/collections/{collection}/get"
        found = self.request("POST", path, {"ids": ids, "include": ["embeddings"]})
        return dict(zip(found["ids"], found["embeddings"], strict=True))

    def records(
        self, tenant: str, database: str, collection: str, body: dict[str, Any], *, vectors: bool = True
    ) -> list[dict[str, Any]]:
        """Records of a collection, given by its id, with all that they hold: id, embedding, document, uri, metadata.

        body: which ones, as the engine's `get` takes it. vectors: False gives None for each embedding.
        """
        path = f"{_database(tenant, database)}/collections/{collection}/get"
        include = ["embeddings", "documents", "metadatas", "uris"]
        asked = include if vectors else include[1:]
        found = self.request("POST", path, {**body, "include": asked}, timeout=_LONG)
        columns = (found[name] or [None] * len(found["ids"]) for name in include)
        names = ("id", "embedding", "document", "metadata", "uri")
        records = [dict(zip(names, row, strict=True)) for row in zip(found["ids"], *columns, strict=True)]
        for record in records:
            if None in (record["embedding"] or []):
                # What is no number in JSON: a cosine collection cannot keep vectors whose length is out of range.
                record["embedding"] = [math.nan if each is None else each for each in record["embedding"]]
        return records

    def nearest(
        self, tenant: str, database: str, collection: str, vectors: list[list[float]], count: int
    ) -> list[tuple[list[str], list[float]]]:
        """For each vector the ids of the nearest records, the nearest first, and their distances; NaN stands for one that is
        out of the range of 32 bits, of which JSON says nothing."""
        path = f"{_database(tenant, database)}/collections/{collection}/query"
        body = {"query_embeddings": vectors, "n_results": count, "include": ["distances"]}
        found = self.request("POST", path, body, timeout=_LONG)
        distances = [[math.nan if each is None else each for each in row] for row in found["distances"]]
        return list(zip(found["ids"], distances, strict=True))

    def collection(self, tenant: str, database: str, name: str) -> dict[str, Any] | None:
        """What the engine says of a collection, given by its name; None when there is none."""
        path = f"{_database(tenant, database)}/collections/{quote(name, safe='')}"
        try:
            found: dict[str, Any] = self.request("GET", path)
        except NotFound:
            return None
        return found

    def find_database(self, tenant: str, database: str) -> None:
        """Raises NotFound when there is no such database, or no such tenant."""
        self.request("GET", _database(tenant, database))

    def collection_names(self, tenant: str, database: str) -> list[str]:
        """The names of all collections of a database. Raises NotFound when there is no such database."""
        return [str(each["name"]) for each in self.request("GET", f"{_database(tenant, database)}/collections")]

    def post(self, tenant: str, database: str, path: str, body: dict[str, Any]) -> Any:
        """Sends a request below `collections`; gives the answer."""
        return self.request("POST", f"{_database(tenant, database)}/collections{path}", body, timeout=_LONG)

    def create_collection(self, name: str) -> str:
        """Makes a collection in the default database and gives its id."""
        path = f"{_database(DEFAULT_TENANT, DEFAULT_DATABASE)}/collections"
        return str(self.request("POST", path, {"name": name})["id"])

    def add(self, collection: str, record: dict[str, Any]) -> None:
        """Adds one record (id, embedding, document, metadata) to a collection of the default database."""
        body = {
            "ids": [record["id"]],
            "embeddings": [record["embedding"]],
            "documents": [record["document"]],
            "metadatas": [record["metadata"]],
        }
        self.request("POST", f"{_database(DEFAULT_TENANT, DEFAULT_DATABASE)}/collections/{collection}/add", body)

    def get(self, collection: str, record_id: str) -> dict[str, Any] | None:
        """One record of a collection of the default database, in the form that `add` takes; None when it is not there."""
        body = {"ids": [record_id], "include": ["embeddings", "documents", "metadatas"]}
        path = f"{_database(DEFAULT_TENANT, DEFAULT_DATABASE)}/collections/{collection}/get"
        found = self.request("POST", path, body)
        if not found["ids"]:
            return None
        return {
            "id": found["ids"][0],
            "embedding": found["embeddings"][0],
            "document": found["documents"][0],
            "metadata": found["metadatas"][0],
        }

    def rename(self, tenant: str, database: str, collection: str, name: str) -> None:
        """Gives a collection, known by its id, another name."""
        self.request("PUT", f"{_database(tenant, database)}/collections/{collection}", {"new_name": name})

    def delete_collection(self, name: str, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE) -> None:
        """Deletes a collection, given by its name."""
        self.request("DELETE", f"{_database(tenant, database)}/collections/{quote(name, safe='')}")


class _Connection(http.client.HTTPConnection):
    """A connection that somebody else makes."""

    def __init__(self, connect: Connect, timeout: float) -> None:
        super().__init__("localhost")
        self._made_by, self._limit = connect, timeout

    def connect(self) -> None:
        self.sock = self._made_by(self._limit)


def _refusal(status: int, request: str, text: str) -> EngineError:
    """The error that an answer of 400 and more stands for. text: its body."""
    said = f"the engine answered {status} to {one_line(request, 500)}: {one_line(text, 500)}"
    return texts.kind(status, text)(said, status=status)


def _database(tenant: str, database: str) -> str:
    return f"tenants/{quote(tenant, safe='')}/databases/{quote(database, safe='')}"
