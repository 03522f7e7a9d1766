"""How long writes are held up by checkpoints of a 170 MB segment that is written all the time.

Two clients write one record after the other, one into the collection whose checkpoints are taken, one into another. A
persist of the engine itself holds up writes of its own collection, so those that met one are counted apart.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from chromad.chroma import sqlite

from .client import Client, upserts
from .figure import Figure, file_system
from .options import Options
from .servers import Chromad
from .stalls import Persists, Span, Writer, longest
from .xfs import Impossible, mounted

_RECORDS = 100_000
_BODIES = 500
_IMAGE = 4 << 30
# Nothing but what is asked for.
_SETTINGS = {"checkpoint": {"interval": "1d", "after_log": "1T"}}

# Seconds that a write may be held up by checkpoints: where they are copied, and where they share blocks
_COPIED = 0.2
_SHARED = 0.05


def measure(options: Options) -> list[Figure]:
    """The longest writes with and without checkpoints: one that is persisted rarely and one often, copied and shared."""
    kind = file_system(options.directory)
    figures = []
    for threshold in (1000, 100):
        figures += _figures(f"{kind}, persisted every {threshold}", options, options.directory, threshold, _COPIED)
    try:
        with mounted(options.directory, _IMAGE) as root:
            figures += _figures("XFS with reflink, persisted every 1000", options, root, 1000, _SHARED)
    except Impossible as error:
        print(f"no file system with reflink: {error}")
    return figures


def _figures(title: str, options: Options, directory: Path, threshold: int, limit: float) -> list[Figure]:
    with _filled(directory, options.part(_RECORDS), threshold) as (server, collections):
        seen = _observe(server, collections, options.rounds)
    calm, held = (lambda span: not span.meets(seen.checkpoints)), (lambda span: span.meets(seen.checkpoints))
    figures = [
        Figure(f"{title}: a checkpoint (s)", [span.seconds for span in seen.checkpoints]),
        Figure(f"{title}: a persist (s)", [span.seconds for span in seen.persists] or [0.0]),
    ]
    for name, writes in (("same collection", seen.same), ("another collection", seen.other)):
        for what, chosen, at_most in (("without", calm, None), ("during", held, limit)):
            spans = [span for span in writes if chosen(span)]
            apart = [span for span in spans if span.meets(seen.persists)]
            alone = [span for span in spans if not span.meets(seen.persists)]
            text = f"{title}: longest write to the {name} {what} checkpoints"
            figures.append(Figure(f"{text}, no persist (s)", [longest(alone)], at_most=at_most))
            figures.append(Figure(f"{text}, in a persist (s)", [longest(apart)]))
    return figures


class _Seen:
    """What went on in a run."""

    def __init__(self) -> None:
        self.checkpoints: list[Span] = []
        self.persists: list[Span] = []
        self.same: list[Span] = []
        self.other: list[Span] = []


def _observe(server: Chromad, collections: list[str], rounds: int) -> _Seen:
    """Lets a persist pass without a checkpoint, then takes one, again and again."""
    seen = _Seen()
    numbers = np.random.default_rng(1)
    writers = [
        Writer(server.port, collection, upserts([f"{number}-{key}" for key in range(_BODIES)], 1, numbers))
        for number, collection in enumerate(collections)
    ]
    [uuid] = [each.segment for each in sqlite.collections(server.data) if each.id == collections[0]]
    persists = Persists(server.data / uuid)
    for _ in range(rounds):
        persists.await_next()
        persists.await_next()
        begin = time.monotonic()
        answer = server.ask("checkpoint")
        seen.checkpoints.append(Span(begin, time.monotonic()))
        if answer["left"]:
            print(server.failed(f"{answer['left']} checkpoints could not be taken"))
    seen.same, seen.other = (writer.stop() for writer in writers)
    persists.stop()
    seen.persists = persists.spans
    return seen


@contextmanager
def _filled(directory: Path, records: int, threshold: int) -> Iterator[tuple[Chromad, list[str]]]:
    """A server with a large collection and a small one."""
    numbers = np.random.default_rng(0)
    with (
        tempfile.TemporaryDirectory(dir=directory) as root,
        Chromad(Path(root), _SETTINGS) as server,
    ):
        client = Client(server.port)
        collections = [client.create("large", threshold), client.create("small")]
        for number, count in enumerate((records, 1000)):
            for start in range(0, count, 10_000):
                names = [f"{number}-{key}" for key in range(start, min(start + 10_000, count))]
                for body in upserts(names, 500, numbers):
                    client.post(collections[number], "upsert", body)
        server.ask("checkpoint")
        yield server, collections
