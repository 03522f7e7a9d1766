"""Where copies of the data are made, and what is noted of each.

Copies are made in `<data>/../restore/staging-TIME`. A note beside each, `staging-TIME.note`, tells whoever comes after a kill
what it is: a copy that never was the data, or one of the two directories of an exchange; then the inode of the former data
tells which. What cannot be told is named, and never removed. The one who works on it has the note locked.

Root exchanges beside the data, in a directory that is its own: a kill there leaves one of the two as `.staging-TIME`, or
`.replaced-TIME` on the way back. It is brought to where its name says first.
"""

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from chromad import documents
from chromad.host import files, privileges, removal, signals

STAGING, REPLACED, FAILED = "staging-", "replaced-", "failed-"
NOTE = ".note"
FORMER = ".former"
_TIME = "%Y%m%dT%H%M%S.%fZ"
NOTE_BYTES = 4096
# The name of this program's copy, where root's part has to know it, see `settle`
_settled = ""


def place(data_dir: Path) -> Path:
    """The directory beside the data in which copies are made and former data are kept, with the owner of the data."""
    parent = location(data_dir)
    if not parent.exists():
        if privileges.may("make place"):
            privileges.ask("make place")
        else:
            owner = data_dir.stat()
            files.make_directory(parent, 0o750, (owner.st_uid, owner.st_gid))
    return parent


def settle(data_dir: Path) -> Path:
    """Settles the name of this program's copy; gives where it will be."""
    global _settled  # noqa: PLW0603 (before the program becomes two)
    _settled = f"{STAGING}{datetime.now(UTC).strftime(_TIME)}"
    return settled(location(data_dir))


def settled(parent: Path) -> Path:
    """Where this program's copy is in a directory, after `settle`."""
    return parent / _settled


def ways(data_dir: Path) -> list[Path]:
    """What there is on the way between the data and where copies are."""
    kinds = (f".{STAGING}", f".{REPLACED}")
    return [path for path in sorted(data_dir.parent.glob(".*-*")) if path.name.startswith(kinds) and since(path)]


def ways_of(directory: Path, note: "StagingNote") -> list[Path]:
    """As `ways`, of one exchange; by name, since the directory may be root's alone to list."""
    if not note.former:
        return []
    names = [f".{path.name}{end}" for path in (directory, named(directory, REPLACED)) for end in ("", FORMER)]
    return [path for name in names if os.path.lexists(path := Path(note.data_dir).with_name(name))]


def place_to_look(data_dir: Path) -> Path:
    """As `place`, for what stays only a moment: makes nothing where what is above the data will do."""
    if privileges.may("make place"):
        return place(data_dir)
    return location(data_dir) if location(data_dir).is_dir() else data_dir.parent


def exists(data_dir: Path) -> bool:
    """Whether there is a directory for copies."""
    return location(data_dir).exists()


def tidy(data_dir: Path) -> None:
    """Removes the directory for copies again, where there is nothing in it."""
    with suppress(OSError):
        files.remove_directory(location(data_dir))


def location(data_dir: Path) -> Path:
    """As `place`, whether or not it is there."""
    return data_dir.parent / "restore"


@dataclass(frozen=True)
class StagingNote:
    """What a note says. former: the inode of the former data, 0 while what it stands beside is a copy and nothing else.
    data_dir: of the exchange, empty before. stopped: whether the service was stopped for it. collection: of the service, which
    is filled from the copy."""

    former: int = 0
    data_dir: str = ""
    stopped: bool = False
    collection: str = ""


class Staging:
    """A place for a copy of the data, `directory`, which is not made; what else is made for it has a name from `beside`.

    At the end of the `with` statement all of it is removed, but for what an exchange has put there.
    """

    def __init__(self, parent: Path) -> None:
        """parent: where it is made."""
        self.directory = parent / (_settled or f"{STAGING}{datetime.now(UTC).strftime(_TIME)}")
        self._fd = -1
        self._note = StagingNote()

    def __enter__(self) -> "Staging":
        try:
            with signals.deferred():
                self._fd = files.open_plain(self.beside("note"), os.O_RDWR | os.O_CREAT | os.O_EXCL)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                self._write(StagingNote())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd < 0:
            return
        with signals.deferred():
            if not self._note.former or not self.directory.exists():
                remove_copies(self.directory)
            left = self.directory.exists() or self.beside("former").exists() or ways_of(self.directory, self._note)
            if not left:
                files.remove(self.beside("note"))
            os.close(self._fd)
            self._fd = -1

    def beside(self, what: str) -> Path:
        """The path of something that belongs to the copy."""
        return self.directory.with_name(f"{self.directory.name}.{what}")

    def named(self, kind: str) -> Path:
        """The path under which it is kept. kind: REPLACED or FAILED."""
        return named(self.directory, kind)

    def will_stop(self) -> None:
        """Notes, on disk, that the service is stopped for it."""
        self._write(StagingNote(stopped=True))

    def will_exchange(self, data_dir: Path, *, stopped: bool) -> None:
        """Notes, on disk, that from now on either directory may be the former data."""
        self._write(StagingNote(data_dir.stat().st_ino, str(data_dir), stopped))

    def will_fill(self, collection: str) -> None:
        """Notes, on disk, that a collection of the service is filled from the copy from now on."""
        self._write(StagingNote(collection=collection))

    def was_not_exchanged(self) -> None:
        """Notes that it is a copy and nothing else, if the data are where they were, and the copy as well."""
        if ways_of(self.directory, self._note):
            return
        if self._note.former and inode(Path(self._note.data_dir)) == self._note.former:
            self._write(StagingNote())

    def _write(self, note: StagingNote) -> None:
        text = json.dumps(asdict(note))
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)
        os.fsync(self._fd)
        files.fsync_path(self.directory.parent)
        self._note = note


def parse(text: bytes) -> StagingNote | None:
    try:
        found = documents.parse(text)
        return StagingNote(
            int(found["former"]), str(found["data_dir"]), bool(found["stopped"]), str(found.get("collection", ""))
        )
    except (KeyError, TypeError, ValueError):
        return None


def remove_copies(directory: Path) -> None:
    """Removes a copy, and what was made for it."""
    note = f"{directory.name}{NOTE}"
    for path in (directory, *directory.parent.glob(f"{directory.name}.*")):
        if path.name in (note, former(directory).name):
            continue
        if path.is_dir() and not path.is_symlink():
            removal.remove_tree(path, ignore_errors=True)
        else:
            files.remove(path)


def stem(path: Path) -> str:
    """`staging-20260102T030405.000006Z.restic` -> `staging-20260102T030405.000006Z`"""
    return ".".join(path.name.removeprefix(".").split(".")[:2])


def since(path: Path) -> datetime | None:
    try:
        return datetime.strptime(stem(path).partition("-")[2], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def allocated(path: Path) -> int:
    """Bytes that a tree, or a file, takes on disk."""
    if path.is_file():
        return path.lstat().st_blocks * 512
    return sum(os.lstat(os.path.join(top, name)).st_blocks * 512 for top, _, names in os.walk(path) for name in names)


def named(directory: Path, kind: str) -> Path:
    return directory.with_name(directory.name.replace(STAGING, kind, 1))


def former(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}{FORMER}")


def inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
