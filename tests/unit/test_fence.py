"""Fences beside each other: one that goes takes no other with it."""

from pathlib import Path

from chromad.store import fence, sqlite


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
