"""The restore drill: the newest proven backup is restored from the repository into a scratch place and opened.

Every file is compared with its checksum, every collection counted, the sampled queries asked again; then restic checks
the repository and reads a part of it, another one each time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from chromad.backup import assemble, catalog, ledger, manifest, proof, workspace
from chromad.backup.ledger import Drill
from chromad.backup.repository import Repository
from chromad.config import Config
from chromad.errors import ChromadError, TryAgain
from chromad.host import removal, signals
from chromad.store import lock

# A drill reads one of so many parts of the repository.
PARTS = 10

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Drilled:
    """What was drilled, and how long it took in seconds. part: of the repository that was read."""

    id: str
    created: str
    collections: int
    records: int
    seconds: float
    part: str


def drill(config: Config, primary: Repository, name: str, progress: Progress) -> Drilled:
    """Drills a backup, given by id or `latest`. Raises BackupError and others when it cannot be restored; the ledger says so."""
    workspace.prepare(config)
    started = time.monotonic()
    with lock.backup_lock(config.backup_dir) as held:
        primary.lock_fd = held.fd
        workspace.remove_leftovers(config)
        known = ledger.read(config.backup_dir)
        part = f"{known.parts % PARTS + 1}/{PARTS}"
        # A name that is mistyped says nothing of the backups.
        chosen = None if name in catalog.NAMES else catalog.find(primary, name)
        tried = ""

        def note(problem: str) -> float:
            seconds = round(time.monotonic() - started, 1)
            entry = Drill(ledger.now(), tried, seconds, part, " ".join(problem.split()))
            ledger.write(config.backup_dir, replace(known, parts=known.parts + 1, drills=[*known.drills, entry]))
            return seconds

        try:
            snapshot = chosen or catalog.find(primary, name)
            tried = snapshot.id
            found = _restore_and_prove(config, primary, snapshot, progress)
            primary.check(part, lambda: progress(f"reading part {part} of the repository", 0, 0))
            primary.prune(lambda: progress("pruning", 0, 0))
        except TryAgain:
            # Others are at work in the repository; that says nothing of the backup.
            raise
        except Exception as error:
            # Not one that was interrupted: that says nothing of the backup.
            note(error.message if isinstance(error, ChromadError) else f"{type(error).__name__}: {error}")
            raise
        with signals.deferred():
            seconds = note("")
            signals.finished()
    return Drilled(tried, found.created, len(found.collections), found.records, seconds, part)


def _restore_and_prove(
    config: Config, primary: Repository, snapshot: catalog.Snapshot, progress: Progress
) -> manifest.Manifest:
    place = config.backup_dir / f"drill-{snapshot.id}"
    removal.remove_tree(place, ignore_errors=True)
    try:
        size = snapshot.number("bytes") or 0
        workspace.scratch_space(config, size)
        primary.restore(snapshot, place, size, lambda done, total: progress("restoring", done, total))
        found = manifest.read(place)
        assemble.check_engine(found)
        assemble.verify(place, found, progress)
        assemble.bring_up(place, found)
        proof.prove(config, place, found.collections, None, lambda done, total: progress("comparing", done, total))
    finally:
        removal.remove_tree(place, ignore_errors=True)
    return found
