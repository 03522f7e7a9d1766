"""Clients that make, rename, fill, empty and delete collections, databases and tenants all the time."""

import base64
import http.client
import json
import random
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

DIMENSION = 8
_DEFAULT = ("default_tenant", "default_database")
_COLLECTIONS = 6  # of each client
_COMMON = 12  # names that all clients share
_TRIES = 50


@dataclass(frozen=True)
class Failure:
    """A request that failed. since: when it was sent (time.monotonic). status: of HTTP, 0 for none."""

    since: float
    what: str
    status: int
    text: str

    @property
    def locked(self) -> bool:
        """A transaction that had read before it wrote met another one, as stock Chroma has it among its own clients."""
        return "database is locked" in self.text


@dataclass
class Own:
    """A collection that one client alone changes. id: its own. records: by their ids, vectors."""

    id: str
    name: str
    place: tuple[str, str]
    records: dict[str, tuple[float, ...]] = field(default_factory=dict)


class Gone(Exception):
    """The service did not answer: nobody knows whether it has done what it was asked for."""


class Refused(Exception):
    """The service has answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class Api:
    """Requests, each over a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port

    def send(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            connection.request(method, f"/api/v2/{path}", None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise Gone(repr(error)) from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise Refused(answer.status, text[:300])
        return json.loads(text) if text else None


class DdlClient(threading.Thread):
    """One client. failures: of its requests. counts: requests that were answered, by kind.

    serving: set while the service is to answer; where it was not, requests may end without an answer.
    """

    def __init__(self, port: int, number: int, pause: float, serving: threading.Event) -> None:
        super().__init__(daemon=True)
        self.failures: list[Failure] = []
        self.counts: Counter[str] = Counter()
        self.own: list[Own] = []
        self.error: Exception | None = None
        self._api = Api(port)
        self._number = number
        self._pause = pause
        self._serving = serving
        self._random = random.Random(number)
        self._ended = threading.Event()
        self._turn = threading.Lock()
        self._serial = 0
        self._places = [_DEFAULT]

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def settle(self) -> threading.Lock:
        """Held, it keeps the client between two of its requests."""
        return self._turn

    def run(self) -> None:
        steps = [self._create, self._fill, self._fill, self._fill, self._rename, self._empty, self._drop]
        steps += [self._common, self._common, self._database, self._tenant]
        while not self._ended.wait(self._random.expovariate(1 / self._pause)):
            self._serving.wait()
            with self._turn:
                try:
                    self._random.choice(steps)()
                except Gone:
                    # The next one is sent when the service is there again.
                    time.sleep(0.05)
                except Exception as error:
                    self.error = error
                    return

    def wrong(self) -> list[str]:
        """What is not there of what was acknowledged; to be called when it has been stopped."""
        return [problem for own in self.own for problem in self._compare(own)]

    def _compare(self, own: Own) -> list[str]:
        try:
            found = self._api.send("POST", f"{_path(own.place)}/{own.id}/get", {"include": ["embeddings"]})
            named = self._api.send("GET", f"{_path(own.place)}/{own.name}")["id"]
        except (Refused, Gone) as error:
            return [f"{own.name} with {len(own.records)} records cannot be read: {error}"]
        there = dict(zip(found["ids"], map(tuple, found["embeddings"] or []), strict=True))
        problems = [] if named == own.id else [f"{own.name} is another collection"]
        if there != own.records:
            changed = [key for key in there.keys() & own.records.keys() if there[key] != own.records[key]]
            lost, more = own.records.keys() - there.keys(), there.keys() - own.records.keys()
            problems.append(
                f"{own.name}: {len(lost)} records are lost, {len(more)} came back, {len(changed)} of {len(there)} differ"
            )
            problems += [f"{key} is {there[key]}, not {own.records[key]}" for key in changed[:1]]
        return problems

    # What it does

    def _create(self) -> None:
        if len(self.own) >= _COLLECTIONS:
            self._drop()
            return
        name, place = self._fresh(), self._random.choice(self._places)
        threshold = self._random.choice((10, 20, 50))
        hnsw = {"sync_threshold": threshold, "batch_size": min(10, threshold)}
        body = {"name": name, "configuration": {"hnsw": hnsw}}
        made = self._ask("create", "POST", _path(place), body)
        if made:
            self.own.append(Own(made["id"], name, place))

    def _fill(self) -> None:
        if own := self._some():
            count = self._random.randrange(1, 60)
            keys = {f"{own.name}-{self._random.randrange(200)}" for _ in range(count)}
            records = {key: self._vector() for key in keys}
            if self._write(own, "upsert", _upsert(records)):
                own.records |= records

    def _rename(self) -> None:
        if own := self._some():
            name = self._fresh()
            if self._write(own, "rename", {"new_name": name}):
                own.name = name

    def _empty(self) -> None:
        own = self._some()
        if own and own.records and self._write(own, "delete", {"ids": list(own.records)}):
            own.records.clear()

    def _drop(self) -> None:
        if own := self._some():
            # Whatever comes of it, it is not looked at any more.
            self.own.remove(own)
            self._ask("drop", "DELETE", f"{_path(own.place)}/{own.name}")

    def _common(self) -> None:
        """Something with a collection that others may rename or delete at the same time."""
        name = f"common-{self._random.randrange(_COMMON)}"
        # 412: Chroma reads the collection, then its segments, which another client has deleted in between.
        there = (400, 404, 409, 412)
        made = self._ask("common", "POST", _path(_DEFAULT), {"name": name, "get_or_create": True}, there)
        if not made:
            return
        path = f"{_path(_DEFAULT)}/{made['id']}"
        records = {f"{self._number}-{self._random.randrange(100)}": self._vector() for _ in range(30)}
        kind = self._random.randrange(5)
        if kind <= 1:
            self._ask("common", "POST", f"{path}/upsert", _upsert(records), there)
        elif kind == 2:
            self._ask("common", "POST", f"{path}/delete", {"ids": list(records)}, there)
        elif kind == 3:
            other = f"common-{self._random.randrange(_COMMON)}"
            # A name that is taken is refused by SQLite's own constraint.
            self._ask("common", "PUT", path, {"new_name": other}, (*there, 500))
        else:
            self._ask("common", "DELETE", f"{_path(_DEFAULT)}/{name}", None, there)

    def _database(self) -> None:
        tenant = self._random.choice(self._places)[0]
        if len(self._places) < 4:
            name = self._fresh()
            if self._ask("database", "POST", f"tenants/{tenant}/databases", {"name": name}) is not None:
                self._places.append((tenant, name))
            return
        place = self._random.choice(self._places[1:])
        self._places.remove(place)
        self.own = [own for own in self.own if own.place != place]
        self._ask("database", "DELETE", f"tenants/{place[0]}/databases/{place[1]}")

    def _tenant(self) -> None:
        # Tenants cannot be deleted.
        if self._random.random() < 0.1:
            name = self._fresh()
            self._ask("tenant", "POST", "tenants", {"name": name})
            if self._ask("database", "POST", f"tenants/{name}/databases", {"name": f"{name}-db"}) is not None:
                self._places.append((name, f"{name}-db"))

    def _write(self, own: Own, verb: str, body: dict[str, Any]) -> bool:
        """Whether it was acknowledged; a collection of which nobody knows is not looked at any more."""
        path = f"{_path(own.place)}/{own.id}"
        method, path = ("PUT", path) if verb == "rename" else ("POST", f"{path}/{verb}")
        try:
            return self._ask(verb, method, path, body) is not None
        except Gone:
            self.own.remove(own)
            raise

    def _ask(self, kind: str, method: str, path: str, body: object = None, allowed: tuple[int, ...] = ()) -> Any:
        """The answer, None for one that was refused; tried again where the database was locked."""
        for _ in range(_TRIES):
            since = time.monotonic()
            try:
                answer = self._api.send(method, path, body)
            except Refused as error:
                failure = Failure(since, kind, error.status, error.text)
                if error.status not in allowed or failure.locked:
                    self.failures.append(failure)
                if failure.locked and not self._ended.is_set():
                    time.sleep(0.02)
                    continue
                return None
            except Gone as error:
                if self._serving.is_set():
                    self.failures.append(Failure(since, kind, 0, str(error)))
                raise
            self.counts[kind] += 1
            return {} if answer is None else answer
        return None

    def _some(self) -> Own | None:
        return self._random.choice(self.own) if self.own else None

    def _fresh(self) -> str:
        self._serial += 1
        return f"client-{self._number}-{self._serial}"

    def _vector(self) -> tuple[float, ...]:
        # Few digits: they come back in as many as 32 bits need.
        return tuple(self._random.randrange(-64, 64) / 16 for _ in range(DIMENSION))


def _path(place: tuple[str, str]) -> str:
    return f"tenants/{place[0]}/databases/{place[1]}/collections"


def _upsert(records: dict[str, tuple[float, ...]]) -> dict[str, Any]:
    return {
        "ids": list(records),
        "embeddings": [base64.b64encode(struct.pack(f"<{DIMENSION}f", *each)).decode() for each in records.values()],
        "documents": [f"document of {key}" for key in records],
        "metadatas": [{"key": key} for key in records],
    }
