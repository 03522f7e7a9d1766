"""What the crash laboratory lets pass, and what it does not: a comparison that cannot fail would prove nothing."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.crash.model import Client, Differences, Recipe, Record, Request

Held = dict[str, Record]
NOTHING = Differences()


def written(requests: int = 200) -> tuple[Client, Held]:
    """A client to whom everything was acknowledged, and what a sound server holds then."""
    client = Client(Recipe("some", 4, 20, 100, 20), "some0")
    client.seed("test")
    held: Held = {}
    for _ in range(requests):
        send(client, held, client.request())
        client.acknowledge(client.open[0])
    return client, held


def send(client: Client, held: Held, request: Request) -> None:
    """What a server does with a request."""
    client.open.append(request)
    for key, (_, after) in request.changes.items():
        if after is None:
            held.pop(key, None)
        else:
            held[key] = after


def changing(client: Client) -> Request:
    """A request that changes several records."""
    while True:
        request = client.request(large=True)
        if sum(before != after for before, after in request.changes.values()) > 2:
            return request


def test_what_was_acknowledged_is_there() -> None:
    client, held = written()
    assert client.settle(held) == NOTHING
    assert len(held) > 20


def _lose(held: Held, key: str) -> None:
    del held[key]


def _raise(held: Held, key: str) -> None:
    held["some0-99999"] = held[key]


def _flip(held: Held, key: str) -> None:
    vector = bytearray(held[key].vector)
    vector[0] ^= 1
    held[key] = replace(held[key], vector=bytes(vector))


def _other_document(held: Held, key: str) -> None:
    held[key] = replace(held[key], document=held[key].document + "!")


def _other_metadata(held: Held, key: str) -> None:
    held[key] = replace(held[key], metadata={**held[key].metadata, "note": "other"})


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (_lose, "lost"),
        (_raise, "risen"),
        (_flip, "wrong"),
        (_other_document, "wrong"),
        (_other_metadata, "wrong"),
    ],
)
def test_a_single_fault_is_noticed(spoil: Callable[[Held, str], None], kind: str) -> None:
    client, held = written()
    spoil(held, sorted(held)[3])
    found = client.settle(held)
    assert [name for name, keys in vars(found).items() if keys] == [kind]
    assert len(getattr(found, kind)) == 1


@pytest.mark.parametrize("happened", [False, True])
def test_an_open_request_may_have_happened_or_not(happened: bool) -> None:
    client, held = written()
    after = dict(held)
    send(client, after, changing(client))
    assert client.settle(after if happened else held) == NOTHING
    assert client.records == (after if happened else held)
    assert not client.open


def test_an_open_request_cannot_have_happened_by_half() -> None:
    client, held = written()
    after = dict(held)
    send(client, after, changing(client))
    changed = sorted(key for key in held.keys() | after.keys() if held.get(key) != after.get(key))
    half = dict(held)
    for key in changed[: len(changed) // 2]:
        if key in after:
            half[key] = after[key]
        else:
            del half[key]
    assert client.settle(half).wrong


def test_what_has_settled_stays() -> None:
    client, held = written()
    send(client, dict(held), changing(client))
    client.settle(held)
    request = changing(client)
    after = dict(held)
    send(client, after, request)
    client.acknowledge(request)
    assert client.settle(held) != NOTHING


def test_ids_of_open_requests_are_left_alone() -> None:
    client, held = written()
    request = changing(client)
    send(client, held, request)
    for _ in range(100):
        assert not client.request().changes.keys() & request.changes.keys()
