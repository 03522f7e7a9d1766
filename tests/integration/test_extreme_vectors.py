"""Vectors at the edges of 32-bit floats, in each space: backups of them are proven, and come back in every way."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from chromad.config import Listen
from chromad.engine.api import Api
from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT

from tests.integration import opened, seconds
from tests.integration.site import Site

SPACES = ("l2", "ip", "cosine")
EXTREME = {
    "huge25": [1e25] * 4,
    "huge30": [1e30, -1e30, 1e30, 1],
    "largest": [3.4e38] * 4,
    "opposite": [-3.4e38, 3.4e38, 0, 0],
    "tiny": [1e-38] * 4,
    "denormal": [1e-45, 0, 0, 0],
    "zero": [0.0] * 4,
    "minus-zero": [-0.0, 0, 0, 0],
    "mixed": [1e-30, 1e30, 0, 0],
    "edge-of-squares": [1.8e19, 0, 0, 0],
    "small-squares": [1e-22, 1e-21, 0, 0],
}
PERSISTED, LOGGED = "persisted", "logged"
Held = dict[str, dict[str, Any]]


def held_by(port: int, name: str) -> Held:
    """All records of a collection as the engine serves them, by their ids."""
    api = Api(Listen(port=port))
    found = api.collection(DEFAULT_TENANT, DEFAULT_DATABASE, name)
    assert found
    records = api.records(DEFAULT_TENANT, DEFAULT_DATABASE, found["id"], {"limit": 1000})
    return {record["id"]: record for record in records}


def assert_same(one: Held, two: Held, *, cosine: bool) -> None:
    assert one.keys() == two.keys()
    for key, record in one.items():
        other = two[key]
        assert {name: record[name] for name in ("document", "metadata", "uri")} == {
            name: other[name] for name in ("document", "metadata", "uri")
        }
        first, second = (np.array(each["embedding"], np.float64) for each in (record, other))
        # What cosine cannot keep is served as NaN, or as about zero.
        assert np.allclose(first, second, rtol=1e-5 if cosine else 0, atol=1e-18 if cosine else 0, equal_nan=True), key


@dataclass
class Backups:
    """What the collections held at the first backup, at a second after it, and at the second backup."""

    site: Site
    first: dict[str, Held]
    between: dict[str, Held]
    last: dict[str, Held]
    second: int

    def assert_restored(self, held: dict[str, Held], *words: str) -> None:
        with opened.restored_port(self.site, *words) as port:
            for name, records in held.items():
                assert_same(records, held_by(port, name), cosine="cosine" in name)


def put(site: Site, name: str, vectors: dict[str, list[float]]) -> None:
    collection = site.daemon.client().get_collection(name, embedding_function=None)
    collection.upsert(
        ids=list(vectors),
        embeddings=np.array(list(vectors.values()), np.float32),
        documents=[f"{key} at {name}" for key in vectors],
        metadatas=[{"n": 1} for _ in vectors],
    )


@pytest.fixture(scope="module")
def backups() -> Iterator[Backups]:
    site = Site()
    client = site.serve().client()
    names = [f"{kind}-{space}" for space in SPACES for kind in (PERSISTED, LOGGED)]

    def held() -> dict[str, Held]:
        return {name: held_by(site.port, name) for name in names}

    for name in names:
        settings = {"space": name.split("-")[1], "sync_threshold": 10 if PERSISTED in name else 1000, "batch_size": 5}
        client.create_collection(name, embedding_function=None, configuration={"hnsw": settings})  # type: ignore[arg-type]
        ordinary = np.random.default_rng(1).normal(size=(15, 4)).tolist()
        put(site, name, {f"ordinary-{number}": vector for number, vector in enumerate(ordinary)} | EXTREME)
    assert site.chromactl("checkpoint").code == 0
    site.backup()
    first = held()
    for name in names:
        put(
            site, name, {f"{key}-again": vector for key, vector in EXTREME.items()} | {"ordinary-0": EXTREME["largest"]}
        )
    between, second = held(), seconds.done()
    for name in names:
        put(site, name, {"ordinary-1": EXTREME["mixed"], "zero": [1.0, 2.0, 3.0, 4.0]})
    taken = site.backup()
    assert taken["base"] == ""
    yield Backups(site, first, between, held(), second)
    site.remove()


def test_cosine_loses_some(backups: Backups) -> None:
    """The tests would be of no use where the engine keeps all of them, or none."""
    lost = {
        key
        for key, record in backups.first["logged-cosine"].items()
        if not all(map(math.isfinite, record["embedding"]))
    }
    assert lost == {"huge25", "huge30", "largest", "opposite", "mixed"}


def test_all_are_proven(backups: Backups) -> None:
    assert [each["proven"] for each in backups.site.listed()] == [True, True]
    result = backups.site.chromactl("verify")
    assert result.code == 0, result.output
    oldest = backups.site.listed()[0]["id"]
    assert backups.site.chromactl("verify", oldest).code == 0


def test_restore_of_all(backups: Backups) -> None:
    backups.assert_restored(backups.last)
    backups.assert_restored(backups.first, "oldest")


def test_restore_to_a_second(backups: Backups) -> None:
    backups.assert_restored(backups.between, "--at", seconds.iso(backups.second))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", [PERSISTED, LOGGED])
def test_restore_of_one_collection(backups: Backups, kind: str, space: str) -> None:
    name = f"{kind}-{space}"
    result = backups.site.chromactl("restore", "--collection", name, "--into", f"copy-{name}", "--json")
    assert result.code == 0, result.output
    assert_same(backups.last[name], held_by(backups.site.port, f"copy-{name}"), cosine=space == "cosine")
    backups.site.daemon.client().delete_collection(f"copy-{name}")
    result = backups.site.chromactl(
        *("restore", "--collection", name, "--into", f"copy-{name}", "--at", seconds.iso(backups.second))
    )
    assert result.code == 0, result.output
    assert_same(backups.between[name], held_by(backups.site.port, f"copy-{name}"), cosine=space == "cosine")
    backups.site.daemon.client().delete_collection(f"copy-{name}")


def test_after_a_clean_stop(backups: Backups) -> None:
    """Last but one: checkpoints, a new base and the answers of the service agree."""
    backups.site.daemon.stop()
    daemon = backups.site.serve()
    assert "restored" not in daemon.log
    for name, held in backups.last.items():
        assert_same(held, held_by(backups.site.port, name), cosine="cosine" in name)
    assert backups.site.backup("--full")["base"] == "asked for"
    backups.assert_restored(backups.last)


def test_in_place(backups: Backups) -> None:
    """Last in this file, since it stops the service."""
    backups.site.daemon.stop()
    assert backups.site.chromactl("restore", "oldest").code == 0
    backups.site.serve()
    for name, held in backups.first.items():
        assert_same(held, held_by(backups.site.port, name), cosine="cosine" in name)
