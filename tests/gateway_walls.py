"""Two tenants at the gateway of a host while a command moves what they have: each sees its own, as it has to be, and nothing of the other's.

python -m tests.gateway_walls HOST MODE -- COMMAND. MODE says what is there afterwards:

- kept: what was there before, and each write that was answered.
- back: what a backup has, after which collections were made, renamed, deleted and made anew.
- emptied: the same, after all collections were deleted.

While COMMAND runs, no request may get anything but its answer or 503 with Retry-After, and none may take longer than the gateway lets wait.
"""

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT

from tests.gateway_host import PORT, GatewayHost
from tests.integration.account import until

_DATABASE = "main"
_DIMENSION = 16
# What each tenant has that is looked at, and what becomes of it after a backup
_KEPT, _RENAMED, _DELETED, _ANEW = "kept", "renamed", "deleted", "anew"
_NAMES = (_KEPT, _RENAMED, _DELETED, _ANEW)
# Seconds that a request may take: those of chromadb_gateway_wait and some more
_LONGEST = 70.0
# A 404 is one as well when an id is gone.
_UNKNOWN = 404
_AWAY = 503


def new_token(host: GatewayHost, name: str, options: str) -> str:
    """In the place of the one that an earlier run has left."""
    host.sudo(f"chromactl token revoke {name} >/dev/null 2>&1 || true")
    return host.sudo(f"chromactl token add {name} {options}").strip()


def client_of(host: GatewayHost, token: str) -> httpx.Client:
    """To be closed."""
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(headers=headers, verify=str(host.certificate), timeout=_LONGEST, trust_env=False)


class Tenant:
    """What one token reaches."""

    def __init__(self, host: GatewayHost, name: str) -> None:
        self.name = name
        self.token = new_token(host, f"wall-{name}", f"--role rw --tenant {name}")
        self._host = host
        self._base = f"https://{host.address}:{PORT}/api/v2/tenants"

    def client(self) -> httpx.Client:
        """Of this tenant's token, to be closed."""
        return client_of(self._host, self.token)

    def url(self, path: str) -> str:
        """Of something in its database."""
        return f"{self._base}/{self.name}/databases/{_DATABASE}/collections{path}"


@dataclass
class View:
    """What a tenant has: names of collections by id, records by id."""

    names: dict[str, str] = field(default_factory=dict)
    records: dict[str, set[str]] = field(default_factory=dict)


def done(response: httpx.Response) -> Any:
    """What a request that has to work gives."""
    if not response.is_success:
        raise SystemExit(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")
    return response.json()


def make(client: httpx.Client, tenant: Tenant, name: str) -> str:
    """A new collection with one record, by the record's id the collection's name; gives its id."""
    made = str(done(client.post(tenant.url(""), json={"name": name}))["id"])
    write(client, tenant, made, f"{tenant.name}-{name}")
    return made


def write(client: httpx.Client, tenant: Tenant, collection: str, record: str) -> httpx.Response:
    """Upserts one record."""
    body = {"ids": [record], "embeddings": [[random.random() for _ in range(_DIMENSION)]], "documents": [record]}
    return client.post(tenant.url(f"/{collection}/upsert"), json=body)


def seen(client: httpx.Client, tenant: Tenant) -> View:
    """All that a tenant sees."""
    view = View()
    for collection in done(client.get(tenant.url(""))):
        identifier = str(collection["id"])
        view.names[identifier] = str(collection["name"])
        answer = done(client.post(tenant.url(f"/{identifier}/get"), json={"include": []}))
        view.records[identifier] = set(answer["ids"])
    return view


class Watcher(threading.Thread):
    """Asks for a tenant's own collections and for another's until it is ended."""

    def __init__(self, tenant: Tenant, own: list[str], other: list[str]) -> None:
        super().__init__(daemon=True)
        self.tenant = tenant
        self.own = own
        self.other = other
        self.wrong: list[str] = []
        self.answers: Counter[int] = Counter()
        self.longest = 0.0
        # By collection, those that were answered
        self.written: dict[str, set[str]] = {identifier: set() for identifier in own}
        self.ended = threading.Event()

    def run(self) -> None:
        number = 0
        with self.tenant.client() as client:
            while not self.ended.wait(0.02):
                try:
                    for identifier in self.own:
                        number += 1
                        self._write(client, identifier, f"{self.tenant.name}-{number}")
                        self._ask(client, identifier)
                    for identifier in self.other:
                        self._try(client, identifier)
                    self._list(client)
                except httpx.HTTPError as error:
                    self.wrong.append(f"{self.tenant.name}: {error!r}")

    def _count(self, started: float, response: httpx.Response, *expected: int) -> bool:
        """Whether it was answered."""
        self.longest = max(self.longest, time.monotonic() - started)
        self.answers[response.status_code] += 1
        if response.status_code == _AWAY and "retry-after" in response.headers:
            return False
        if response.status_code not in expected:
            request = f"{response.request.method} {response.request.url.path}"
            self.wrong.append(f"{self.tenant.name}: {request}: {response.status_code} {response.text[:200]}")
        return response.is_success

    def _write(self, client: httpx.Client, identifier: str, record: str) -> None:
        started = time.monotonic()
        # After a restore it may be gone.
        if self._count(started, write(client, self.tenant, identifier, record), 200, _UNKNOWN):
            self.written[identifier].add(record)

    def _ask(self, client: httpx.Client, identifier: str) -> None:
        started = time.monotonic()
        response = client.post(self.tenant.url(f"/{identifier}/get"), json={"include": [], "limit": 5})
        if self._count(started, response, 200, _UNKNOWN):
            self._are_own(response.json()["ids"])

    def _try(self, client: httpx.Client, identifier: str) -> None:
        started = time.monotonic()
        self._count(started, client.post(self.tenant.url(f"/{identifier}/get"), json={"include": []}), _UNKNOWN)
        started = time.monotonic()
        self._count(started, client.get(self.tenant.url(f"/by-id/{identifier}")), _UNKNOWN)

    def _list(self, client: httpx.Client) -> None:
        started = time.monotonic()
        response = client.get(self.tenant.url(""))
        if self._count(started, response, 200):
            foreign = [each for each in response.json() if each["tenant"] != self.tenant.name]
            self.wrong += [f"{self.tenant.name} sees {each}" for each in foreign]

    def _are_own(self, records: list[str]) -> None:
        self.wrong += [f"{self.tenant.name} sees {each}" for each in records if not each.startswith(self.tenant.name)]


def prepare(host: GatewayHost, admin: httpx.Client) -> list[Tenant]:
    """Two tenants with a database, without collections."""
    tenants = [Tenant(host, name) for name in ("north", "south")]
    base = f"https://{host.address}:{PORT}/api/v2/tenants"
    for tenant in tenants:
        # They may be there from an earlier run.
        admin.post(base, json={"name": tenant.name})
        admin.post(f"{base}/{tenant.name}/databases", json={"name": _DATABASE})
        empty(admin, tenant)
    return tenants


def empty(client: httpx.Client, tenant: Tenant) -> None:
    """Deletes all collections of a tenant."""
    for collection in done(client.get(tenant.url(""))):
        done(client.delete(tenant.url(f"/{collection['name']}")))


def empty_all(host: GatewayHost, admin: httpx.Client) -> None:
    """Deletes the collections that others have left."""
    for each in json.loads(host.sudo("chromactl --json status"))["largest"]:
        *place, name = each["name"].split("/")
        tenant, database = place or (DEFAULT_TENANT, DEFAULT_DATABASE)
        path = f"tenants/{tenant}/databases/{database}/collections/{name}"
        done(admin.delete(f"https://{host.address}:{PORT}/api/v2/{path}"))


def _since(tenant: Tenant) -> str:
    """A record that was written after the backup."""
    return f"{tenant.name}-since"


def change(client: httpx.Client, tenant: Tenant, ids: dict[str, str]) -> None:
    """What a restore takes back: a name is given to another one, one goes, one is made anew, and one comes."""
    done(client.put(tenant.url(f"/{ids[_RENAMED]}"), json={"new_name": "renamed-since"}))
    done(client.delete(tenant.url(f"/{_DELETED}")))
    done(client.delete(tenant.url(f"/{_ANEW}")))
    for name in (_ANEW, _RENAMED, "since"):
        make(client, tenant, name)
    done(write(client, tenant, ids[_KEPT], _since(tenant)))


def compare(client: httpx.Client, tenant: Tenant, expected: View, gone: set[str], other: View) -> None:
    """Raises SystemExit when a tenant does not see what is expected, or anything of what is gone or another's.

    There may be more records than the expected ones, of requests that were not answered, or were after a restore.
    """
    view = seen(client, tenant)
    if view.names != expected.names:
        raise SystemExit(f"{tenant.name} sees {view.names}, not {expected.names}")
    for identifier, records in expected.records.items():
        there = view.records[identifier]
        if lost := records - there:
            raise SystemExit(f"{tenant.name}/{expected.names[identifier]}: {len(lost)} are lost: {sorted(lost)[:5]}")
        if wrong := [each for each in there if not each.startswith(tenant.name) or each == _since(tenant)]:
            raise SystemExit(f"{tenant.name}/{expected.names[identifier]} has {wrong[:5]}")
    for identifier in (gone | set(other.names)) - set(expected.names):
        for response in (
            client.post(tenant.url(f"/{identifier}/get"), json={"include": []}),
            client.get(tenant.url(f"/by-id/{identifier}")),
            write(client, tenant, identifier, "planted"),
            client.put(tenant.url(f"/{identifier}"), json={"new_name": "taken"}),
        ):
            if response.status_code != _UNKNOWN:
                raise SystemExit(f"{tenant.name}: {response.request.url.path}: {response.status_code} {response.text}")


def main() -> int:
    """0 when both tenants have seen what they had to."""
    parser = argparse.ArgumentParser(prog="python -m tests.gateway_walls", description=__doc__)
    parser.add_argument("host")
    parser.add_argument("mode", choices=("kept", "back", "emptied"))
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    arguments = parser.parse_args()
    host = GatewayHost(arguments.host)
    with ExitStack() as stack:
        admin = stack.enter_context(client_of(host, new_token(host, "wall", "--role admin")))
        tenants = prepare(host, admin)
        clients = [stack.enter_context(tenant.client()) for tenant in tenants]
        ids = [
            {name: make(client, tenant, name) for name in _NAMES}
            for client, tenant in zip(clients, tenants, strict=True)
        ]
        expected = [seen(client, tenant) for client, tenant in zip(clients, tenants, strict=True)]
        if arguments.mode != "kept":
            host.sudo("chromactl --json backup")
            for client, tenant, each in zip(clients, tenants, ids, strict=True):
                change(client, tenant, each)
                if arguments.mode == "emptied":
                    empty(client, tenant)
            if arguments.mode == "emptied":
                empty_all(host, admin)
        before = [seen(client, tenant) for client, tenant in zip(clients, tenants, strict=True)]
        all_of = [list({**now.names, **then.names}) for now, then in zip(before, expected, strict=True)]
        watchers = [Watcher(tenant, *ids) for tenant, ids in zip(tenants, (all_of, all_of[::-1]), strict=True)]
        run(watchers, arguments.command)
        for number, (client, tenant) in enumerate(zip(clients, tenants, strict=True)):
            if arguments.mode == "kept":
                for identifier, records in watchers[number].written.items():
                    expected[number].records[identifier] |= records
            compare(
                client,
                tenant,
                expected[number],
                set(before[number].names),
                expected[1 - number],
            )
            empty(client, tenant)
    for name in ("wall", *(f"wall-{tenant.name}" for tenant in tenants)):
        host.sudo(f"chromactl token revoke {name}")
    return 0


def run(watchers: list[Watcher], command: list[str]) -> None:
    """Runs a command while watchers ask. Raises SystemExit with what one of them has seen, or when the command fails."""
    for watcher in watchers:
        watcher.start()

    def each_has(more: int) -> None:
        goal = [sum(watcher.answers.values()) + more for watcher in watchers]
        until(
            lambda: all(
                sum(watcher.answers.values()) >= wanted for watcher, wanted in zip(watchers, goal, strict=True)
            ),
            f"{more} more answers to each tenant",
            120,
        )

    each_has(40)
    started = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    seconds = time.monotonic() - started
    each_has(40)
    for watcher in watchers:
        watcher.ended.set()
    for watcher in watchers:
        watcher.join(_LONGEST + 10)
    longest = max(watcher.longest for watcher in watchers)
    answers = {status: sum(watcher.answers[status] for watcher in watchers) for status in (200, 201, _UNKNOWN, _AWAY)}
    print(json.dumps({"seconds": round(seconds, 1), "longest": round(longest, 1), "answers": answers}), flush=True)
    if wrong := [each for watcher in watchers for each in watcher.wrong]:
        raise SystemExit("\n".join([f"{len(wrong)} answers are wrong:", *wrong[:10]]))
    if longest > _LONGEST - 5:
        raise SystemExit(f"a request took {longest:.1f} s")
    if code:
        raise SystemExit(f"{command[0]} ended with {code}")


if __name__ == "__main__":
    sys.exit(main())
