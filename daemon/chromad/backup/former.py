"""The good backup before this one: one of nothing does not take its place, and one with far less does not let it go.

An empty data directory beside the backups of a full one is a volume that is not mounted more often than it is meant. And where
records go by mistake, retention must not bring the mistake to its end before somebody has noticed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import TypeAdapter

from chromad.backup import ledger
from chromad.backup.ledger import Kept, Ledger
from chromad.backup.repository import Repository, Snapshot
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.errors import ConfigurationError

# For so long, counted from the one that came after it
_TIME = timedelta(days=30)
# The tag by which later backups say what is kept, should the ledger be lost: keep-CREATED=UNTIL/RECORDS/LEFT
_TAG = "keep-"


@dataclass(frozen=True)
class Former:
    """The last good backup of this host. created: UTC, ISO 8601; empty when there is none. What it does not say is 0.
    kept: the backups that retention leaves alone, whatever the policy says."""

    created: str
    collections: int
    records: int
    kept: list[Kept]


def find(config: Config, primary: Repository, host: str, tag: str, *, ask: bool = False) -> Former:
    """Reads it from the ledger, and from the repository where the ledger does not say, or when told to `ask`.

    tag: of good backups.
    """
    known = ledger.read(config.backup_dir)
    good = [each for each in known.taken if each.proven and each.records is not None]
    found = [Former(each.created, each.collections or 0, each.records or 0, known.kept) for each in good[-1:]]
    if ask or not found:
        snapshots = [each for each in primary.snapshots() if each.host == host and tag in each.tags]
        kept = known.kept or _kept(snapshots)
        found += [
            Former(each.time, each.number("collections") or 0, each.number("records") or 0, kept)
            for each in snapshots[-1:]
        ]
    return max(found, key=lambda each: datetime.fromisoformat(each.created), default=Former("", 0, 0, known.kept))


def has_nothing(config: Config) -> bool:
    """Whether there is a database of Chroma without any collection. Raises ConfigurationError for one of something else."""
    if not sqlite.exists(config.data_dir):
        return False
    sqlite.check_schema(config.data_dir)
    return not sqlite.collections(config.data_dir, counted=False)


def refuse_nothing(config: Config, former: Former) -> None:
    """To be called for a backup of nothing. Raises ConfigurationError when the last good one had collections."""
    if former.collections:
        raise ConfigurationError(
            f"{config.data_dir} has no collection, and the last good backup, of {former.created}, has {former.collections}",
            "is a volume not mounted, or data_dir not what it was? If they are meant to be gone: chromactl backup --accept-empty",
        )


def shrunk(former: Former, created: str, records: int) -> Kept | None:
    """The former one, to be kept when a good one with so many records comes after it; None when these are at least half."""
    if not former.created or records * 2 >= former.records:
        return None
    until = datetime.fromisoformat(created) + _TIME
    return Kept(former.created, until.isoformat(timespec="seconds"), former.records, records)


def active(kept: Iterable[Kept], now: str) -> list[Kept]:
    """Those whose time is not over."""
    moment = datetime.fromisoformat(now)
    return [each for each in kept if datetime.fromisoformat(each.until) > moment]


def tags(kept: Iterable[Kept]) -> list[str]:
    """How a backup says what is kept."""
    return [f"{_TAG}{each.created}={each.until}/{each.records}/{each.left}" for each in kept]


def release(known: Ledger, times: Iterable[str]) -> Ledger:
    """Without those that were forgotten by hand, given by the time of their creation."""
    gone = set(times)
    return replace(known, kept=[each for each in known.kept if each.created not in gone])


def _kept(snapshots: Iterable[Snapshot]) -> list[Kept]:
    facts = {key: value for each in snapshots for key, value in each.facts.items() if key.startswith(_TAG)}
    found = [_parse(key.removeprefix(_TAG), value) for key, value in facts.items()]
    return [each for each in found if each]


def _parse(created: str, text: str) -> Kept | None:
    """None for what is not such a tag: anybody with the key may have set it."""
    words = dict(zip(("until", "records", "left"), text.split("/"), strict=False))
    try:
        return TypeAdapter(Kept).validate_python({"created": created, **words})
    except ValueError:
        return None
