"""Back to a second: which backup to take, where the rest of the log is, and which collections there were.

The log says what was written and when; which collections there were is known only of the moments of backups. So what
lies between two of them is taken from the one before, collections that are new in the one after are added when the log
has records of theirs, and what cannot be exact is said.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chromad.backup import assemble, catalog, manifest
from chromad.backup.manifest import Manifest
from chromad.backup.repository import Repository, Snapshot
from chromad.config import Config
from chromad.errors import BackupError, ChromadError, UsageProblem
from chromad.store import archive, removal, sqlite, state

_JOINED = "joined"
# The column that tells the collection of a row
_KEYS = {"collections": "id", "collection_metadata": "collection_id", "segments": "collection"}


@dataclass(frozen=True)
class Target:
    """at: UTC. snapshot: what to begin with. joined: the backup after it, whose base holds the log that is missing;
    live: the live log holds it; neither where the snapshot's own log reaches far enough."""

    at: datetime
    snapshot: Snapshot
    joined: Snapshot | None = None
    live: bool = False


def parse(text: str) -> datetime:
    """A time from what an operator writes, `2026-01-02T03:04:05+01:00`; UTC without an offset. Raises UsageProblem."""
    try:
        found = catalog.time_of(text)
    except ValueError:
        raise UsageProblem(
            f"{text!r} is not a time", "as in 2026-01-02T03:04:05Z, or with an offset such as +01:00"
        ) from None
    if found > datetime.now(UTC):
        raise UsageProblem(f"{text} has yet to come", "a time in the past; UTC without an offset")
    return found


def choose(snapshots: Sequence[Snapshot], at: datetime) -> Target:
    """What to restore for a time. snapshots: of one host, the oldest first. Raises BackupError where nothing reaches back."""
    earlier = [each for each in snapshots if catalog.time_of(each.time) <= at]
    later = [each for each in snapshots if catalog.time_of(each.time) > at]
    if later and _base_time(later[0]) <= at:
        return Target(at, later[0])
    if not earlier:
        oldest = f"; the oldest backup is of {snapshots[0].facts.get('base', snapshots[0].time)}" if snapshots else ""
        raise BackupError(f"no backup reaches back to {at:%Y-%m-%dT%H:%M:%SZ}{oldest}", "name a later time")
    if later:
        return Target(at, earlier[-1], joined=later[0])
    return Target(at, earlier[-1], live=True)


def bring_up(
    config: Config, repository: Repository, directory: Path, found: Manifest, target: Target, tick: Callable[[], None]
) -> list[str]:
    """As `assemble.bring_up`, to the second of a target. Gives what is not exact; nothing where everything is."""
    seq_id, wanted, notes = settle(config, repository, directory, found, target, tick)
    assemble.bring_up(directory, found, seq_id=seq_id, catalog=wanted)
    return notes


def settle(
    config: Config, repository: Repository, directory: Path, found: Manifest, target: Target, tick: Callable[[], None]
) -> tuple[int, archive.Catalog, list[str]]:
    """Completes the log of a backup up to a target, of which the directory needs to hold nothing else; gives where it is to
    end, which collections there were then, and what is not exact."""
    path = directory / archive.FILE
    notes = []
    try:
        if target.joined:
            _join(repository, directory, found, target.joined, tick)
        elif target.live:
            notes += _join_live(config, path, found)
    except archive.Broken as error:
        notes.append(
            f"the log after {archive.marks(path)[-1].taken} cannot be joined ({error}); what came then is missing"
        )
    seq_id = archive.cut(path, target.at)
    marks = archive.marks(path)
    before = [mark for mark in marks if catalog.time_of(mark.taken) <= target.at]
    after = [mark for mark in marks if catalog.time_of(mark.taken) > target.at]
    if not before:
        raise BackupError(
            f"the backup {target.snapshot.id} begins after that time", "choose another one: chromactl backups"
        )
    wanted, inexact = _catalog(before[-1], after[0] if after else None, archive.topics(path, seq_id))
    # What is older than the log in the base was applied to it long ago.
    return max(seq_id, found.base_seq_id), wanted, notes + inexact


def _join(repository: Repository, directory: Path, found: Manifest, joined: Snapshot, tick: Callable[[], None]) -> None:
    place = directory / _JOINED
    place.mkdir(mode=0o700)
    try:
        for name in (manifest.FILE, sqlite.FILE, archive.FILE):
            repository.fetch_file(joined, name, place / name, tick)
        after = manifest.read(place)
        for entry in after.files:
            if entry.path in (sqlite.FILE, archive.FILE):
                manifest.check_file(place / entry.path, entry, lambda _size: tick())
        if after.data_id != found.data_id:
            raise archive.Broken("another history of the data began")
        if after.continues is None or after.continues > archive.last_seq_id(directory / archive.FILE):
            raise archive.Broken("part of the log was purged")
        with sqlite.connect(place) as connection:
            archive.append(directory / archive.FILE, connection, after.base_created)
    finally:
        removal.remove_tree(place)


def _join_live(config: Config, path: Path, found: Manifest) -> list[str]:
    """The rows of the live log, when this host has the data that were backed up."""
    last = archive.marks(path)[-1].taken
    missing = f"what came after the backup of {last} is missing"
    try:
        here = state.read(config.data_dir) if sqlite.exists(config.data_dir) else None
    except ChromadError as error:
        return [f"{missing}: {error.message}"]
    if here is None or here.data_id != found.data_id:
        return [f"{missing}: {config.data_dir} does not hold the data that were backed up"]
    with sqlite.connect(config.data_dir) as connection:
        archive.append(path, connection, datetime.now(UTC).isoformat(timespec="seconds"))
    return []


def _catalog(before: archive.Mark, after: archive.Mark | None, logged: set[str]) -> tuple[archive.Catalog, list[str]]:
    if after is None:
        return before.catalog, []
    first, second = before.collections(), after.collections()
    new = (second.keys() - first.keys()) & logged
    # One that was made anew under its name was not there any more.
    taken = {second[uuid] for uuid in new}
    former = {uuid for uuid, place in first.items() if place in taken}
    span = f"between {before.taken} and {after.taken}"
    notes = [
        f"the collection {first[uuid][0]!r} was deleted {span}; what was written to it in between went with it, so it is as "
        f"of {before.taken}"
        for uuid in first.keys() - second.keys() - former
    ]
    notes += [
        f"the collection {first[uuid][0]!r} was renamed to {second[uuid][0]!r} {span}; it has the former name"
        for uuid in first.keys() & second.keys()
        if first[uuid] != second[uuid]
    ]
    catalog_then = {
        table: {"columns": content["columns"], "rows": _rows(table, content, after.catalog[table], former, new)}
        for table, content in before.catalog.items()
    }
    return catalog_then, sorted(notes)


def _rows(
    table: str, before: dict[str, list[Any]], after: dict[str, list[Any]], former: set[str], new: set[str]
) -> list[Any]:
    """The rows of the earlier catalog, without those of former collections, and what new ones need of the later."""
    columns = before["columns"]
    if table in ("tenants", "databases"):
        place = columns.index("id")
        known = {row[place] for row in before["rows"]}
        return before["rows"] + [row for row in after["rows"] if row[place] not in known]
    key = _KEYS.get(table)
    if key is None:
        return before["rows"]
    place = columns.index(key)
    return [row for row in before["rows"] if row[place] not in former] + [
        row for row in after["rows"] if row[place] in new
    ]


def _base_time(snapshot: Snapshot) -> datetime:
    return catalog.time_of(snapshot.facts.get("base", snapshot.time))
