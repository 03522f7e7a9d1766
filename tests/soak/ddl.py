"""A soak of every verb beside clients that make, rename, fill, empty and delete collections, databases and tenants.

No request may fail that the verb is to blame for, no thread of the daemon may fail, no backup may be called unproven, and
all that was acknowledged must be there. What fails without any verb is told apart by a phase at first in which none runs.
"""

import argparse
import json
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.integration.site import Result, Site

from .ddl_clients import Api, DdlClient, Failure

_CLIENTS = 5
_ANCHOR = "anchor"
_SHOWN = 60
# By what a fence says to clients
_FENCED = "writes are fenced"


@dataclass
class Seen:
    """verbs: what ran when, and how long. wrong: whatever must not be."""

    verbs: list[tuple[str, float, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


class Soak:
    """One service, its clients, and the verbs in turn."""

    def __init__(self, site: Site, pause: float) -> None:
        self.site = site
        self.seen = Seen()
        self.serving = threading.Event()
        self.serving.set()
        self._calm = self._doctor()
        self.api = Api(site.port)
        path = "tenants/default_tenant/databases/default_database/collections"
        self.anchor = self.api.send("POST", path, {"name": _ANCHOR})["id"]
        self._write_anchor()
        self.clients = [DdlClient(site.port, number, pause, self.serving) for number in range(_CLIENTS)]

    def verbs(self) -> list[Callable[[], None]]:
        """All of them, in the order in which they run."""
        return [
            self._checkpoint,
            self._backup,
            self._look_at_backups,
            self._deep,
            self._compact,
            self._fence,
            self._restore_target,
            self._restore_collection,
            self._at,
            self._small_ones,
            self._verify,
            self._restart,
            self._backup,
            self._checkpoint,
        ]

    def run(self, verb: Callable[[], None]) -> None:
        name = verb.__name__.lstrip("_")
        begin = time.monotonic()
        verb()
        self.seen.verbs.append((name, begin, time.monotonic()))
        self.look(f"after {name}")
        print(f"{name}: {time.monotonic() - begin:.1f} s, {len(self.seen.wrong)} wrong", file=sys.stderr, flush=True)

    def look(self, when: str) -> None:
        """At what the daemon says of itself."""
        for client in self.clients:
            if client.error:
                self._wrong(f"{when}: a client has ended: {client.error!r}")
        status = self.site.daemon.status()
        failing = {name: problem for name, problem in status["threads"].items() if problem}
        if failing:
            self._wrong(f"{when}: threads fail: {failing}")
        if status["checkpoint"]["error"]:
            self._wrong(f"{when}: checkpoints fail: {status['checkpoint']['error']}")
        if status["quarantined"] or status["backup"]["problem"] or status["backup"]["drill_problem"]:
            self._wrong(f"{when}: {status['quarantined']} {status['backup']}")

    # The verbs

    def _checkpoint(self) -> None:
        self._call("checkpoint", "--json")

    def _backup(self) -> None:
        self._write_anchor()
        found = self._call("backup", "--json").json()
        if not found.get("proven", True):
            self._wrong(f"a backup is not proven: {found}")

    def _verify(self) -> None:
        self._call("verify", "--json")

    def _look_at_backups(self) -> None:
        self._call("backups", "--json")
        self._call("backups", "show", "latest")

    def _deep(self) -> None:
        new = self._doctor("--deep") - self._calm
        if new:
            self._wrong(f"doctor --deep: {sorted(new)}")

    def _compact(self) -> None:
        self._call("compact", "--json")

    def _fence(self) -> None:
        self._call("fence", "--reason", "soak")
        time.sleep(1)
        self._call("unfence")

    def _restore_target(self) -> None:
        target = self.site.root / "target"
        self._call("restore", "latest", "--target", str(target))
        shutil.rmtree(target, ignore_errors=True)

    def _restore_collection(self) -> None:
        self._call("restore", "latest", "--collection", _ANCHOR, "--into", "anchor-restored")
        path = "tenants/default_tenant/databases/default_database/collections"
        found = self.api.send("GET", f"{path}/anchor-restored")["id"]
        if self.api.send("GET", f"{path}/{found}/count") < 50:
            self._wrong("restore --collection: records are missing")
        self.api.send("DELETE", f"{path}/anchor-restored")

    def _at(self) -> None:
        moment = (datetime.now(UTC) - timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
        # Clients delete what was written last, so that the log often cannot be joined: that is said, and needs the permission.
        self._call("restore", "--at", moment, "--inexact", "--dry-run", "--stop")

    def _small_ones(self) -> None:
        self._call("status")
        self._call("status", "--json")
        self._call("config", "validate")

    def _restart(self) -> None:
        """What `verify-persistence` does, without systemd; and `repair`, for which the service has to be stopped."""
        self._write_anchor()
        with self._away():
            self.site.daemon.stop()
            self._call("repair")
            self.site.serve()
        path = f"tenants/default_tenant/databases/default_database/collections/{self.anchor}"
        if self.api.send("GET", f"{path}/count") < 50:
            self._wrong("the restart has lost records")

    def restore_latest(self) -> None:
        """Without clients, at the end: what they have written since is not in it."""
        self.site.daemon.stop()
        self._call("restore", "latest")
        self.site.serve()
        path = f"tenants/default_tenant/databases/default_database/collections/{self.anchor}"
        if self.api.send("GET", f"{path}/count") < 50:
            self._wrong("restore latest: records are missing")
        self.site.daemon.stop()

    # Helpers

    @contextmanager
    def _away(self) -> Iterator[None]:
        """For the time in which the service does not serve; no request is sent meanwhile."""
        self.serving.clear()
        locks = [client.settle() for client in self.clients]
        for lock in locks:
            lock.acquire()
        try:
            yield
        finally:
            self.serving.set()
            for lock in locks:
                lock.release()

    def _call(self, *words: str) -> Result:
        result = self.site.chromactl(*words)
        if result.code:
            self._wrong(f"chromactl {' '.join(words)} ended with {result.code}: {result.output[-1500:]}")
        if "Traceback" in result.output:
            self._wrong(f"chromactl {' '.join(words)}: a traceback: {result.output[-3000:]}")
        return result

    def _doctor(self, *words: str) -> set[str]:
        result = self.site.chromactl("doctor", "--json", *words)
        return {f"{each['name']}: {each['fact']}" for each in result.json() if each["status"] == "fail"}

    def _write_anchor(self) -> None:
        records = {f"anchor-{number}": [number / 64, time.time() % 64] for number in range(50)}
        body = {"ids": list(records), "embeddings": list(records.values())}
        self.api.send(
            "POST", f"tenants/default_tenant/databases/default_database/collections/{self.anchor}/upsert", body
        )

    def _wrong(self, text: str) -> None:
        print(f"WRONG: {text}", file=sys.stderr, flush=True)
        self.seen.wrong.append(text)


def main() -> int:
    """0 when nothing was wrong, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.ddl", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long the verbs run in turn")
    parser.add_argument("--calm", type=float, default=1.0, help="minutes without any verb at first")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two steps of a client, on average")
    arguments = parser.parse_args()
    site = Site()
    # So that cycles meet all that the verbs do
    site.configure({"checkpoint.interval": "5s"})
    site.make_repository()
    site.serve()
    try:
        result, wrong = _soak(site, arguments)
    finally:
        site.remove()
    print(json.dumps(result, indent=1))
    print("\n".join(wrong[:_SHOWN]) or "every verb and every request went well, and all that was acknowledged is there")
    return 1 if wrong else 0


def _soak(site: Site, arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    soak = Soak(site, arguments.pause)
    began = time.monotonic()
    for client in soak.clients:
        client.start()
    time.sleep(60 * arguments.calm)
    calm = time.monotonic()
    rounds = 0
    while time.monotonic() < calm + 60 * arguments.minutes:
        for verb in soak.verbs():
            soak.run(verb)
        rounds += 1
        if len(soak.seen.wrong) > _SHOWN:
            break
    ended = time.monotonic()
    for client in soak.clients:
        client.stop()
    wrong = soak.seen.wrong
    wrong += [problem for client in soak.clients for problem in client.wrong()]
    collections = sum(len(client.own) for client in soak.clients)
    failures = [failure for client in soak.clients for failure in client.failures]
    wrong += _blamed(failures, calm, soak.seen.verbs)
    requests = sum(client.counts.total() for client in soak.clients)
    locked = [failure for failure in failures if failure.locked]
    soak.restore_latest()
    log = site.daemon.log
    wrong += [line for line in log.splitlines() if "Traceback" in line][:5]
    return {
        "rounds": rounds,
        "verbs": len(soak.seen.verbs),
        "requests": requests,
        "collections_compared": collections,
        "locked_a_minute_in_the_calm": _rate(locked, began, calm),
        "locked_a_minute_beside_verbs": _rate(locked, calm, ended),
        "other_failures": dict(
            Counter(f"{each.what} {each.status} {each.text[:90]}" for each in failures if not each.locked)
        ),
    }, wrong


def _rate(failures: list[Failure], begin: float, end: float) -> float:
    return round(60 * sum(begin <= each.since < end for each in failures) / (end - begin), 1)


def _blamed(failures: list[Failure], calm: float, verbs: list[tuple[str, float, float]]) -> list[str]:
    """Failures that have no other cause than a verb: of a kind that did not occur without any."""
    known = {(each.what, each.status, each.text[:60]) for each in failures if each.since < calm}
    wrong = []
    for each in failures:
        running = [name for name, begin, end in verbs if begin - 1 <= each.since <= end]
        if each.locked and each.what in ("upsert", "delete"):
            wrong.append(f"{each.what} beside {running}: {each.text}")
        elif each.locked or (each.what, each.status, each.text[:60]) in known:
            continue
        elif not (_FENCED in each.text and "fence" in running):
            wrong.append(f"{each.what} beside {running} was answered with {each.status}: {each.text}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
