"""A stop under load loses nothing that was acknowledged; READY means that the first query is as fast as the second."""

import signal
import time

import numpy as np

from tests.integration.account import until
from tests.integration.daemon import Daemon
from tests.integration.site import Site
from tests.integration.writers import Writers

LARGE = 50_000
DIMENSION = 32


def test_stop_under_eight_writers_loses_nothing(site: Site) -> None:
    daemon = site.serve()
    # The second collection is persisted all the time, the fourth never.
    writers = Writers(daemon, {"one": 1000, "two": 20, "three": 150, "four": 100_000}, each=2)
    writers.start()
    until(lambda: writers.written() > 2000, "2000 acknowledged records")
    daemon.send(signal.SIGTERM)
    assert daemon.ended() == 0, daemon.log
    writers.join()
    assert len(writers.errors()) == 8, "all were writing until the end"
    again = site.serve()
    assert "the last run stopped cleanly" in again.log
    writers.assert_kept(again, writers.acknowledged())


def seconds_of_queries(daemon: Daemon) -> tuple[float, float]:
    """The first and the second query on the large collection since the start of the daemon."""
    client = daemon.client()
    collection = client.get_collection("large", embedding_function=None)
    client.heartbeat()
    times = []
    # Two vectors, so that the second query is not helped by documents that the first one fetched.
    for vector in np.random.default_rng(2).random((2, 1, DIMENSION), dtype=np.float32):
        before = time.perf_counter()
        collection.query(query_embeddings=vector, include=["documents", "metadatas", "distances"])
        times.append(time.perf_counter() - before)
    return times[0], times[1]


def test_first_query_is_as_fast_as_the_second(site: Site) -> None:
    daemon = site.serve()
    client = daemon.client()
    # Sparse links: only the time to build it would grow with more.
    sparse = {"hnsw": {"ef_construction": 10, "max_neighbors": 6}}
    collection = client.create_collection("large", embedding_function=None, configuration=sparse)  # type: ignore[arg-type]
    vectors = np.random.default_rng(1).random((LARGE, DIMENSION), dtype=np.float32)
    for start in range(0, LARGE, 5000):
        numbers = range(start, start + 5000)
        collection.add(
            ids=[f"{number}" for number in numbers],
            embeddings=vectors[start : start + 5000],
            documents=[f"document {number}" for number in numbers],
        )
    daemon.stop()
    firsts: list[float] = []
    seconds: list[float] = []
    # The fastest of each: what else the machine does makes single ones slower, and on a busy machine the fastest of
    # five as well, so they get more attempts. A cold one takes 40 times as long, which no number of attempts hides.
    while len(firsts) < 5 or (len(firsts) < 20 and min(firsts) > 1.5 * min(seconds)):
        daemon = site.serve()
        first, second = seconds_of_queries(daemon)
        firsts.append(first)
        seconds.append(second)
        daemon.stop()
    assert min(firsts) <= 1.5 * min(seconds), (firsts, seconds)
