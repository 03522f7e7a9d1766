"""Runs on a test host: makes a collection with a checkpoint, and one that is deleted; says where their segments are."""

import json
import random
import subprocess
import sys
import urllib.request
from pathlib import Path

_COLLECTIONS = "http://127.0.0.1:8000/api/v2/tenants/default_tenant/databases/default_database/collections"
_DIMENSION, _BATCH, _BATCHES = 1024, 200, 6


def main() -> None:
    home = Path(sys.argv[1])
    before = _segments(home)
    _make("quarantined", _BATCHES)
    [segment] = _segments(home) - before
    _make("orphan", 1)
    [orphan] = _segments(home) - before - {segment}
    inode = (home / "data" / orphan).stat().st_ino
    _request("DELETE", f"{_COLLECTIONS}/orphan")
    subprocess.run(["chromactl", "checkpoint"], check=True, stdout=subprocess.DEVNULL)
    [moved] = (home / "quarantine").glob(f"{orphan}-orphan-*")
    print(json.dumps({"segment": segment, "orphan": moved.name, "orphan_inode": inode}))


def _make(name: str, batches: int) -> None:
    configuration = {"hnsw": {"sync_threshold": _BATCH, "batch_size": _BATCH // 2}}
    made = json.loads(_request("POST", _COLLECTIONS, {"name": name, "configuration": configuration}))
    for batch in range(batches):
        ids = [f"{batch}-{number}" for number in range(_BATCH)]
        vectors = [[round(random.uniform(-1, 1), 3) for _ in range(_DIMENSION)] for _ in ids]
        _request("POST", f"{_COLLECTIONS}/{made['id']}/add", {"ids": ids, "embeddings": vectors})


def _segments(home: Path) -> set[str]:
    return {path.parent.name for path in (home / "data").glob("*/index_metadata.pickle")}


def _request(method: str, url: str, body: object = None) -> bytes:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request) as answer:
        found: bytes = answer.read()
    return found


if __name__ == "__main__":
    main()
