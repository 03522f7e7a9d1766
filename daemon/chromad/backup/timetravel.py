"""Back to a second: which backup to take, where the rest of the log is, and which collections there were.

The log says what was written and when; which collections there were is known only of the moments of backups. So what
lies between two of them is taken from the one before, collections that are new in the one after are added when the log
has records of theirs, and what cannot be exact is said.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from chromad.backup import assemble, between, catalog, ledger, manifest
from chromad.backup.manifest import Manifest
from chromad.backup.repository import Repository, Snapshot
from chromad.chroma import catalogs, sqlite
from chromad.config import Config
from chromad.errors import BackupError, ChromadError, UsageProblem
from chromad.host import removal
from chromad.store import archive, state

_JOINED = "joined"


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


@dataclass(frozen=True)
class Join:
    """The log of a backup, completed up to a target. tick: called while logs are fetched."""

    config: Config
    repository: Repository
    target: Target
    tick: Callable[[], None]

    def bring_up(self, directory: Path, found: Manifest) -> list[str]:
        """As `assemble.bring_up`, to the second of a target. Gives what is not exact; nothing where everything is."""
        seq_id, wanted, notes = self.settle(directory, found)
        assemble.bring_up(directory, found, seq_id=seq_id, catalog=wanted)
        return notes

    def settle(self, directory: Path, found: Manifest) -> tuple[int, catalogs.Catalog, list[str]]:
        """Completes the log of a backup up to a target, of which the directory needs to hold nothing else; gives where it is to
        end, which collections there were then, and what is not exact."""
        target = self.target
        path = directory / archive.FILE
        notes = []
        try:
            if target.joined:
                _join(self.repository, directory, found, target.joined, self.tick)
            elif target.live:
                notes += _join_live(self.config, path, found)
        except archive.Broken as error:
            notes.append(
                f"the log after {archive.newest(path).taken} cannot be joined ({error}); what came then is missing"
            )
        seq_id = archive.cut(path, target.at)
        before, after = archive.around(path, target.at)
        if before is None:
            raise BackupError(
                f"the backup {target.snapshot.id} begins after that time", "choose another one: chromactl backups"
            )
        if gone := archive.gaps(path, before.last_seq_id, seq_id):
            notes.append(
                f"{gone} rows of the log after {before.taken} are gone, as those of collections that were deleted later are; "
                "what they held is missing"
            )
        at_once = catalog.time_of(before.taken) == target.at.replace(microsecond=0)
        wanted, inexact = between.catalog(before, after, archive.topics(path, seq_id), at=target.at, at_once=at_once)
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
            last = archive.last_seq_id(directory / archive.FILE)
            archive.append(
                directory / archive.FILE,
                connection,
                after.base_created,
                lambda within: archive.check_kept(within, last, 0),
            )
    finally:
        removal.remove_tree(place)


def _join_live(config: Config, path: Path, found: Manifest) -> list[str]:
    """The rows of the live log, when this host has the data that were backed up."""
    last = archive.newest(path).taken
    missing = f"what came after the backup of {last} is missing"
    try:
        here = state.read(config.data_dir) if sqlite.exists(config.data_dir) else None
    except ChromadError as error:
        return [f"{missing}: {error.message}"]
    if here is None or here.data_id != found.data_id:
        return [f"{missing}: {config.data_dir} does not hold the data that were backed up"]
    with sqlite.connect(config.data_dir) as connection:
        end = archive.last_seq_id(path)
        # Within the transaction, in which no purge is seen that the ledger does not permit by then
        archive.append(
            path,
            connection,
            datetime.now(UTC).isoformat(timespec="seconds"),
            lambda within: archive.check_kept(within, end, _backed_up(config, found.data_id)),
        )
    return []


def _backed_up(config: Config, data_id: str) -> int:
    """The seq id up to which a backup has permitted to purge the log; 0 where that is not known."""
    try:
        return ledger.covers(config.backup_dir, data_id) or 0
    except (ChromadError, OSError):
        return 0


def _base_time(snapshot: Snapshot) -> datetime:
    return catalog.time_of(snapshot.facts.get("base", snapshot.time))
