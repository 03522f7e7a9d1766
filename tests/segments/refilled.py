"""A collection whose index has lost the way to many of its records, as Chroma itself leaves it, without any kill."""

from pathlib import Path

import numpy as np
from chromad.chroma import reach

from tests.segments import engine

NAME = "refilled"

# The engine links elements in threads: of six tries about one cuts more than a tenth off. A search may miss as many where all can
# be reached from some way that it did not take; such a try is not the last.
_TRIES = 60
_NEW, _KEPT, _DIMENSION = 300, 100, 48


def fill(data: Path, seed: int) -> tuple[list[str], set[str]]:
    """Fills a collection, updates all vectors, deletes all records and adds others, twice. Gives its ids, and those among them
    that searches for as many records as there are do not find. For a process of its own (`engine.run`)."""
    numbers = np.random.default_rng(seed)
    collection = engine.create(engine.client(data), NAME, threshold=2)
    ids: list[str] = []
    for cycle in range(2):
        first = [f"{cycle}-{number}" for number in range(_NEW)]
        collection.add(ids=first, embeddings=numbers.standard_normal((_NEW, _DIMENSION), dtype=np.float32))
        collection.update(ids=first, embeddings=numbers.standard_normal((_NEW, _DIMENSION), dtype=np.float32))
        collection.delete(ids=[*ids, *first])
        ids = [f"{cycle}-kept-{number}" for number in range(_KEPT)]
        vectors = numbers.standard_normal((_KEPT, _DIMENSION), dtype=np.float32)
        collection.add(ids=ids, embeddings=vectors)
    found = collection.query(query_embeddings=vectors, n_results=len(ids), include=[])["ids"]
    return ids, set(ids) - {each for answer in found for each in answer}


def tries(root: Path) -> list[tuple[Path, list[str], set[str]]]:
    """Data directories below `root` with what `fill` gives, the last of which has more than a tenth of its records cut off."""
    made = []
    for seed in range(_TRIES):
        data = root / str(seed)
        ids, missed = engine.run(fill, data, seed)
        made.append((data, ids, missed))
        if len(reach.cut_off(engine.segment(data, NAME))) > len(ids) // 10:
            return made
    raise AssertionError("the engine cuts nothing off; what `chromad.chroma.reach` says of it may be out of date")
