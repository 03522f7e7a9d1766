"""A second engine on copies: what it reads must be what the writers have written."""

import json
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path

import numpy as np
from chromad.chroma import sqlite

from tests.bench.client import Client, Refused
from tests.bench.servers import Chromad, Stock

from .model import Record, State
from .writer import Window

_SAMPLE = 10


def copy(server: Chromad, target: Path) -> None:
    """Copies each segment's checkpoint, then the live database with the log, which is to be replayed from there."""
    target.mkdir(parents=True)
    seq_ids: dict[str, int] = {}
    for path in server.checkpoints.glob("[!.]*/*"):
        shutil.copytree(path, target / path.parent.name, ignore=shutil.ignore_patterns("checkpoint.json"))
        seq_ids[path.parent.name] = json.loads((path / "checkpoint.json").read_bytes())["seq_id"]
    with (
        closing(sqlite3.connect(server.data / sqlite.FILE)) as live,
        closing(sqlite3.connect(target / sqlite.FILE, isolation_level=None)) as other,
    ):
        live.execute("BEGIN")
        live.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        live.backup(other)
        other.execute("PRAGMA journal_mode = DELETE")
        segments = [collection.segment for collection in sqlite.read_collections(other)]
        sqlite.set_seq_ids(other, {segment: seq_ids.get(segment) for segment in segments})


@dataclass
class Result:
    """records: that were compared. wrong: what differs. set_back: records whose vector Chroma itself has set back, crash or
    not, by applying its log a second time (see tests/crash/model.py)."""

    records: int = 0
    wrong: list[str] = field(default_factory=list)
    set_back: set[str] = field(default_factory=set)


def differences(root: Path, windows: Mapping[str, Sequence[Window]]) -> Result:
    """Opens the copy in `root`/data and compares. windows: by collection."""
    result = Result()
    with Stock(root) as server:
        client = Client(server.port)
        for collection, parts in windows.items():
            try:
                found = _read(client, collection)
                count = client.count(collection)
            except (OSError, HTTPException, Refused) as error:
                result.wrong.append(f"{parts[0].prefix}: the second engine cannot open it: {error!r}")
                return result
            result.records += len(found)
            if count != len(found):
                result.wrong.append(f"{parts[0].prefix}: count says {count}, {len(found)} can be read")
            for window in parts:
                wrong, back = _compare(window, found)
                result.wrong += wrong
                result.set_back |= back
            result.wrong += _hidden(client, collection, found)
    return result


def _read(client: Client, collection: str) -> State:
    body = json.dumps({"include": ["embeddings", "documents", "metadatas"]}).encode()
    found = json.loads(client.post(collection, "get", body))
    if not found["ids"]:
        return {}
    vectors = np.array(found["embeddings"], dtype="<f4")
    return {
        key: Record(vector.tobytes(), document, metadata["version"])
        for key, vector, document, metadata in zip(
            found["ids"], vectors, found["documents"], found["metadatas"], strict=True
        )
    }


def _compare(window: Window, found: State) -> tuple[list[str], set[str]]:
    """What differs from the nearest of the window's states, and the records whose vector Chroma itself has set back.

    Nothing differs when one of the states is what was found.
    """
    mine = {key: record for key, record in found.items() if key.startswith(f"{window.prefix}-")}
    nearest: tuple[list[str], set[str]] | None = None
    for number, state in enumerate(window.states()):
        unlike = {key for key in mine.keys() | state.keys() if mine.get(key) != state.get(key)}
        back = {key for key in unlike if _set_back(window, key, mine.get(key), state.get(key))}
        wrong = [
            f"{key} is {_short(mine.get(key))}, not {_short(state.get(key))} (operation {number})"
            for key in sorted(unlike - back)
        ]
        if nearest is None or len(wrong) < len(nearest[0]):
            nearest = wrong, back
    return nearest or ([], set())


def _set_back(window: Window, key: str, found: Record | None, wanted: Record | None) -> bool:
    """Whether a record is right but for the vector of an update that came before it."""
    if not found or not wanted or found.vector not in window.early.get(key, ()):
        return False
    return replace(found, vector=wanted.vector) == wanted


def _hidden(client: Client, collection: str, found: State) -> list[str]:
    """Of a sample most must be found by their vectors; some hide, since the index is approximate and much written."""
    keys = list(found)[:: max(len(found) // _SAMPLE, 1)]
    vectors = [np.frombuffer(found[key].vector, "<f4").tolist() for key in keys]
    body = json.dumps({"query_embeddings": vectors, "n_results": 5, "include": []}).encode()
    answers = json.loads(client.post(collection, "query", body))["ids"] if keys else []
    hidden = [key for key, answer in zip(keys, answers, strict=True) if key not in answer]
    return [f"{hidden} of {keys} are not found by their vectors"] if len(hidden) > len(keys) // 2 else []


def _short(record: Record | None) -> str:
    if record is None:
        return "missing"
    return f"{np.frombuffer(record.vector, '<f4')[:2]}… {record.document!r} {record.version}"
