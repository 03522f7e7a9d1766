"""What a proof makes of samples that an engine answers otherwise."""

from typing import Any

import pytest
from chromad.backup import fingerprint, proof
from chromad.backup.manifest import CollectionEntry, Sample
from chromad.engine.api import Api

_UUID = "8c4b4ab6-6d3e-4b51-9c1a-6a1f3f5b4e11"


def _record(key: str, document: str) -> dict[str, Any]:
    return {"id": key, "embedding": [1.0, 0.5], "document": document, "metadata": None, "uri": None}


class _Engine(Api):
    """One that holds records, each of which is the nearest to all."""

    def __init__(self, held: list[dict[str, Any]]) -> None:
        self._held = held

    def count(self, *_: Any) -> int:
        return len(self._held)

    def records(self, *words: Any, **_: Any) -> list[dict[str, Any]]:
        return [each for each in self._held if each["id"] in words[-1]["ids"]]

    def nearest(self, *words: Any) -> list[tuple[list[str], list[float]]]:
        return [([each["id"] for each in self._held], [0.0] * len(self._held)) for _ in words[3]]


@pytest.mark.parametrize(("count", "told"), [(1, False), (2, True), (3, True)])
def test_changed_sample_is_told_unless_it_is_alone(count: int, told: bool) -> None:
    """Chroma loses the update of a record that is alone in its collection."""
    keys = [f"r{number}" for number in range(count)]
    before = {key: fingerprint.of(_record(key, "before")) for key in keys}
    samples = [Sample(key, found.digest, keys, [0.0] * count, list(found.vector)) for key, found in before.items()]
    entry = CollectionEntry(_UUID, "t", "d", "some", 2, count, _UUID, None, {}, samples)
    served = [_record(key, "after" if key == "r0" else "before") for key in keys]
    _, problems = proof.look(_Engine(served), [entry], None, lambda *_: None)
    assert problems == (["some: the records r0 are not as they should be"] if told else [])


@pytest.mark.parametrize("count", [2, 4])
def test_lost_record_is_told_and_so_is_one_that_was_deleted(count: int) -> None:
    entry = CollectionEntry(_UUID, "t", "d", "some", 2, 3, _UUID, None, {}, [])
    _, problems = proof.look(_Engine([_record("r0", "")] * count), [entry], None, lambda *_: None)
    assert problems == [f"some: {count} records, not 3"]
