"""A collection that is copied into the service: it gets its name when it is whole and the same, else nothing of it is left."""

import base64
from array import array
from pathlib import Path
from typing import Any

import pytest
from chromad.backup.collection_copy import CollectionCopy
from chromad.backup.manifest import CollectionEntry, Sample
from chromad.config import Config
from chromad.engine.api import Api
from chromad.errors import BackupError

_COUNT = 7
_IDS = [f"r{number}" for number in range(_COUNT)]


def _record(key: str, document: str = "") -> dict[str, Any]:
    vector = [float(_IDS.index(key)), 0.5]
    return {"id": key, "embedding": vector, "document": document or f"of {key}", "metadata": {"a": 1}, "uri": None}


class _Engine(Api):
    """One that holds records. spoil: what it makes of those that it is given: `lose` one, or `change` one."""

    def __init__(self, held: list[dict[str, Any]], spoil: str = "") -> None:
        self.held = held
        self.done: list[str] = []
        self._spoil = spoil

    def collection(self, *_: Any) -> dict[str, Any]:
        return {"metadata": None}

    def count(self, *_: Any) -> int:
        return len(self.held)

    def records(self, *words: Any, **_: Any) -> list[dict[str, Any]]:
        which = words[-1]
        if "ids" in which:
            return [each for each in self.held if each["id"] in which["ids"]]
        return self.held[which["offset"] : which["offset"] + which["limit"]]

    def post(self, *words: Any) -> Any:
        *_, path, body = words
        if not path:
            self.done.append(f"make {body['name']}")
            return {"id": "uuid"}
        for key, packed, document in zip(body["ids"], body["embeddings"], body["documents"], strict=True):
            vector = array("f", base64.b64decode(packed)).tolist()
            self.held.append(_record(key, document) | {"embedding": vector})
        if self._spoil == "lose":
            self.held.pop()
        elif self._spoil == "change":
            self.held[1]["document"] = "another"
        return {}

    def rename(self, *words: Any) -> None:
        self.done.append(f"rename to {words[-1]}")

    def delete_collection(self, *words: Any) -> None:
        self.done.append(f"delete {words[0]}")


def copy(target: _Engine) -> None:
    # The one that is lost is none of them.
    samples = [Sample(key, "", [], []) for key in _IDS[:3]]
    uuid = "8c4b4ab6-6d3e-4b51-9c1a-6a1f3f5b4e11"
    entry = CollectionEntry(uuid, "t", "d", "some", 2, _COUNT, uuid, None, {}, samples)
    source = _Engine([_record(key) for key in _IDS])
    CollectionCopy(Config(), source, target, entry, Path("/none")).run("draft", "some", lambda *_: None)


def test_whole_and_the_same() -> None:
    target = _Engine([])
    copy(target)
    assert target.done == ["make draft", "rename to some"]
    assert target.held == [_record(key) for key in _IDS]


@pytest.mark.parametrize("spoil", ["lose", "change"])
def test_incomplete_or_another(spoil: str) -> None:
    target = _Engine([], spoil)
    with pytest.raises(BackupError, match="copying stopped: the copy has"):
        copy(target)
    assert target.done == ["make draft", "delete draft"]
