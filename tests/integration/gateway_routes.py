"""The routes that the gateway lets through, as its Lua file has them, and requests that go through them."""

import re
from dataclasses import dataclass

from tests.integration.gateway import ROLE

PREFIX = "/api/v2"
ROLES = ("metrics", "ro", "rw", "admin")
UNKNOWN = "11111111-1111-4111-8111-111111111111"

_LINE = re.compile(r'^  { "([A-Z]+)", (.+?), "(any|ro|rw|admin|metrics)"(.*) },$', re.MULTILINE)
_QUERY = re.compile(r"query = { (.*?) }")


@dataclass(frozen=True)
class Route:
    """right: the least role; metrics: that one alone. query: the parameters that it knows. more: what else the table says."""

    method: str
    path: str
    right: str
    query: frozenset[str]
    more: str

    def __str__(self) -> str:
        return f"{self.method} {self.path.removeprefix(PREFIX)}"

    @property
    def shape(self) -> tuple[str, str]:
        """Method and path, whatever the places are called."""
        return self.method, shape(self.path)

    def permits(self, role: str) -> bool:
        if self.right == "metrics":
            return role == "metrics"
        return self.right == "any" or ROLES.index(role) >= ROLES.index(self.right)

    def filled(self, tenant: str, database: str, collection: str = UNKNOWN, name: str = "some") -> str:
        """A path of it. collection: an id."""
        places = {"tenant": tenant, "database": database, "id": collection, "name": name, "function": "nightly"}
        return re.sub(r"{(\w+)}", lambda match: places[match[1]], self.path)


def shape(path: str) -> str:
    return re.sub(r"{\w+}", "{}", path)


def read() -> list[Route]:
    """Those of the engine."""
    return [route for route in table() if route.right != "metrics"]


def telemetry() -> list[Route]:
    """Those of metrics and page."""
    return [route for route in table() if route.right == "metrics"]


def table() -> list[Route]:
    """All that there are."""
    text = (ROLE / "files/gateway.lua").read_text(encoding="utf-8")
    prefixes = dict(re.findall(r"^local (DATABASE|COLLECTION) = (.+)$", text, re.MULTILINE))

    def path(expression: str) -> str:
        parts = [part.strip() for part in expression.split("..")]
        return "".join(part.strip('"') if part.startswith('"') else path(prefixes[part]) for part in parts)

    found = []
    for method, expression, right, more in _LINE.findall(text):
        query = _QUERY.search(more)
        names = frozenset(re.findall(r"(\w+) = true", query[1])) if query else frozenset()
        found.append(Route(method, path(expression), right, names, more))
    lines = text.split("local ROUTES = {")[1].split("\n}")[0]
    assert len(found) == len(re.findall(r'{ "[A-Z]+"', lines)) > 30
    return found


def body(route: Route) -> object:
    """What the engine takes for it; None where there is no body."""
    last = route.path.rpartition("/")[2]
    if route.method not in ("POST", "PUT", "PATCH") or last == "reset":
        return None
    vectors = {"ids": ["1"], "embeddings": [[1.0, 2.0, 3.0]]}
    return {
        "tenants": {"name": "another"},
        "databases": {"name": "another"},
        "collections": {"name": "another", "get_or_create": True},
        "{tenant}": {"resource_name": "another"},
        "{id}": {"new_name": "renamed"},
        "add": vectors,
        "upsert": vectors,
        "update": vectors,
        "delete": {"ids": ["none"]},
        "get": {},
        "query": {"query_embeddings": [[1.0, 2.0, 3.0]]},
        "search": {"searches": []},
        "fork": {"new_name": "forked"},
        "attach": {"name": "nightly", "function_id": "record_counter", "output_collection": "out", "params": {}},
        "detach": {"delete_output": False},
    }[last]
