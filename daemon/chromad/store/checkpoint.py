"""Checkpoints: validated, fsynced copies of vector segments that nobody writes again.

`<checkpoint_dir>/<segment>/<seq id>/` holds the segment's files and `checkpoint.json`: the seq id that they stand for,
the SHA-256 of each, and what the live files looked like. One is built under a name that starts with a dot and renamed
when it is durable; only then the one before it goes.
"""

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from chromad.chroma import log, segment, soundness, sqlite
from chromad.chroma.segment import Stats
from chromad.errors import BackupError, ConfigurationError, passes
from chromad.fields import Moment, Name, Number, Uuid
from chromad.host import files
from chromad.logs import events
from chromad.logs.lines import log as journal
from chromad.store import quarantine

FILE = "checkpoint.json"
FORMAT = 1
_UNFINISHED = ".unfinished-"
_CHUNK = 1 << 20
_LINK_TRIES = 5


@dataclass(frozen=True)
class File:
    """name, size in bytes and SHA-256 of a copy; inode and mtime_ns of the live file that it was taken from."""

    name: Name
    size: int
    sha256: str
    inode: int
    mtime_ns: int


@dataclass(frozen=True)
class Checkpoint:
    """segment: uuid. seq_id: up to where the copy has applied the log. data_id: see `state.State`. taken: UTC, ISO 8601.
    mended: vectors that are as they were logged, but were not in the live files (see `vectors`)."""

    format: int
    segment: Uuid
    seq_id: Number
    data_id: str
    taken: Moment
    files: list[File]
    mended: Number = 0

    def is_of(self, live: Stats) -> bool:
        """Whether the live files are untouched since this was taken."""
        return live == {file.name: (file.inode, file.size, file.mtime_ns) for file in self.files}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class Store:
    """The checkpoints of one data directory's present history; nobody else writes them.

    shares_blocks: whether a copy takes no space of its own (reflink); known after `prepare`.
    """

    def __init__(self, data_dir: Path, directory: Path, data_id: str) -> None:
        self._data_dir = data_dir
        self._directory = directory
        self._data_id = data_id
        self._known: dict[str, tuple[Path, Checkpoint] | None] = {}
        self.shares_blocks = False
        self.unsound: dict[str, str] = {}
        self.left: dict[str, str] = {}

    def prepare(self) -> None:
        """Makes the directory where that is possible. Raises ConfigurationError where it is not, or cannot be written."""
        try:
            self._directory.mkdir(mode=0o750, exist_ok=True)
            self.shares_blocks = segment.shares_blocks(self._data_dir, self._directory)
        except OSError as error:
            if passes(error):
                raise
            raise ConfigurationError(
                f"checkpoint_dir {self._directory}: {error.strerror}",
                f"create it for the owner of {self._data_dir}, on the same file system: install -d -m 0750 …; "
                "under systemd, see ReadWritePaths=",
            ) from None

    def latest(self, uuid: str) -> Checkpoint | None:
        """The newest checkpoint of a segment, None when there is none that can be read."""
        known = self._known.get(uuid)
        if uuid not in self._known or (known and not (known[0] / FILE).exists()):
            found = [(path, checkpoint) for path, checkpoint in self._all(uuid) if checkpoint]
            known = max(found, key=lambda each: (each[1].seq_id, each[1].taken), default=None)
            self._known[uuid] = known
        return known[1] if known else None

    def stale(self, collections: list[sqlite.Collection]) -> list[sqlite.Collection]:
        """The collections whose segment was persisted since its last checkpoint."""
        result = []
        for collection in collections:
            live = segment.stats(self._data_dir / collection.segment)
            if segment.PICKLE in live and collection.persisted is not None:
                last = self.latest(collection.segment)
                if last is None or last.seq_id != collection.persisted or not last.is_of(live):
                    result.append(collection)
        return result

    def take(
        self, collections: list[sqlite.Collection], *, live: bool, progress: Callable[[int], None]
    ) -> dict[str, Checkpoint]:
        """Takes a checkpoint of each segment; gives them by collection id. Those that cannot be had are missing in it.

        What the live files of a collection are found not to be sound for is in `unsound` afterwards, by collection id, and in `left`
        why one can have no checkpoint. In neither are those that were deleted meanwhile, or need but their next persist.

        live: an engine may be writing. progress: called often, with the number of segments that are done.
        """
        taken: dict[str, Checkpoint] = {}
        self.unsound.clear()
        self.left.clear()
        drafts: list[_Draft] = []
        self._clear_unfinished()
        try:
            with sqlite.connect(self._data_dir) as connection:
                for collection in collections:
                    draft = self._draft(connection, collection, live)
                    if draft:
                        drafts.append(draft)
                    progress(0)
            claims = {draft.path: draft.claim for draft in drafts}
            verdicts = soundness.examine(list(claims), lambda: progress(0), claims)
            with sqlite.connect(self._data_dir) as connection:
                # The log of one that was deleted meanwhile was not there to compare with.
                drafts = [draft for draft in drafts if sqlite.is_there(connection, draft.collection)]
            for draft in drafts:
                verdict = verdicts[draft.path]
                if verdict.sound or verdict.empty:
                    taken[draft.collection.id] = self._publish(draft, verdict.unlike)
                elif verdict.unread:
                    self.left[draft.collection.id] = verdict.problem
                    journal.error("checkpoint of %s: %s", draft.collection.name, verdict.problem)
                else:
                    self.unsound[draft.collection.id] = verdict.problem
                    self.left[draft.collection.id] = f"it is not sound: {verdict.problem}"
                    journal.error(
                        "checkpoint of %s: the segment %s is not sound: %s",
                        draft.collection.name,
                        draft.collection.segment,
                        verdict.problem,
                    )
                progress(len(taken))
        finally:
            self._clear_unfinished()
        return taken

    def put_back(self, checkpoint: Checkpoint, target: Path, tick: Callable[[], None]) -> None:
        """Writes a verified, fsynced copy of a checkpoint into a new directory. Raises BackupError when it is damaged."""
        known = self._known[checkpoint.segment]
        assert known
        source = known[0]
        target.mkdir(mode=0o750)
        for file in checkpoint.files:
            try:
                segment.copy_file(source / file.name, target / file.name)
            except FileNotFoundError:
                raise BackupError(f"{source / file.name} is gone") from None
            if _hash(target / file.name, tick) != file.sha256:
                raise BackupError(f"{source / file.name} is damaged", "the disk may be at fault")
        for _ in segment.sync(target):
            tick()

    def link(self, uuid: str, target: Path) -> Checkpoint | None:
        """Hard links to the files of a segment's newest checkpoint, in a new directory; None when there is none.

        Another process may take a newer one meanwhile.
        """
        for _ in range(_LINK_TRIES):
            self._known.pop(uuid, None)
            checkpoint = self.latest(uuid)
            known = self._known[uuid]
            if checkpoint is None or known is None:
                return None
            target.mkdir(mode=0o750)
            try:
                for file in checkpoint.files:
                    os.link(known[0] / file.name, target / file.name)
            except FileNotFoundError:
                shutil.rmtree(target)
            else:
                return checkpoint
        raise BackupError(f"the checkpoints of {uuid} are renewed too fast", "try again")

    def same_content(self, checkpoint: Checkpoint, tick: Callable[[], None]) -> bool:
        """Whether the live files hold the same bytes as a checkpoint."""
        live = self._data_dir / checkpoint.segment
        try:
            sizes = {name: size for name, (_, size, _) in segment.stats(live).items()}
            return sizes == {file.name: file.size for file in checkpoint.files} and all(
                _hash(live / file.name, tick) == file.sha256 for file in checkpoint.files
            )
        except OSError:
            return False

    def claim(
        self, connection: sqlite3.Connection, collection: sqlite.Collection, upto: int, *, mend: bool
    ) -> soundness.Claim:
        """That a segment is the newest checkpoint with the log after it applied, up to a seq id."""
        last = self.latest(collection.segment)
        known = self._known[collection.segment]
        return soundness.Claim(
            data_dir=self._data_dir,
            topic=collection.topic,
            after=last.seq_id if last else 0,
            upto=upto,
            before=known[0] if known else None,
            cosine=sqlite.is_cosine(connection, collection),
            mend=mend,
        )

    def set_aside(self, uuid: str, quarantine_dir: Path) -> None:
        """Moves the checkpoint of a segment, which is damaged, to quarantine, where there is one."""
        home = self._directory / uuid
        if home in self._segments():
            target = quarantine.move(home, quarantine_dir, "checkpoint", _ignore)
            self._known.pop(uuid, None)
            journal.error("%s is damaged, and is moved to %s; the disk may be at fault", home, target)

    def drop_others(self, wanted: set[str]) -> None:
        """Removes the checkpoints of segments that are not (any more) in the database, and those of another history."""
        for path in self._segments():
            if path.name not in wanted:
                shutil.rmtree(path)
                self._known.pop(path.name, None)
            elif self.latest(path.name):
                for other, checkpoint in self._all(path.name):
                    if checkpoint is None:
                        shutil.rmtree(other)

    def newest(self) -> str:
        """When the last checkpoint was taken (UTC, ISO 8601); empty when there is none."""
        found = [self.latest(path.name) for path in self._segments()]
        return max((checkpoint.taken for checkpoint in found if checkpoint), default="")

    def _segments(self) -> list[Path]:
        return segment.directories(self._directory)

    def _draft(self, connection: sqlite3.Connection, collection: sqlite.Collection, live: bool) -> "_Draft | None":
        try:
            return self._copy(connection, collection, live)
        except (BackupError, FileNotFoundError, sqlite.Gone) as error:
            if sqlite.is_there(connection, collection):
                self.left[collection.id] = str(error)
                journal.error("checkpoint of %s: %s", collection.name, error)
            return None

    def _copy(self, connection: sqlite3.Connection, collection: sqlite.Collection, live: bool) -> "_Draft | None":
        uuid = collection.segment
        target = self._directory / f"{_UNFINISHED}{uuid}"
        copy = segment.copy_live if live else segment.copy_still
        seq_id = copy(connection, uuid, self._data_dir / uuid, target)
        if seq_id is None:
            return None
        if not log.replays_exactly(connection, collection, seq_id):
            journal.debug("checkpoint of %s: after its next persist", collection.name)
            return None
        live_stats = segment.stats(self._data_dir / uuid)
        return _Draft(collection, target, seq_id, live_stats, self.claim(connection, collection, seq_id, mend=True))

    def _publish(self, draft: "_Draft", mended: int) -> Checkpoint:
        if mended:
            journal.warning(
                "checkpoint of %s: %d vectors that the engine did not persist are put right from the log",
                draft.collection.name,
                mended,
                extra=events.MENDED.extra,
            )
        held = []
        for name, (_, size, mtime_ns) in sorted(segment.stats(draft.path).items()):
            held.append(
                File(name, size, _hash(draft.path / name, _ignore), draft.live.get(name, (0, 0, 0))[0], mtime_ns)
            )
        checkpoint = Checkpoint(
            FORMAT,
            draft.collection.segment,
            draft.seq_id,
            self._data_id,
            datetime.now(UTC).isoformat(timespec="microseconds"),
            held,
            mended,
        )
        files.write_atomically(draft.path / FILE, json.dumps(asdict(checkpoint), allow_nan=False) + "\n", 0o640)
        for _ in segment.sync(draft.path):
            pass
        home = self._directory / checkpoint.segment
        home.mkdir(mode=0o750, exist_ok=True)
        former = [path for path, _ in self._all(checkpoint.segment)]
        place = home / str(checkpoint.seq_id)
        number = 1
        while place.exists():
            number += 1
            place = home / f"{checkpoint.seq_id}-{number}"
        draft.path.rename(place)
        self._known[checkpoint.segment] = (place, checkpoint)
        files.fsync_path(home)
        files.fsync_path(self._directory)
        for path in former:
            shutil.rmtree(path)
        return checkpoint

    def _all(self, uuid: str) -> Iterator[tuple[Path, Checkpoint | None]]:
        """All of a segment, None standing for one that cannot be read or belongs to another history."""
        try:
            paths = sorted((self._directory / uuid).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        for path in paths:
            try:
                found = TypeAdapter(Checkpoint).validate_json((path / FILE).read_bytes(), strict=True)
            except (OSError, ValueError) as error:
                if not path.exists():
                    continue  # It was replaced, or its collection deleted, while somebody looked.
                journal.warning("%s is no checkpoint that can be used: %s", path, str(error).splitlines()[0])
                yield path, None
            else:
                usable = found.format == FORMAT and found.segment == uuid and found.data_id == self._data_id
                yield path, found if usable else None

    def _clear_unfinished(self) -> None:
        for path in self._directory.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(path)


@dataclass(frozen=True)
class _Draft:
    collection: sqlite.Collection
    path: Path
    seq_id: int
    live: Stats
    claim: soundness.Claim


def _hash(path: Path, tick: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            tick()
    return digest.hexdigest()


def _ignore() -> None:
    pass
