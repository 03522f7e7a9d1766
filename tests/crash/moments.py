"""The moments at which a service is struck. Each waits for its moment under writing clients, strikes, and says what it met."""

import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tests.crash.api import GONE, Connection, Refused
from tests.crash.lab import Lab
from tests.crash.watch import Watch

# Seconds to wait for a moment while clients write, and while the service starts.
_PATIENCE = 3.0
_PATIENCE_WITH_START = 20.0


@dataclass(frozen=True)
class Met:
    """hit: whether the moment came about. detail: what the service did when it was struck."""

    hit: bool
    detail: str = ""


Moment = Callable[[Lab, random.Random], Met]


def at_random(lab: Lab, chance: random.Random) -> Met:
    """At any moment while clients write, half the time during a cycle of checkpoints."""
    time.sleep(chance.uniform(0.05, 0.5))
    connection = lab.server.ask("checkpoint") if chance.random() < 0.5 else None
    time.sleep(chance.uniform(0, 0.5))
    lab.strike()
    if connection:
        connection.close()
    return Met(True, "checkpoint asked for" if connection else "")


def in_persist(lab: Lab, chance: random.Random) -> Met:
    """0 to 15 ms after a persist has begun to write a segment's files."""
    names = chance.choice((["large"], ["large"], ["sometimes", "large"], ["often"], ["often", "sometimes", "large"]))
    offset = chance.choice((0.0, 0.0, chance.uniform(0, 0.002), chance.uniform(0, 0.015)))
    # Not the first persist that comes, so that rounds differ.
    time.sleep(chance.uniform(0, 0.3))
    with Watch([lab.segment(name) for name in names]) as watch:
        hit = watch.wait(("header.bin",), _PATIENCE)
        time.sleep(offset)
        lab.strike()
    return Met(hit, f"{', '.join(names)} + {offset * 1000:.1f} ms")


def in_checkpoint(lab: Lab, chance: random.Random) -> Met:
    """0 to 30 ms after a checkpoint's unfinished directory has appeared, or while it is examined and published."""
    time.sleep(chance.uniform(0.05, 0.4))
    offset = chance.choice((0.0, chance.uniform(0, 0.03), chance.uniform(0, 0.4)))
    with Watch([lab.site.checkpoints]) as watch:
        connection = lab.server.ask("checkpoint")
        hit = connection is not None and watch.wait((".unfinished-",), _PATIENCE)
        time.sleep(offset)
        lab.strike()
    if connection:
        connection.close()
    return Met(hit, f"+ {offset * 1000:.1f} ms" if hit else "no checkpoint came")


def in_purge(lab: Lab, chance: random.Random) -> Met:
    """0 to 30 ms after the first rows have gone from the log, at the end of the cycle that `checkpoint` asks for."""
    time.sleep(chance.uniform(0.05, 0.4))
    offset = chance.choice((0.0, chance.uniform(0, 0.03)))
    connection = lab.server.ask("checkpoint")
    hit = connection is not None and _log_shrinks(lab)
    time.sleep(offset)
    lab.strike()
    if connection:
        connection.close()
    return Met(hit, f"+ {offset * 1000:.1f} ms" if hit else "no purge came")


def in_recovery(lab: Lab, chance: random.Random) -> Met:
    """Once or twice within 300 ms of the start that follows a strike, or within 150 ms of the beginning of recovery."""
    _strike_somehow(lab, chance)
    details = []
    for _ in range(chance.choice((1, 1, 2))):
        lab.start()
        if chance.random() < 0.3:
            time.sleep(chance.uniform(0, 0.3))
        else:
            _reach(lab, "recovering")
            time.sleep(chance.choice((0.0, chance.uniform(0, 0.02), chance.uniform(0, 0.15))))
        details.append(lab.server.phase())
        lab.strike()
    return Met(True, ", ".join(details))


def in_warm_up(lab: Lab, chance: random.Random) -> Met:
    """0 to 100 ms after the start that follows a strike has begun to touch collections."""
    _strike_somehow(lab, chance)
    lab.start()
    offset = chance.uniform(0, 0.1)
    hit = _touching(lab)
    time.sleep(offset)
    detail = lab.server.phase()
    lab.strike()
    return Met(hit, f"{detail} + {offset * 1000:.1f} ms")


def in_stop(lab: Lab, chance: random.Random) -> Met:
    """0 to 300 ms after SIGTERM."""
    time.sleep(chance.uniform(0.05, 0.5))
    lab.terminate()
    time.sleep(chance.uniform(0, 0.3))
    stopped = lab.server.process.poll() is not None
    detail = "had stopped" if stopped else lab.server.phase()
    lab.strike()
    return Met(not stopped, detail)


MOMENTS: dict[str, Moment] = {
    "persist": in_persist,
    "checkpoint": in_checkpoint,
    "purge": in_purge,
    "recovery": in_recovery,
    "warm-up": in_warm_up,
    "stop": in_stop,
    "any": at_random,
}
# Out of ten rounds. The server for comparison has neither checkpoints nor purges on demand.
SHARES = {"persist": 3, "checkpoint": 1, "purge": 1, "recovery": 2, "warm-up": 1, "stop": 1, "any": 1}


def _strike_somehow(lab: Lab, chance: random.Random) -> None:
    """What recovery is to work on: a torn persist or any other state, a kill or, in a laboratory for them, a power cut."""
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0.05, 0.5))
        lab.kill()
    else:
        chance.choice((in_persist, at_random))(lab, chance)


def _touching(lab: Lab) -> bool:
    return _reach(lab, "warming") or (lab.server.is_ready() and _touch(lab))


def _reach(lab: Lab, phase: str) -> bool:
    """Waits until a service that was started is in a phase; False when it is ready, or has ended, without it."""
    deadline = time.monotonic() + _PATIENCE_WITH_START
    while lab.server.phase() != phase:
        if lab.server.is_ready() or lab.server.process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _touch(lab: Lab) -> bool:
    """For a server that does not warm: the first count of a collection, which does not load its index, then a query."""
    connection = Connection(lab.site.port, timeout=1)
    try:
        connection.nearest(lab.ids["large"], [bytes(4 * 384)], 1)
    except (*GONE, Refused):
        pass
    finally:
        connection.close()
    return True


def _log_shrinks(lab: Lab) -> bool:
    deadline = time.monotonic() + _PATIENCE
    before = 0
    with closing(sqlite3.connect(f"file:{lab.site.data}/chroma.sqlite3?mode=ro", uri=True)) as connection:
        while time.monotonic() < deadline:
            (rows,) = connection.execute("SELECT count(*) FROM embeddings_queue").fetchone()
            if rows < before:
                return True
            before = rows
            time.sleep(0.001)
    return False
