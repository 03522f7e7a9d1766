"""The collections of a data directory at a glance."""

from pathlib import Path
from typing import Any

from chromad.chroma import segment, sqlite
from chromad.daemon.warm import qualified
from chromad.store.checkpoint import Store

_SHOWN = 20


def describe(data_dir: Path, checkpoints: Store) -> dict[str, Any]:
    """`collections` and `records`: how many there are. `largest`: a list of those with the most records, at most 20, each
    with `name` (and tenant and database where these are not the default), `records`, `dimension`, `bytes` (of the vector
    segment) and `checkpoint` (when it was taken; None for none)."""
    found = sorted(sqlite.collections(data_dir), key=lambda each: (-each.records, each.name))
    return {
        "collections": len(found),
        "records": sum(each.records for each in found),
        "largest": [_describe(data_dir, checkpoints, each) for each in found[:_SHOWN]],
    }


def _describe(data_dir: Path, checkpoints: Store, collection: sqlite.Collection) -> dict[str, Any]:
    checkpoint = checkpoints.latest(collection.segment)
    return {
        "name": qualified(collection),
        "records": collection.records,
        "dimension": collection.dimension,
        "bytes": segment.allocated(data_dir / collection.segment),
        "checkpoint": checkpoint.taken if checkpoint else None,
    }
