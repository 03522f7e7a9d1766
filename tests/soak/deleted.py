"""Whether text that was deleted or replaced has left the database's bytes."""

import re
from collections.abc import Sequence

from chromad.chroma import sqlite

from tests.bench.client import Client
from tests.bench.servers import Chromad

from .model import TOKEN, Operation, State
from .writer import Writer

_TOKEN = re.compile((TOKEN % 0).replace("0" * 16, "[0-9a-f]{16}").encode())
_BATCH = 100


def measure(server: Chromad, writers: Sequence[Writer]) -> tuple[int, int]:
    """Compacts; gives how many documents that are not there any more were in the bytes before, and how many after.

    The writers have stopped.
    """
    for writer in writers:
        writer.settle()
    states = {writer.prefix: writer.window().state for writer in writers}
    for writer in writers:
        _persist(server, writer, states[writer.prefix])
    kept = {token for state in states.values() for record in state.values() for token in _tokens(record.document)}
    before = len(_in_bytes(server) - kept)
    server.ask("compact")
    return before, len(_in_bytes(server) - kept)


def _persist(server: Chromad, writer: Writer, state: State) -> None:
    """Writes a collection's records again until it has been persisted, so that the log before can go."""
    client = Client(server.port)
    keys = list(state)
    written = 0
    while written <= writer.kind.threshold:
        for start in range(0, len(keys), _BATCH):
            part = keys[start : start + _BATCH]
            client.post(writer.collection, "upsert", Operation("upsert", {key: state[key] for key in part}).body())
            written += len(part)


def _in_bytes(server: Chromad) -> set[bytes]:
    found: set[bytes] = set()
    for path in sqlite.files(server.data):
        found.update(_TOKEN.findall(path.read_bytes()))
    return found


def _tokens(text: str) -> list[bytes]:
    return _TOKEN.findall(text.encode())
