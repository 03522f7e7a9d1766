"""Warming: touching collections before READY, so that no client pays for loading them."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chromad.chroma import segment, sqlite
from chromad.config import Config
from chromad.control.messages import NOT_CHOSEN
from chromad.engine.api import DEFAULT_DATABASE, DEFAULT_TENANT, Api
from chromad.errors import EngineError, SegmentUnreadable, one_line
from chromad.host import memory
from chromad.logs.lines import human_bytes, log


@dataclass(frozen=True)
class WarmPlan:
    """warm: to touch, in this order. cold: what is left and why, by qualified name."""

    warm: list[sqlite.Collection]
    cold: dict[str, str]


@dataclass(frozen=True)
class Progress:
    """done: how many collections were tried. cold: those that stayed cold in this step, and why. failed: whether the
    query of the one that was tried failed. broken: what the engine said when it could not open it."""

    done: int
    cold: dict[str, str]
    failed: bool = False
    broken: str = ""


def plan(config: Config, collections: list[sqlite.Collection], recovered: set[str]) -> WarmPlan:
    """Chooses within `warm.collections` and `warm.memory_percent`; the order given is the order of importance.

    recovered: ids of collections that are warmed whatever the configuration says, to see that they open.
    """
    wanted = config.warm.collections
    budget = memory.limit() * config.warm.memory_percent // 100
    chosen: list[sqlite.Collection] = []
    if isinstance(wanted, list):
        for name in sorted(set(wanted) - {collection.name for collection in collections}):
            log.warning("warm.collections: there is no collection %r", name)
    cold: dict[str, str] = {}
    for collection in collections:
        if not collection.dimension or not collection.records:
            continue
        if collection.id in recovered:
            chosen.append(collection)
            continue
        if wanted == "none" or (wanted != "all" and collection.name not in wanted):
            cold[qualified(collection)] = NOT_CHOSEN
            continue
        size = _memory(config.data_dir, collection)
        if size > budget:
            cold[qualified(collection)] = (
                f"needs {human_bytes(size)} of memory, {human_bytes(budget)} of the budget are left"
            )
            continue
        budget -= size
        chosen.append(collection)
    return WarmPlan(chosen, cold)


def run(api: Api, chosen: list[sqlite.Collection], timeout: float, stopping: Callable[[], bool]) -> Iterator[Progress]:
    """Touches each collection with a real query; yields how far it is.

    timeout: seconds for all together. Ends early when `stopping` says so.
    """
    deadline = time.monotonic() + timeout
    for done, collection in enumerate(chosen):
        left = deadline - time.monotonic()
        if stopping():
            return
        if left <= 0:
            yield Progress(done, {qualified(rest): "warm.timeout was over" for rest in chosen[done:]})
            return
        cold = {}
        failed, broken = False, ""
        dimension = collection.dimension or 1
        try:
            api.query(
                collection.tenant, collection.database, collection.id, [1 / math.sqrt(dimension)] * dimension, left
            )
        except TimeoutError:
            cold[qualified(collection)] = "warm.timeout was over"
        except (OSError, EngineError) as error:
            log.warning("warming %s: %s", qualified(collection), error)
            cold[qualified(collection)] = "its query failed"
            broken = str(error) if isinstance(error, SegmentUnreadable) else ""
            failed = True
        yield Progress(done + 1, cold, failed, broken)


def qualified(collection: sqlite.Collection) -> str:
    """tenant/database/name, short for the default ones."""
    place = (collection.tenant, collection.database)
    prefix = "" if place == (DEFAULT_TENANT, DEFAULT_DATABASE) else f"{place[0]}/{place[1]}/"
    # Clients choose these names, and they go to systemd and the journal.
    return one_line(prefix + collection.name)


def _memory(data_dir: Path, collection: sqlite.Collection) -> int:
    # Records that were never persisted are replayed from the log: 4 bytes a dimension, and links of the graph.
    in_log = collection.records * ((collection.dimension or 0) * 4 + 200)
    return max(segment.allocated(data_dir / collection.segment), in_log)
