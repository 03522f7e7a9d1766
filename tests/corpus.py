"""Real text for a test host: the descriptions of all Debian packages installed here, with embeddings made of them.

`write` puts them into two collections through the official client and an SSH tunnel, then updates some and deletes
some; what must be there afterwards goes into a file. `compare` reads everything back and compares it record by
record. `churn` goes on writing, one client per collection, and kills the service meanwhile: a request that was cut off
is sent again until it is acknowledged. No earlier one is, so what they wrote must still be there. `during` writes in the
same way while a command runs, reads as well, and tells how long there was no answer; its exit code is the command's.
"""

import argparse
import json
import math
import random
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import chromadb
import httpx
import numpy as np
from chromadb.api import ClientAPI

from tests.hosts.host import Host

_DIMENSION = 128
_BATCH = 200
# Two thresholds, so that one collection lives in persisted segments and the other one partly in the log.
_COLLECTIONS = {"packages": 1000, "packages-often-persisted": 100}
# Requests of each writer before, between and after kills, and the seconds that they may take.
_REQUESTS = 20
_AWAIT_LIMIT = 180.0
# Seconds between two requests of a writer that must not keep the host from its work
_PAUSE = 0.05
# What clients are told while an upgrade refuses changes
_HELD = "changes are held"

Record = dict[str, Any]
Records = dict[str, dict[str, Record]]


def main() -> int:
    """0 when it worked and everything compared equal, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("verb", choices=("write", "churn", "compare", "during"))
    parser.add_argument("host", help="a test host's name")
    parser.add_argument("file", type=Path, help="where the expected records are kept")
    parser.add_argument("--port", type=int, default=8000, help="of Chroma on the host's loopback")
    parser.add_argument("--kills", type=int, default=3, help="how often churn kills the service")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="for during")
    arguments = parser.parse_args()
    with tunnel(Host(arguments.host), arguments.port) as client:
        if arguments.verb == "write":
            arguments.file.write_text(json.dumps(_write(client)))
            return 0
        if arguments.verb == "churn":
            expected: Records = json.loads(arguments.file.read_text())
            print(_churn(client, expected, Host(arguments.host), arguments.kills), "requests acknowledged")
            arguments.file.write_text(json.dumps(expected))
            return 0
        if arguments.verb == "during":
            expected = json.loads(arguments.file.read_text())
            code, gaps = _during(client, expected, arguments.command)
            arguments.file.write_text(json.dumps(expected))
            print(json.dumps(gaps))
            return code
        wrong = list(_differences(client, json.loads(arguments.file.read_text())))
    print("\n".join(wrong[:20]) or "equal, record by record")
    return 1 if wrong else 0


def _packages() -> dict[str, Record]:
    form = "${Package}\t${Version}\t${binary:Summary}\n"
    listing = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={form}"], capture_output=True, text=True, check=True
    )
    records = {}
    for line in listing.stdout.splitlines():
        name, version, summary = line.split("\t", 2)
        records[name] = {"document": summary, "metadata": {"version": version}, "embedding": _embed(summary)}
    return records


def _embed(text: str) -> list[float]:
    """A unit vector of the text's trigrams, hashed; exact as 32-bit floats."""
    vector = [0.0] * _DIMENSION
    padded = f"  {text.lower()} "
    for start in range(len(padded) - 2):
        vector[zlib.crc32(padded[start : start + 3].encode()) % _DIMENSION] += 1
    length = math.sqrt(sum(value * value for value in vector))
    return [float(value) for value in np.array(vector, dtype=np.float32) / np.float32(length)]


def _write(client: ClientAPI) -> Records:
    expected: Records = {}
    for name, threshold in _COLLECTIONS.items():
        records = _packages()
        collection = client.create_collection(
            name, configuration={"hnsw": {"sync_threshold": threshold}}, embedding_function=None
        )
        for batch in _batches(records):
            collection.add(**_columns(batch))
        changed = {key: _changed(record) for key, record in list(records.items())[::7]}
        for batch in _batches(changed):
            collection.upsert(**_columns(batch))
        gone = list(records)[::11]
        collection.delete(ids=gone)
        records |= changed
        expected[name] = {key: record for key, record in records.items() if key not in gone}
    return expected


def _churn(client: ClientAPI, expected: Records, host: Host, kills: int) -> int:
    """Writes and kills; brings `expected` up to date, gives how many requests were acknowledged."""
    writers = [_Writer(client, name, records) for name, records in expected.items()]
    for writer in writers:
        writer.start()
    try:
        for _ in range(kills):
            _await_requests(writers)
            command = host.ssh_command("sudo", "systemctl", "kill", "--signal=KILL", "chromadb.service")
            subprocess.run(command, check=True)
        _await_requests(writers)
    finally:
        for writer in writers:
            writer.ended.set()
    for writer in writers:
        writer.join()
        if writer.cut_off < kills:
            raise SystemExit(f"the writer of {writer.name} was cut off {writer.cut_off} times by {kills} kills")
    return sum(writer.acknowledged for writer in writers)


def _during(client: ClientAPI, expected: Records, command: list[str]) -> tuple[int, dict[str, float]]:
    """Writes and reads while a command runs; gives its exit code, and the longest times in seconds without an answer."""
    writers = [_Writer(client, name, records, pause=_PAUSE) for name, records in expected.items()]
    reader = _Reader(client, next(iter(expected)))
    threads: list[_Writer | _Reader] = [*writers, reader]
    for thread in threads:
        thread.start()
    try:
        _await_requests(writers)
        code = subprocess.run(command, check=False).returncode
        _await_requests(writers)
    finally:
        for thread in threads:
            thread.ended.set()
    for thread in threads:
        thread.join()
    gaps = {"without_write": max(writer.longest for writer in writers), "without_read": reader.longest}
    return code, {name: round(seconds, 2) for name, seconds in gaps.items()}


def _await_requests(writers: "list[_Writer]") -> None:
    """Waits until each writer has had some more requests acknowledged, so that the service is back and at work."""
    deadline = time.monotonic() + _AWAIT_LIMIT
    for writer in writers:
        goal = writer.acknowledged + _REQUESTS
        while writer.acknowledged < goal:
            if time.monotonic() > deadline or not writer.is_alive():
                raise SystemExit(f"the writer of {writer.name} has got no further")
            time.sleep(0.05)


class _Writer(threading.Thread):
    """Upserts and deletes records of one collection until `ended`; keeps `records` up to date."""

    def __init__(self, client: ClientAPI, name: str, records: dict[str, Record], pause: float = 0.0) -> None:
        """pause: seconds between two requests."""
        super().__init__(name=name, daemon=True)
        self._pause = pause
        self.ended = threading.Event()
        self.acknowledged = self.cut_off = 0
        self.longest = 0.0
        self._collection = client.get_collection(name, embedding_function=None)
        self._records = records

    def run(self) -> None:
        chance = random.Random(self.name)
        while not self.ended.wait(self._pause):
            keys = chance.sample(sorted(self._records), 10)
            if chance.random() < 0.2:
                self._insist(partial(self._collection.delete, ids=keys[:2]))
                for key in keys[:2]:
                    del self._records[key]
            else:
                number = self.acknowledged
                batch = {key: _numbered(key, number) for key in (*keys, f"{self.name}-{number}")}
                self._insist(partial(self._collection.upsert, **_columns(batch)))
                self._records |= batch
            self.acknowledged += 1

    def _insist(self, request: Callable[[], object]) -> None:
        """Sends a request until it is acknowledged."""
        tries = 0
        started = time.monotonic()
        while True:
            try:
                request()
            except Exception as error:
                if not isinstance(error, httpx.TransportError) and _HELD not in str(error):
                    raise
                tries += 1
                time.sleep(0.1)
            else:
                self.cut_off += tries > 0
                self.longest = max(self.longest, time.monotonic() - started)
                return


class _Reader(threading.Thread):
    """Asks for a record again and again until `ended`."""

    def __init__(self, client: ClientAPI, name: str) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.longest = 0.0
        self._collection = client.get_collection(name, embedding_function=None)

    def run(self) -> None:
        answered = time.monotonic()
        while not self.ended.wait(0.05):
            try:
                self._collection.peek(1)
            except httpx.TransportError:
                continue
            self.longest = max(self.longest, time.monotonic() - answered)
            answered = time.monotonic()


def _numbered(text: str, number: int) -> Record:
    document = f"{text} in request {number}"
    return {"document": document, "metadata": {"version": str(number)}, "embedding": _embed(document)}


def _changed(record: Record) -> Record:
    text = f"changed: {record['document']}"
    return {"document": text, "metadata": {"version": "changed"}, "embedding": _embed(text)}


def _batches(records: dict[str, Record]) -> Iterator[dict[str, Record]]:
    keys = list(records)
    for start in range(0, len(keys), _BATCH):
        yield {key: records[key] for key in keys[start : start + _BATCH]}


def _columns(records: dict[str, Record]) -> dict[str, Any]:
    return {
        "ids": list(records),
        "documents": [record["document"] for record in records.values()],
        "metadatas": [record["metadata"] for record in records.values()],
        "embeddings": [record["embedding"] for record in records.values()],
    }


def _differences(client: ClientAPI, expected: Records) -> Iterator[str]:
    found_names = {collection.name for collection in client.list_collections()}
    if found_names != set(expected):
        yield f"collections are {sorted(found_names)}, not {sorted(expected)}"
        return
    for name, records in expected.items():
        collection = client.get_collection(name, embedding_function=None)
        found: Any = collection.get(include=["documents", "metadatas", "embeddings"])
        columns = zip(found["ids"], found["documents"], found["metadatas"], found["embeddings"], strict=True)
        present = {
            key: {
                "document": document,
                "metadata": metadata,
                "embedding": [float(np.float32(value)) for value in embedding],
            }
            for key, document, metadata, embedding in columns
        }
        for key in sorted(records.keys() - present.keys()):
            yield f"{name}: {key} is lost"
        for key in sorted(present.keys() - records.keys()):
            yield f"{name}: {key} has risen from the dead"
        for key in records.keys() & present.keys():
            if records[key] != present[key]:
                yield f"{name}: {key} is {present[key]}, not {records[key]}"
        yield from _lost_in_index(collection, name, records)


def _lost_in_index(collection: chromadb.Collection, name: str, records: dict[str, Record]) -> Iterator[str]:
    """The vector index, too: a sample of records must be found by their own vectors, at no distance.

    The index is approximate: after many updates one in several hundred is hidden behind others, in a service that was
    never killed as well.
    """
    sample = list(records)[::10]
    hidden = []
    for key in sample:
        answer: Any = collection.query(query_embeddings=[records[key]["embedding"]], n_results=1, include=["distances"])
        if not answer["ids"][0] or answer["distances"][0][0] > 1e-5:
            hidden.append(f"{name}: {key} is not found by its vector: {answer}")
    if len(hidden) > len(sample) // 20:
        yield from hidden


@contextmanager
def tunnel(host: Host, port: int) -> Iterator[ClientAPI]:
    """A client of Chroma on a host's loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        local = int(probe.getsockname()[1])
    shell, *rest = host.ssh_command()
    command = [shell, "-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}", *rest]
    with subprocess.Popen(command) as tunnel:
        try:
            yield _connect(local, tunnel)
        finally:
            tunnel.terminate()


def _connect(port: int, tunnel: "subprocess.Popen[bytes]") -> ClientAPI:
    deadline = time.monotonic() + 20
    while True:
        try:
            return chromadb.HttpClient(host="127.0.0.1", port=port)
        except Exception as error:
            if time.monotonic() > deadline or tunnel.poll() is not None:
                raise SystemExit(f"no connection to Chroma on {tunnel.args!r}: {error}") from None
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
