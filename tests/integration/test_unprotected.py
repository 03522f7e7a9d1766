"""Collections that get no checkpoint are named wherever somebody looks."""

import urllib.request

import numpy as np

from tests.integration.account import until
from tests.integration.site import Site


def test_collection_without_links(site: Site) -> None:
    """Legal, but the engine persists it so that the validator does not call it sound."""
    daemon = site.serve()
    settings = {"hnsw": {"max_neighbors": 1, "sync_threshold": 1000}}
    collection = daemon.client().create_collection("lonely", embedding_function=None, configuration=settings)  # type: ignore[arg-type]
    for start in range(0, 1100, 100):
        vectors = np.random.default_rng(start).random((100, 4), np.float32)
        collection.add(ids=[str(start + number) for number in range(100)], embeddings=vectors)
    until(lambda: list(site.data.glob("*/index_metadata.pickle")), "a persist")
    said = site.chromactl("checkpoint", "--json").json()
    assert (said["taken"], said["left"]) == (0, 1)
    status = daemon.status()
    assert "it is not sound: header.bin" in status["unprotected"]["lonely"]
    assert not status["checkpoint"]["error"]
    assert "lonely: it is not sound" in " ".join(site.chromactl("status").output.split())
    with urllib.request.urlopen(f"http://127.0.0.1:{site.metrics_port}/metrics", timeout=20) as answer:
        assert "chromad_segments_without_checkpoint 1.0" in answer.read().decode()
    result = site.chromactl("doctor", "--json")
    [found] = [each for each in result.json() if each["name"] == "unprotected"]
    assert found["status"] == "warn"
    assert "lonely" in found["fact"]
    assert result.code
    daemon.client().delete_collection("lonely")
    assert site.chromactl("checkpoint", "--json").json()["left"] == 0
    assert daemon.status()["unprotected"] == {}
