"""One collection out of a backup where the API does not take all: what it takes is there, what it does not is named."""

import json
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from chromad.chroma import sqlite

from tests.integration import records
from tests.integration.records import Record
from tests.integration.site import Site

LIMIT = 64 << 10
# By name of collection: a document, of which so many bytes as UTF-8 and as escapes in JSON
DOCUMENTS = {
    "ascii": "x" * 9000,
    "cjk": "記" * 3000,
    "emoji": "🙂" * 2300,
    "quotes": '"\\' * 2300,
    "control": "\x01" * 1500,
}


def write(site: Site, name: str, document: str, count: int) -> dict[str, Record]:
    """Records that differ in their vectors; few at a time, as the limit has it."""
    collection = records.create(site.daemon.client(), name)
    made = {f"{name}-{number}": Record(records.make(f"{number}").vector, document, number) for number in range(count)}
    for key, record in made.items():
        records.upsert(collection, {key: record})
    return made


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Site, dict[str, dict[str, Record]]]]:
    """A service that takes small requests, with a backup of what fits into these one by one."""
    site = Site()
    site.configure({"engine.max_payload_size": LIMIT})
    site.serve()
    held = {name: write(site, name, document, 30) for name, document in DOCUMENTS.items()}
    # One that takes nearly all of it
    held["nearly"] = write(site, "nearly", "\N{SNOWMAN}" * ((LIMIT - 400) // 3), 2)
    site.backup()
    yield site, held
    site.remove()


@pytest.mark.parametrize("name", [*DOCUMENTS, "nearly"])
def test_small_requests(small: tuple[Site, dict[str, dict[str, Record]]], name: str) -> None:
    site, held = small
    result = site.chromactl("restore", "--collection", name, "--into", f"{name}-again", "--json")
    assert result.code == 0, result.output
    assert (result.json()["records"], result.json()["notes"], result.json()["lost"]) == (len(held[name]), [], [])
    records.assert_equal(site.daemon.client(), f"{name}-again", held[name])


def test_record_larger_than_a_request(small: tuple[Site, dict[str, dict[str, Record]]]) -> None:
    """Last of those with this service: written while more was allowed. It is named, and all else is there."""
    site, _ = small
    site.daemon.stop()
    site.configure({"engine.max_payload_size": 4 * LIMIT})
    client = site.serve().client()
    held = records.fill(client, "large", 5)
    collection = client.get_collection("large", embedding_function=None)
    records.upsert(collection, {"too\x1blarge": Record(records.make("x").vector, "x" * 2 * LIMIT, 1)})
    site.backup()
    site.daemon.stop()
    site.configure({"engine.max_payload_size": LIMIT})
    site.serve()
    words = ("restore", "--collection", "large", "--into", "large-again")
    for changed in (False, True):
        # The other time the configuration says more than what the service was started with.
        site.configure({"engine.max_payload_size": 4 * LIMIT if changed else LIMIT})
        result = site.chromactl(*words, "--json")
        assert result.code == 1, result.output
        found = result.json()
        assert (found["records"], found["lost"]) == (5, ["too\x1blarge"])
        assert "1 records are left out: each takes more than engine.max_payload_size" in found["notes"][0]
        records.assert_equal(site.daemon.client(), "large-again", held)
        site.daemon.client().delete_collection("large-again")
    result = site.chromactl(*words)
    assert result.code == 1
    assert "5 records of" in result.output
    assert "'too\\x1blarge'" in result.output
    assert "\x1b" not in result.output


@pytest.fixture
def without_vectors(site: Site) -> tuple[Site, dict[str, Record]]:
    """A collection whose vectors were lost, but for those that were written since."""
    site.serve()
    held = records.fill(site.daemon.client(), "lossy", 60, sync_threshold=20)
    site.backup()
    assert site.chromactl("checkpoint", "--json").json()["purged"]
    segment = site.first_segment().name
    site.daemon.stop()
    shutil.rmtree(site.data / segment)
    shutil.rmtree(site.checkpoints / segment)
    with sqlite.connect(site.data) as connection:
        connection.execute("DELETE FROM max_seq_id WHERE segment_id = ?", (segment,))
    site.serve()
    collection = site.daemon.client().get_collection("lossy", embedding_function=None)
    new = {key: records.make(key, 1) for key in ("lossy-1", "new")}
    records.upsert(collection, new)
    return site, held | new


def test_records_whose_vectors_are_lost(without_vectors: tuple[Site, dict[str, Record]]) -> None:
    site, held = without_vectors
    site.make_repository()
    result = site.chromactl("backup", "--full")
    assert result.code == 0, result.output
    assert "the vectors of 58 records of the collection 'lossy' are lost" in result.output
    assert "chromactl repair" in result.output
    assert site.listed()[-1]["records"] == 61
    assert site.chromactl("verify").code == 0
    result = site.chromactl("restore", "--collection", "lossy", "--into", "again", "--json")
    assert result.code == 1, result.output
    found = result.json()
    kept = {key: record for key, record in held.items() if key not in found["lost"]}
    assert {"lossy-1", "new"} <= kept.keys()
    assert len(found["lost"]) == 58
    assert found["records"] == len(kept)
    assert (
        f"{len(found['lost'])} records are left out: neither the engine nor the log has their vectors"
        in found["notes"][0]
    )
    assert json.dumps(found["lost"][0])[1:-1] in found["notes"][0]
    records.assert_equal(site.daemon.client(), "again", kept)


def test_vector_that_cosine_does_not_keep(site: Site) -> None:
    """From the log where that has it; else the copy is served as the original is."""
    client = site.serve().client()
    settings = {"hnsw": {"space": "cosine", "sync_threshold": 10, "batch_size": 5}}
    collection = client.create_collection("arrays", embedding_function=None, configuration=settings)  # type: ignore[arg-type]
    vectors = np.random.default_rng(1).normal(size=(12, 2)).astype(np.float32)
    vectors[7] = [1e-30, 1e30]
    ids = [f"a{number}" for number in range(12)]
    collection.add(ids=ids, embeddings=vectors, documents=[f"document of {key}" for key in ids])
    said = {
        "from the log": "it comes from the log: 'a7'",
        "purged": "the engine has not kept it; the copy is alike: 'a7'",
    }
    for name, text in said.items():
        if name == "purged":
            assert site.chromactl("checkpoint", "--json").json()["purged"]
        site.backup("--full")
        result = site.chromactl("restore", "--collection", "arrays", "--into", f"arrays-{name[:4]}", "--json")
        assert result.code == 0, result.output
        assert (result.json()["records"], result.json()["lost"]) == (12, [])
        assert text in result.json()["notes"][0]
        copy = client.get_collection(f"arrays-{name[:4]}", embedding_function=None)
        assert copy.get()["documents"] == [f"document of {key}" for key in ids]
        others = [key for key in ids if key != "a7"]
        found = np.array(copy.get(ids=others, include=["embeddings"])["embeddings"])
        assert np.allclose(found, np.delete(vectors, 7, 0), rtol=1e-5)
        answers = [each.query(query_embeddings=[0.0, 1.0], n_results=12) for each in (collection, copy)]
        one, two = (dict(zip(each["ids"][0], (each["distances"] or [])[0], strict=True)) for each in answers)
        assert two == pytest.approx(one, abs=1e-5)
