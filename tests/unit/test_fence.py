"""Fences beside each other: one that goes takes no other with it."""

from pathlib import Path

import pytest
from chromad.chroma import sqlite
from chromad.errors import TryAgain
from chromad.store import fence


def test_fence_of_a_deleted_collection_goes_alone(two: Path) -> None:
    collections = {each.name: each for each in sqlite.collections(two)}
    for kind in (fence.OPERATOR, fence.DISK):
        fence.put(two, kind, "a reason")
    for each in collections.values():
        fence.put_around(two, each, "it is in quarantine")
    with sqlite.connect(two) as connection:
        connection.execute("DELETE FROM collections WHERE name = 'goes'")
    fence.forget_deleted(two)
    assert fence.read(two).keys() == {fence.OPERATOR, fence.DISK, collections["stays"].id}


def test_fence_that_is_back_after_a_reset_says_what_it_said(two: Path) -> None:
    """However often clients reset the service."""
    for kind in (fence.OPERATOR, fence.DISK):
        fence.put(two, kind, f"it's for the {kind}")
    stood = fence.read(two)
    for _ in range(2):
        with sqlite.connect(two) as connection:
            fence.drop_all(connection)
        assert fence.restore(two, stood) == sorted(stood)
        assert fence.read(two) == stood


@pytest.mark.parametrize("kind", [fence.OPERATOR, fence.DISK])
def test_nothing_is_begun_that_a_fence_would_stop(kind: str) -> None:
    with pytest.raises(TryAgain, match="writes are refused, so it cannot be: a reason"):
        fence.need_none({kind: "a reason"}, "it cannot be")


@pytest.mark.parametrize("fences", [{}, {"8c4b4ab6-6d3e-4b51-9c1a-6a1f3f5b4e11": "it is in quarantine"}])
def test_a_collection_in_quarantine_stops_nothing_else(fences: dict[str, str]) -> None:
    fence.need_none(fences, "it cannot be")
