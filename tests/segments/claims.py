"""Comparing a segment with its whole log, as a checkpoint does."""

from pathlib import Path

from chromad.chroma import sqlite, vectors
from chromad.chroma.soundness import Claim

from tests.segments import engine


def whole(data: Path, name: str, *, mend: bool = True) -> Claim | None:
    """That a collection's segment has applied all of the log that SQLite says; None before its first persist."""
    with sqlite.connect(data) as connection:
        found = next(each for each in sqlite.read_collections(connection) if each.name == name)
        if found.persisted is None:
            return None
        cosine = sqlite.is_cosine(connection, found)
    return Claim(data, found.topic, 0, found.persisted, None, cosine, mend)


def mend(data: Path, name: str) -> int:
    """Puts right in a collection's files what the engine has not persisted; gives how many vectors. No engine may run."""
    claim = whole(data, name)
    return vectors.compare(engine.segment(data, name), claim) if claim else 0
