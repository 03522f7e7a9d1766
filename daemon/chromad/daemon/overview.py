"""The collections of a data directory at a glance."""

from pathlib import Path

from chromad.chroma import segment, sqlite
from chromad.control.messages import CollectionReport, CollectionsReport
from chromad.daemon.warm import qualified
from chromad.store.checkpoint import Store

_SHOWN = 20


def describe(data_dir: Path, checkpoints: Store) -> CollectionsReport:
    """How many there are, and those with the most records, at most 20."""
    found = sorted(sqlite.collections(data_dir), key=lambda each: (-each.records, each.name))
    return CollectionsReport(
        collections=len(found),
        records=sum(each.records for each in found),
        largest=[_describe(data_dir, checkpoints, each) for each in found[:_SHOWN]],
    )


def _describe(data_dir: Path, checkpoints: Store, collection: sqlite.Collection) -> CollectionReport:
    checkpoint = checkpoints.latest(collection.segment)
    return CollectionReport(
        name=qualified(collection),
        records=collection.records,
        dimension=collection.dimension,
        bytes=segment.allocated(data_dir / collection.segment),
        checkpoint=checkpoint.taken if checkpoint else None,
    )
