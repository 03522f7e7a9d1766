"""Real Chroma releases of former times, in environments of their own that are kept in the tests' cache."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.account import BIN

_CACHE = Path("/var/cache/chromad-test/chromadb")

# One of each layout. By their files 0.5.23 is as 0.6.3, and 1.1.1, 1.2.2, 1.3.7 and 1.4.1 are as 1.0.20, but for one migration.
VERSIONS = ["0.4.24", "0.6.3", "1.0.20", "1.5.9"]
# What a release needs beside what it asks for
_PINS = {"0.4.24": ["numpy<2"]}

# Writes with the client inside the process, tells what it has acknowledged, and at the end what it can read.
_WRITER = """
import json, random, sys
import chromadb
from chromadb.config import Settings
path, mode = sys.argv[1:]
client = chromadb.PersistentClient(path, settings=Settings(anonymized_telemetry=False))
numbers = random.Random(mode)
vector = lambda size: [numbers.uniform(-1, 1) for _ in range(size)]
def add(collection, ids, size, prefix):
    collection.add(ids=ids, embeddings=[vector(size) for _ in ids], documents=[f"{prefix} {each}" for each in ids],
                   metadatas=[{"number": place, "half": place / 2, "text": "ä"} for place, _ in enumerate(ids)])
def read(name):
    found = client.get_collection(name).get(include=["embeddings", "documents", "metadatas"])
    rows = zip(found["ids"], found["embeddings"], found["documents"], found["metadatas"])
    return {each: [list(map(float, vector)), document, metadata] for each, vector, document, metadata in rows}
if mode == "kill":
    collection = client.create_collection("killed", metadata={"hnsw:sync_threshold": 400, "hnsw:batch_size": 50})
    for start in range(0, 20000, 100):
        ids = [f"k{number}" for number in range(start, start + 100)]
        add(collection, ids, 64, "killed")
        print(json.dumps(ids), flush=True)
else:
    for name, space, threshold in (("plain", None, None), ("cosine", "cosine", 50), ("inner", "ip", 50)):
        metadata = {"kind": name} | ({"hnsw:space": space} if space else {})
        if threshold:
            metadata |= {"hnsw:sync_threshold": threshold, "hnsw:batch_size": 10}
        collection = client.create_collection(name, metadata=metadata)
        for start in range(0, 180, 20):
            add(collection, [f"{name}-{number}" for number in range(start, start + 20)], 8, "text")
        collection.update(ids=[f"{name}-3"], embeddings=[vector(8)], documents=["new text"])
        collection.upsert(ids=[f"{name}-4", "more"], embeddings=[vector(8), vector(8)], documents=["up", "more"])
        collection.delete(ids=[f"{name}-5", f"{name}-100"])
    client.create_collection("empty", metadata={"a": 1})
    print(json.dumps({name: read(name) for name in ("plain", "cosine", "inner", "empty")}))
"""

Model = dict[str, dict[str, list[Any]]]


def python(version: str) -> Path:
    """An interpreter that has this release; the tests' own for the one that is pinned."""
    if version == "1.5.9":
        return BIN / "python"
    home = _CACHE / version
    if not (home / "complete").exists():
        try:
            _CACHE.mkdir(parents=True, exist_ok=True)
        except PermissionError:
            pytest.skip(f"no cache in {_CACHE} for chromadb {version}; run the tests as root once")
        shutil.rmtree(home, ignore_errors=True)
        uv = BIN / "uv"
        subprocess.run((uv, "--quiet", "venv", "--python", BIN / "python", home), check=True)
        subprocess.run(
            (
                uv,
                "--quiet",
                "pip",
                "install",
                "--python",
                home / "bin/python",
                f"chromadb=={version}",
                *_PINS.get(version, []),
            ),
            check=True,
        )
        (home / "complete").touch()
    return home / "bin/python"


def write(version: str, path: Path) -> Model:
    """Fills a directory; gives what the release reads from it: by collection and id, vector, document and metadata."""
    done = subprocess.run([python(version), "-c", _WRITER, path, "all"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: Model = json.loads(done.stdout.splitlines()[-1])
    return found


def write_until_killed(version: str, path: Path, persists: int) -> list[str]:
    """Kills a writer as soon as it has begun a persist; gives the ids that it had acknowledged.

    persists: how many are let pass before.
    """
    argv: list[str | Path] = [python(version), "-c", _WRITER, path, "kill"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    seen, last = 0, 0
    while process.poll() is None:
        try:
            now = next(path.glob("*/header.bin")).stat().st_mtime_ns
        except (StopIteration, FileNotFoundError):
            continue
        if now != last:
            seen, last = seen + 1, now
        if seen > persists:
            process.kill()
    lines = process.stdout.read().splitlines()
    process.stdout.close()
    process.wait()
    return [each for line in lines if line.endswith("]") for each in json.loads(line)]
