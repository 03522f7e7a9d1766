"""Clients that put Chroma's phrases, log lines, supervisor's words and control characters wherever they may write.

Nothing of it may change a state or end a process, begin a line that looks like ours, or reach a terminal as it is. Run by
`make fuzz`: REQUESTS over all log levels, half of them under a journal.
"""

import http.client
import json
import random
import re
import sys
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.integration.account import AS_ROOT, open_doors, service, until, why_unreachable
from tests.integration.daemon import Daemon
from tests.integration.site import Site

LEVELS = ("debug", "info", "warning", "error")
UNDER_SYSTEMD = {"JOURNAL_STREAM": "8:12345"}
# In all that is written, to know it by
MARK = "zq7"
ALL = ("status", "status --json", "backup", "backups", "backups show latest", "doctor", "verify")
PHRASES = (
    "(code: 13)",
    "database or disk is full",
    "error returned from database: (code: 13) database or disk is full",
    "error: Query error: Database error: error returned from database: (code: 13) database or disk is full",
    "error: Query error: Database error: error returned from database: (code: 1811) writes are fenced: x",
    "response failed, classification: Status code: 500 Internal Server Error, latency: 1 ms",
    "Failed to apply logs to the metadata segment",
    "Failed to apply logs to the hnsw segment writer",
    "Error executing plan: Internal error: Error finding id",
    "Error finding id",
    "Error creating hnsw segment reader: Error loading hnsw index",
    "hnsw",
    "pickle",
    "no such table: tenants",
    "Database error: error returned from database: (code: 1) no such table: tenants",
    "database is locked",
    "disk I/O error",
    "database disk image is malformed",
    "No space left on device",
    "READY=1",
    "STOPPING=1",
    "WATCHDOG=1",
    "STATUS=stopped",
    "WATCHDOG=trigger",
    "MAINPID=1",
    '"error":"InternalError","message":"x"',
    "<0>kernel panic",
    "==========",
    "thread 'main' panicked at src/main.rs:1:",
    "12:34:56 ERROR   the engine exited with status 0",
    "12:34:56 INFO    stopped cleanly",
    "<3>the engine exited with status 0",
    "../../../../etc/passwd",
    "'; DROP TABLE collections; --",
    "[red]x[/red] [/]",
    "%s %d {0} {}",
)
_CONTROLS = (
    "\n",
    "\r",
    "\r\n",
    "\t",
    "\0",
    "\a",
    "\b",
    "\x0b",
    "\x0c",
    "\x1b[31m",
    "\x1b]0;title\a",
    "\x1b[2J\x1b[H",
    "\x1bc",
    "\x7f",
    "\x85",
    "\x9b31m",
    "\u2028",
    "\u2029",
    "\u202e",
    "\u2066",
    "\ufeff",
    "\U000e0041",
)
_FORGED = "\n  2026-01-02T03:04:05.123456Z ERROR  {}\n    at rust/log/src/log.rs:173\n\n"


class Client:
    """Sends what no official client would. statuses: how often it was answered so."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self.statuses: dict[int, int] = {}
        self._port = port
        self._chance = chance
        self._tenants = ["default_tenant"]
        self._places = [("default_tenant", "default_database")]
        self._collections: list[tuple[str, str, str, str]] = []
        self._begin()

    def _begin(self) -> None:
        """Somewhere to write to, with a tenant whose name has a bit of everything."""
        tenant = f"{MARK} hnsw pickle (code: 13) {''.join(_CONTROLS)} {self._chance.random()}"
        self._insist("tenants", tenant)
        self._insist(f"tenants/{_quote(tenant)}/databases", f"{MARK}-pickle")
        self._places.append((tenant, f"{MARK}-pickle"))
        for tenant, database in self._places:
            for _ in range(2):
                self._make(tenant, database, {"name": self.name()})

    def _insist(self, path: str, name: str) -> None:
        # Some headers are refused.
        assert any(self.send("POST", path, {"name": name}) == 200 for _ in range(20)), f"{path}: {self.statuses}"

    # What is said

    def text(self) -> str:
        """Phrases and control characters, seldom very long."""
        chance = self._chance
        parts = [MARK]
        for _ in range(chance.randint(1, 3)):
            phrase = chance.choice(PHRASES)
            parts.append(_FORGED.format(phrase) if chance.random() < 0.3 else phrase)
            if chance.random() < 0.6:
                parts.append(chance.choice(_CONTROLS))
        if chance.random() < 0.01:
            parts.append("x" * 200_000)
        if chance.random() < 0.03:
            parts.append("\ud800")
        return "".join(parts)

    def name(self) -> str:
        """What is let through as the name of a collection or a database, and looks like the phrases all the same."""
        words = ("hnsw", "pickle", "READY", "code-13", "no-such-table", "disk-full", "Error-finding-id")
        return f"{MARK}-{self._chance.choice(words)}-{self._chance.randrange(10_000)}"

    def either(self) -> str:
        return self.name() if self._chance.random() < 0.4 else self.text()

    def value(self) -> Any:
        chance = self._chance
        kinds: list[Callable[[], Any]] = [
            self.text,
            lambda: chance.randrange(100),
            chance.random,
            lambda: True,
            lambda: None,
            lambda: [self.text(), self.text()],
            lambda: {"#type": "sparse_vector", "indices": [1], "values": [1.0]},
            lambda: {self.text(): self.text()},
        ]
        return chance.choice(kinds)()

    def metadata(self) -> dict[str, Any]:
        return {self.text(): self.value() for _ in range(self._chance.randint(1, 3))}

    def where(self) -> dict[str, Any]:
        operator = self._chance.choice(("$eq", "$ne", "$gt", "$in", "$nin", "$contains", "$regex", self.text()))
        value = [self.text()] if operator in ("$in", "$nin") else self.text()
        return {self.text(): {operator: value}}

    def where_document(self) -> dict[str, Any]:
        return {self._chance.choice(("$contains", "$not_contains", "$regex", self.text())): self.text()}

    # What is asked

    def ask(self) -> None:
        """One request."""
        kinds = (
            self._tenant,
            self._database,
            self._collection,
            *[self._write] * 4,
            *[self._read] * 4,
            self._delete,
            self._change,
            self._anywhere,
            self._malformed,
        )
        self._chance.choice(kinds)()

    def _tenant(self) -> None:
        name = self.either()
        if self._chance.random() < 0.5:
            self.send("GET", f"tenants/{_quote(name)}")
        elif self.send("POST", "tenants", {"name": name}) == 200:
            self._tenants.append(name)

    def _database(self) -> None:
        tenant, name = self._chance.choice(self._tenants), self.either()
        path = f"tenants/{_quote(tenant)}/databases"
        if self._chance.random() < 0.3:
            self.send("GET", f"{path}/{_quote(name)}")
        elif self.send("POST", path, {"name": name}) == 200:
            self._places.append((tenant, name))

    def _collection(self) -> None:
        tenant, database = self._chance.choice(self._places)
        name = self.either()
        path = f"tenants/{_quote(tenant)}/databases/{_quote(database)}/collections"
        if self._chance.random() < 0.3:
            self.send("GET", f"{path}/{_quote(name)}")
            return
        body: dict[str, Any] = {"name": name}
        if self._chance.random() < 0.5:
            body["metadata"] = self.metadata()
        if self._chance.random() < 0.2:
            body["configuration"] = {"hnsw": {"space": self.text()}}
        self._make(tenant, database, body)

    def _make(self, tenant: str, database: str, body: dict[str, Any]) -> None:
        path = f"tenants/{_quote(tenant)}/databases/{_quote(database)}/collections"
        answer: list[Any] = []
        if self.send("POST", path, body, answer) == 200:
            self._collections.append((tenant, database, str(answer[0]["id"]), str(body["name"])))

    def _records(self, path: str, body: dict[str, Any]) -> int:
        if not self._collections or self._chance.random() < 0.1:
            uuid = self.text() if self._chance.random() < 0.5 else "00000000-0000-4000-8000-000000000000"
            tenant, database = self._chance.choice(self._places)
        else:
            tenant, database, uuid, _ = self._chance.choice(self._collections)
        place = f"tenants/{_quote(tenant)}/databases/{_quote(database)}/collections/{_quote(uuid)}"
        return self.send("POST", f"{place}/{path}", body)

    def _write(self) -> None:
        count = self._chance.randint(1, 4)
        dimension = 2 if self._chance.random() < 0.95 else 3
        body: dict[str, Any] = {
            "ids": [self.text() for _ in range(count)],
            "embeddings": [[self._chance.random() for _ in range(dimension)] for _ in range(count)],
            "documents": [self.text() for _ in range(count)],
        }
        if self._chance.random() < 0.6:
            # Metadata that is let through: else nothing would be written
            body["metadatas"] = [{self.text(): self.text(), "tags": [self.text()]} for _ in range(count)]
        elif self._chance.random() < 0.7:
            body["metadatas"] = [self.metadata() for _ in range(count)]
        self._records(self._chance.choice(("add", "upsert", "upsert", "update")), body)

    def _read(self) -> None:
        body: dict[str, Any] = {
            "include": self._chance.choice((["embeddings"], ["documents", "metadatas"], [self.text()]))
        }
        if self._chance.random() < 0.4:
            body["ids"] = [self.text()]
        if self._chance.random() < 0.5:
            body["where"] = self.where()
        if self._chance.random() < 0.5:
            body["where_document"] = self.where_document()
        if self._chance.random() < 0.5:
            self._records("get", body)
        else:
            vector = [0.5] * self._chance.choice((2, 2, 2, 3))
            self._records("query", {**body, "query_embeddings": [vector], "n_results": 3})

    def _delete(self) -> None:
        if self._chance.random() < 0.7:
            which = self._chance.choice(({"ids": [self.text()]}, {"where": self.where()}))
            self._records("delete", which)
        elif self._collections and self._chance.random() < 0.5:
            tenant, database, _, name = self._collections.pop(self._chance.randrange(len(self._collections)))
            place = f"tenants/{_quote(tenant)}/databases/{_quote(database)}/collections"
            self.send("DELETE", f"{place}/{_quote(name)}")
        else:
            self.send("DELETE", f"tenants/default_tenant/databases/{_quote(self.text())}")

    def _change(self) -> None:
        if not self._collections:
            return
        number = self._chance.randrange(len(self._collections))
        tenant, database, uuid, _ = self._collections[number]
        place = f"tenants/{_quote(tenant)}/databases/{_quote(database)}/collections/{uuid}"
        name = self.either()
        if self.send("PUT", place, {"new_name": name, "new_metadata": self.metadata()}) == 200:
            self._collections[number] = (tenant, database, uuid, name)

    def _anywhere(self) -> None:
        method = self._chance.choice(("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"))
        self.send(method, f"{_quote(self.text())}?{_quote(self.text())}={_quote(self.text())}", {"x": self.text()})

    def _malformed(self) -> None:
        text = self.text().encode("utf-8", "surrogatepass")
        body = self._chance.choice((text, b'{"name": "' + text + b'"}', b'{"name": ' + text, b"\xff\xfe" + text))
        self.raw("POST", "tenants", body, [])

    # How it is sent

    def send(self, method: str, path: str, body: Any = None, answer: list[Any] | None = None) -> int:
        """The status. answer: gets the decoded body."""
        content = b"" if body is None else json.dumps(body).encode()
        return self.raw(method, path, content, [] if answer is None else answer)

    def raw(self, method: str, path: str, body: bytes, answer: list[Any]) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self._chance.random() < 0.2:
            name = self._chance.choice(
                ("User-Agent", "X-Chroma-Token", "Traceparent", "Authorization", "X-Forwarded-For")
            )
            headers[name] = _header(self.text())
        try:
            connection.request(method, f"/api/v2/{path}", body, headers)
            response = connection.getresponse()
            status, said = response.status, response.read()
        except (http.client.HTTPException, ConnectionResetError, BrokenPipeError):
            # A request that is too much for a header, or none that HTTP knows
            status, said = 0, b""
        finally:
            connection.close()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        try:
            answer.append(json.loads(said))
        except ValueError:
            answer.append(None)
        return status


def _quote(text: str) -> str:
    return quote(text[:2000].encode("utf-8", "surrogatepass"), safe="")


def _header(text: str) -> str:
    return "".join(letter for letter in text[:1000] if letter not in "\r\n\0" and ord(letter) < 256)


def controls(text: str) -> set[str]:
    """Characters that a terminal would take for more than text."""
    return {
        letter for letter in text if letter != "\n" and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }


class Fuzz:
    """A site under fire; `findings` says what was wrong."""

    def __init__(self, site: Site, seed: int) -> None:
        self.findings: list[str] = []
        self.statuses: dict[int, int] = {}
        self._site = site
        self._seed = seed

    def run(
        self, level: str, requests: int, environment: dict[str, str] | None = None, *, verbs: tuple[str, ...] = ALL
    ) -> None:
        """One run of the daemon at a log level, to its clean stop. verbs: of chromactl, whose output is read."""
        self._site.configure({"log_level": level})
        daemon = self._site.serve(environment)
        before = self._state(daemon)
        client = Client(self._site.port, random.Random(f"{self._seed} {level} {requests}"))
        for number in range(requests):
            try:
                client.ask()
            except OSError as error:
                self.findings.append(f"{level}: request {number}: {error!r}")
                break
        for status, count in client.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        if daemon.process.poll() is None:
            self._check(f"{level}: state", self._state(daemon) == before, f"{before} became {self._state(daemon)}")
            self._outputs(level, verbs)
            daemon.stop()
        else:
            self.findings.append(f"{level}: the daemon has ended with {daemon.process.returncode}")
        self._lines(level, daemon, under_systemd=bool(environment))

    def _state(self, daemon: Daemon) -> dict[str, Any]:
        status = daemon.status()
        kept = ("state", "recovered", "quarantined", "fences", "cold", "pid", "engine_pid", "last_stop")
        state = {key: status[key] for key in kept}
        state |= {"disk": status["disk"]["level"], "checkpoint": status["checkpoint"]["error"]}
        state |= {"engine": daemon.engine_pid, "quarantine": sorted(map(str, self._site.quarantine.iterdir()))}
        # The engine answers reads.
        until(lambda: daemon.notify.lines, "a word to systemd", 10)
        return state

    def _check(self, what: str, good: bool, otherwise: object) -> None:
        if not good:
            self.findings.append(f"{what}: {str(otherwise)[:1000]!r}")

    def _outputs(self, level: str, verbs: tuple[str, ...]) -> None:
        """What people and machines are shown."""
        site = self._site
        site.make_repository()
        for verb in verbs:
            words = verb.split()
            text = site.chromactl(*words).output
            self._check(f"{level}: chromactl {verb}", not controls(text), sorted(map(ascii, controls(text))))
            self._check(f"{level}: chromactl {verb}", "Traceback" not in text, text)
        for path in ("metrics", "", "readyz", "livez", "status.json"):
            connection = http.client.HTTPConnection("127.0.0.1", site.metrics_port, timeout=30)
            connection.request("GET", f"/{path}")
            text = connection.getresponse().read().decode()
            connection.close()
            self._check(f"{level}: /{path}", not controls(text), sorted(map(ascii, controls(text))))

    def _lines(self, level: str, daemon: Daemon, *, under_systemd: bool) -> None:
        form = r"<[3-7]>" if under_systemd else r"\d\d:\d\d:\d\d (DEBUG  |INFO   |WARNING|ERROR  ) "
        whose = re.compile(form + r"(engine: |  |warming |left cold|backup: |checkpoint: )")
        for line in daemon.log.split("\n")[:-1]:
            self._check(f"{level}: log", not controls(line), line)
            continued = line.startswith("  ") and not under_systemd
            self._check(f"{level}: log", continued or bool(re.match(form, line)), line)
            if MARK in line:
                self._check(f"{level}: log, forged", continued or bool(whose.match(line)), line)
        known = re.compile(r"(READY=1|STOPPING=1|WATCHDOG=1|EXTEND_TIMEOUT_USEC=\d+|STATUS=.*)")
        for line in daemon.notify.lines:
            self._check(f"{level}: notify", bool(known.fullmatch(line)) and not controls(line), line)
        self._check(f"{level}: READY=1", daemon.notify.lines.count("READY=1") == 1, daemon.notify.lines)
        self._check(f"{level}: Traceback", "Traceback" not in daemon.log, "Traceback")


def main() -> int:
    """Arguments: --requests N --seed N."""
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    requests, seed = int(arguments.get("--requests", "5000")), int(arguments.get("--seed", "1"))
    if AS_ROOT and why_unreachable(service()):
        open_doors()
    site = Site()
    try:
        fuzz = Fuzz(site, seed)
        for number, level in enumerate(LEVELS):
            fuzz.run(level, requests // len(LEVELS), UNDER_SYSTEMD if number % 2 else None)
            print(f"{level}: {len(fuzz.findings)} findings so far", flush=True)
        # All that was written comes up again.
        fuzz.run("info", 0)
    finally:
        site.remove()
    answered = ", ".join(f"{status}: {count}" for status, count in sorted(fuzz.statuses.items()))
    print(f"{sum(fuzz.statuses.values())} requests ({answered}), {len(fuzz.findings)} findings")
    for finding in fuzz.findings[:50]:
        print(f"  {finding}")
    return 1 if fuzz.findings else 0


if __name__ == "__main__":
    sys.exit(main())
