"""The engine's own SQL: what it logs of itself when a request is served."""

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.client import Client
from tests.bench.servers import Stock

_LINE = re.compile(r'summary: ("(?:[^"\\]|\\.)*"), db\.statement: ("(?:[^"\\]|\\.)*")')
_ESCAPED = re.compile(r"\\(.)")
# Where it reads the log for the first time, or purges it, is no matter of the request.
_QUIET = 0.05  # seconds
_RECORDS = 5

# By a name, metadata filters of every kind that Chroma knows
FILTERS: dict[str, Any] = {
    "integer": {"n": 1},
    "float": {"f": 1.5},
    "string": {"s": "s1"},
    "boolean": {"b": True},
    "greater": {"n": {"$gt": 2}},
    "range": {"$and": [{"n": {"$gte": 1}}, {"n": {"$lt": 3}}]},
    "integers": {"n": {"$in": [1, 2, 3]}},
    "strings": {"s": {"$in": ["s1", "s2"]}},
    "and": {"$and": [{"n": 1}, {"s": "s1"}]},
    "or": {"$or": [{"n": 1}, {"s": "s1"}]},
    "not": {"n": {"$ne": 1}},
    "none of": {"s": {"$nin": ["s1"]}},
    "list": {"l": {"$contains": "x"}},
    "list of booleans": {"lb": {"$contains": True}},
}
DOCUMENTS: dict[str, Any] = {
    "contains": {"$contains": "number 3"},
    "contains not": {"$not_contains": "number 3"},
    "pattern": {"$regex": "num.er"},
}


class Engine(Stock):
    """`chroma run` that tells of each statement."""

    name = "told"

    def _command(self) -> list[str]:
        words = ["chroma", "run", "--path", str(self.data), "--host", "127.0.0.1", "--port", str(self.port)]
        return [sys.executable, "-I", "-c", f"import chromadb_rust_bindings; chromadb_rust_bindings.cli({words!r})"]

    def _environment(self) -> Mapping[str, str]:
        return {"RUST_LOG": "error,sqlx=debug", "NO_COLOR": "1"}

    @property
    def log(self) -> Path:
        """What it has said so far."""
        return self.root / f"{self.name}.log"


def statements(root: Path) -> dict[str, list[str]]:
    """The statements of every route, by what was asked for. root: an empty directory."""
    found: dict[str, list[str]] = {}
    with Engine(root) as engine:
        client = Client(engine.port)

        def ask(what: str, method: str, path: str, /, **body: Any) -> Any:
            begin = os.path.getsize(engine.log)
            answer = client.send(method, path, json.dumps(body).encode() if body else None)
            found[what] = _said(engine.log, begin)
            return json.loads(answer or "null")

        place = "/" + ask("create", "POST", "", name="some", metadata={"purpose": "test"})["id"]
        records = [_record(number) for number in range(_RECORDS)]
        ask("add", "POST", f"{place}/add", **records[0])
        for record in records:
            ask("upsert", "POST", f"{place}/upsert", **record)
        ask("update", "POST", f"{place}/update", **records[1])
        for name, where in FILTERS.items():
            ask(f"get {name}", "POST", f"{place}/get", where=where)
            ask(f"query {name}", "POST", f"{place}/query", where=where, query_embeddings=[[1.0, 2.0]], n_results=1)
        for name, where in DOCUMENTS.items():
            ask(f"get {name}", "POST", f"{place}/get", where_document=where, limit=2)
        ask("get ids", "POST", f"{place}/get", ids=["id-1", "id-2"])
        ask("get some", "POST", f"{place}/get", limit=2)
        ask("get all", "POST", f"{place}/get", include=[])
        ask("query", "POST", f"{place}/query", query_embeddings=[[1.0, 2.0]], n_results=2)
        ask("count", "GET", f"{place}/count")
        ask("delete by filter", "POST", f"{place}/delete", where={"n": 1})
        ask("delete by ids", "POST", f"{place}/delete", ids=["id-2"])
        ask("list", "GET", "?limit=10&offset=0")
        ask("how many", "GET", "_count")
        ask("find", "GET", "/some")
        ask("rename", "PUT", place, new_name="other")
        ask("drop", "DELETE", "/other")
    return found


def _record(number: int) -> dict[str, Any]:
    metadata = {"n": number, "f": number + 0.5, "s": f"s{number}", "b": number % 2 == 0, "l": ["x", "y"], "lb": [True]}
    return {
        "ids": [f"id-{number}"],
        "embeddings": [[1.0, float(number)]],
        "metadatas": [metadata],
        "documents": [f"number {number}"],
    }


def _said(log: Path, begin: int) -> list[str]:
    """What was logged after so many bytes."""
    size = -1
    while size != (size := os.path.getsize(log)):
        time.sleep(_QUIET)
    text = log.read_bytes()[begin:].decode()
    # A short statement is its own summary.
    return [" ".join((_plain(whole) or _plain(summary)).split()) for summary, whole in _LINE.findall(text)]


def _plain(quoted: str) -> str:
    """A string as Rust prints it for a developer, as it was."""
    return _ESCAPED.sub(lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), quoted[1:-1])
