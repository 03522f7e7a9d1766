"""The repository: restic stores, encrypts, deduplicates and thins out."""

import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from chromad import documents, names
from chromad.backup import secret
from chromad.backup.restic import NoRepository, Restic
from chromad.config import Config, Keep
from chromad.errors import BackupError
from chromad.host import files

MARK = "chromad"  # the tag of every snapshot that is ours

# The id of a snapshot, which has a short form
_ID = re.compile(r"[0-9a-f]{8,64}")
# What restic gives a file of a local repository until it is whole, local backend's Save
_UNFINISHED = re.compile(r"[0-9a-f]{64}-tmp-\d+")
_UNFINISHED_FOR = 86_400.0  # seconds after which nobody writes it any more
# As many as SQLite's integers have at most
_DIGITS = 19

# bytes done, bytes in all
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Snapshot:
    """A backup in the repository. time: UTC, ISO 8601. facts: what its tags say (`KEY=VALUE`). paths: what was backed up."""

    id: str
    time: str
    host: str
    path: str
    tags: frozenset[str]
    facts: Mapping[str, str]

    def number(self, name: str) -> int | None:
        """A fact that is a number; None where it is not."""
        text = self.facts.get(name, "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else None


@dataclass(frozen=True)
class Added:
    """The snapshot that restic has made, and how many bytes the repository grew by, before compression."""

    id: str
    bytes: int


class Repository(Restic):
    """One restic repository, by what is done with it."""

    def exists(self) -> bool:
        """Whether the repository is there and the key opens it."""
        try:
            self.run("cat", "config")
        except NoRepository:
            return False
        return True

    def init(self) -> None:
        """Makes the repository."""
        self.run("init")

    def snapshots(self) -> list[Snapshot]:
        """Our backups, the oldest first."""
        found = documents.parse(self.run("snapshots", "--json", "--no-lock", "--tag", MARK)) or []
        return sorted((_snapshot(each) for each in found), key=lambda each: each.time)

    def backup(self, directory: Path, host: str, tags: Iterable[str], progress: Progress) -> Added:
        """Stores a directory."""
        # Links to the same file change its ctime; what is in it changes with its inode or its mtime.
        arguments = ["backup", "--json", "--ignore-ctime", "--host", host]
        arguments += [word for tag in (MARK, *tags) for word in ("--tag", tag)]
        summary: dict[str, Any] = {}

        def line(text: str) -> None:
            message = documents.parse(text)
            if message.get("message_type") == "status":
                progress(int(message.get("bytes_done", 0)), int(message.get("total_bytes", 0)))
            elif message.get("message_type") == "summary":
                summary.update(message)

        self.run(*arguments, str(directory), line=line)
        if "snapshot_id" not in summary:
            raise BackupError("restic told of no snapshot", "look at what restic says: restic snapshots")
        return Added(str(summary["snapshot_id"])[:8], int(summary.get("data_added", 0)))

    def read_file(self, snapshot: Snapshot, name: str) -> bytes:
        """The content of one small text file of a backup."""
        return self.run("dump", "--no-lock", snapshot.id, f"{snapshot.path}/{name}").encode()

    def fetch_file(self, snapshot: Snapshot, name: str, target: Path, tick: Callable[[], None]) -> None:
        """Writes one file of a backup to a new place."""
        with open(target, "xb") as file:
            self.run("dump", "--no-lock", snapshot.id, f"{snapshot.path}/{name}", output=file, tick=tick)

    def restore(self, snapshot: Snapshot, target: Path, size: int, progress: Progress) -> None:
        """Writes the files of a backup into a new directory. size: bytes to expect."""
        parent = target.with_name(f"{target.name}.restic")
        try:
            parent.mkdir(mode=0o700)
            self.run(
                *("restore", "--no-lock", snapshot.id, "--target", str(parent)),
                tick=lambda: progress(min(_size(parent), size), size),
            )
            source = _within(parent, snapshot)
            _need_plain(source, snapshot)
            files.rename(source, target)
        finally:
            files.remove_tree(parent, ignore_errors=True)

    def retain(self, host: str, keep: Keep, tag: str, spare: Collection[str] = ()) -> int:
        """Forgets the backups of a host with a tag that the policy does not keep; gives how many.

        spare: when those were created that stay whatever the policy says.
        """
        words = [f"--keep-{name}={count}" for name, count in keep.model_dump().items() if count]
        arguments = ["--json", "--host", host, "--tag", f"{MARK},{tag}", "--group-by", "host", *words]
        if not spare:
            return len(self._removed(*arguments))
        unwanted = [each.id for each in self._removed("--dry-run", *arguments) if each.time not in spare]
        if unwanted:
            self.forget(unwanted)
        return len(unwanted)

    def _removed(self, *arguments: str) -> list[Snapshot]:
        groups = documents.parse(self.run("forget", *arguments) or "null") or []
        return [_snapshot(each) for group in groups for each in group.get("remove") or []]

    def forget(self, ids: Sequence[str]) -> None:
        """Removes backups; their content goes with the next `prune`."""
        self.run("forget", *ids)

    def retag(self, snapshot: Snapshot, remove: str, add: str) -> str:
        """Gives a backup another tag; restic stores it anew then, and removes the former one where the repository lets it. Gives
        its id. Raises BackupError when it has not got the tag."""
        self.run("tag", "--remove", remove, "--add", add, snapshot.id)
        for each in self.snapshots():
            if (each.time, each.path) == (snapshot.time, snapshot.path) and add in each.tags:
                return each.id
        raise BackupError(
            f"{self.location} did not take the tag {add} for {snapshot.id}", "chromactl backups lists what there is"
        )

    def prune(self, tick: Callable[[], None]) -> None:
        """Gives back the space of what no backup holds any more."""
        self.run("prune", tick=tick)

    def sweep(self) -> None:
        """Removes what a restic that was killed has left unfinished a day ago or earlier, which restic itself never does.
        Only in a repository that is a directory of this host: what is left elsewhere is for whoever keeps it."""
        if not self.location.startswith("/"):
            return
        long_ago = time.time() - _UNFINISHED_FOR
        for top, _, plain in os.walk(self.location):
            for path in (Path(top, name) for name in plain if _UNFINISHED.fullmatch(name)):
                with suppress(OSError):
                    if path.lstat().st_mtime < long_ago:
                        files.remove(path)

    def check(self, part: str, tick: Callable[[], None]) -> None:
        """Checks the structure, and reads a part of the content. part: as `3/10`."""
        self.run("check", f"--read-data-subset={part}", tick=tick)

    def copy_to(self, other: "Repository", backup_id: str, tick: Callable[[], None]) -> None:
        """Copies a backup into another repository, which is made when it is not there."""
        fd = secret.in_memory(self._password)
        source = ["--from-repo", self.location, "--from-password-file", f"/proc/self/fd/{fd}"]
        try:
            if not other.exists():
                other.run("init", *source, "--copy-chunker-params", fds=(fd,))
            other.run("copy", *source, backup_id, fds=(fd,), tick=tick)
        finally:
            os.close(fd)


@dataclass(frozen=True)
class Places:
    """Where backups are stored. second: has a copy of each, where there is one."""

    primary: Repository
    second: Repository | None = None


def connect(config: Config, *, cached: bool = True) -> Repository:
    """The repository that a configuration names. Reads its secrets, so as root before another user is taken on: restic runs as
    whoever we are when it is called. cached: whether it may keep a cache beside the checkpoints."""
    return _connect(config, config.backup.repository, config.backup.password_file, cached=cached)


def connect_copy(config: Config) -> Repository | None:
    """The second repository, where there is one."""
    second = config.backup.copy_to
    return _connect(config, second.repository, second.password_file, cached=True) if second else None


def _connect(config: Config, location: str, password_file: Path, *, cached: bool) -> Repository:
    backup = config.backup
    return Repository(
        location,
        secret.read(password_file),
        cache_dir=config.backup_dir / "cache" if cached else None,
        options=backup.options,
        environment=secret.read_environment(backup.environment_file) if backup.environment_file else {},
    )


def _snapshot(document: Mapping[str, Any]) -> Snapshot:
    tags = frozenset(document.get("tags") or [])
    facts = dict(tag.split("=", 1) for tag in tags if "=" in tag)
    for name in ("created", "base"):
        # Anybody with the key may have set them.
        if not _is_time(facts.get(name, "")):
            facts.pop(name, None)
    paths = document.get("paths") or [""]
    name = str(document["id"])
    if not _ID.fullmatch(name):
        raise BackupError(f"restic tells of a snapshot {name!r}", "is that restic?")
    return Snapshot(
        name[:8],
        facts.get("created", str(document["time"])),
        str(document.get("hostname", "")),
        str(paths[0]),
        tags,
        facts,
    )


def _within(parent: Path, snapshot: Snapshot) -> Path:
    """Where the files of a snapshot are, below the directory to which it was restored. Whoever has the key can store one whose
    path leads elsewhere."""
    source = parent
    for name in snapshot.path.split("/")[1:] if names.is_absolute(snapshot.path) else [""]:
        source = source / name
        if not name or not source.is_dir() or source.is_symlink():
            raise BackupError(
                f"the backup {snapshot.id} does not hold {snapshot.path}", "choose another one: chromactl backups"
            )
    return source


def _need_plain(directory: Path, snapshot: Snapshot) -> None:
    """Raises BackupError when there is anything but directories, and files with no other name."""
    for path in directory.rglob("*"):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) and (not stat.S_ISREG(status.st_mode) or status.st_nlink > 1):
            raise BackupError(
                f"the backup {snapshot.id} holds {path.relative_to(directory)}, which is no plain file",
                "choose another one: chromactl backups",
            )


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _size(directory: Path) -> int:
    total = 0
    for top, _, plain in os.walk(directory):
        for name in plain:
            try:
                total += os.lstat(os.path.join(top, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
