"""`manifest.json`: what a backup holds, and how to see that it still does."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from chromad import documents, names
from chromad.backup.fingerprint import Fingerprint
from chromad.chroma import segment, sqlite
from chromad.errors import BackupError
from chromad.fields import Moment, Number, Uuid
from chromad.store import archive

FILE = "manifest.json"
FORMAT = 2
_CHUNK = 1 << 20
_HINT = "choose another backup: chromactl backups"

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Entry:
    """One file: path relative to the backup, size in bytes, SHA-256 in hex."""

    path: str
    size: Number
    sha256: str


@dataclass(frozen=True)
class Sample:
    """A record as it was read when the backup was proven. digest, vector: see `Fingerprint`, empty before. nearest,
    distances: what a query with its vector gave; no distances where one of them was not finite (an earlier chromad wrote
    None for these)."""

    id: str
    digest: str
    nearest: list[str]
    distances: list[float | None]
    vector: list[float] = field(default_factory=list)

    @property
    def fingerprint(self) -> Fingerprint | None:
        """None before it was read, and where an earlier chromad has read it."""
        return Fingerprint(self.digest, tuple(self.vector)) if self.vector else None


@dataclass(frozen=True)
class CollectionEntry:
    """One collection with the records that must be there after a restore. segment: of the vectors. seq_id: up to where the
    copy of the segment has applied the log, None where the log rebuilds all of it."""

    id: Uuid
    tenant: str
    database: str
    name: str
    dimension: Number | None
    records: Number
    segment: Uuid
    seq_id: Number | None
    metadata: dict[str, Any]
    samples: list[Sample]


@dataclass(frozen=True)
class Manifest:
    """format: of this file. Times are UTC, ISO 8601; versions are those that took the backup.

    created: when the log was read for it. base_created: the same for the base that it shares with others; base_seq_id and
    last_seq_id: of the newest row of the log in the base, and in the backup. continues: the row of the log after which the
    base's own log lacks nothing, for joining it to an earlier backup; None where there was none. data_id: see
    `state.State`, empty where chromad never ran.
    """

    format: int
    created: Moment
    base_created: Moment
    base_seq_id: Number
    last_seq_id: Number
    continues: Number | None
    chromad_version: str
    engine_version: str
    sqlite_version: str
    data_id: str
    collections: list[CollectionEntry]
    files: list[Entry]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    @property
    def records(self) -> int:
        """Records of all collections."""
        return sum(collection.records for collection in self.collections)

    def to_json(self) -> str:
        """Raises ValueError for a number that JSON does not have: other readers would refuse all of it."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"


def read(directory: Path) -> Manifest:
    """The manifest of a backup. Raises BackupError when it is missing, damaged, or from a newer chromad."""
    path = directory / FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}", _HINT) from None
    return parse(text, str(path))


def parse(text: bytes, name: str) -> Manifest:
    """As `read`, from the file's content. name: for the message."""
    damaged = BackupError(f"{name} is damaged", _HINT)
    try:
        version = documents.parse(text)["format"]
        if isinstance(version, int) and version > FORMAT:
            raise BackupError(
                f"{name} has format {version}; this chromad knows up to {FORMAT}", "install the chromad that took it"
            )
        manifest = TypeAdapter(Manifest).validate_json(text, strict=True)
    except (ValueError, LookupError, TypeError, RecursionError):
        raise damaged from None
    paths = [entry.path for entry in manifest.files]
    if len(set(paths)) != len(paths) or not all(map(_belongs, paths)):
        raise damaged
    _check_complete(name, manifest, set(paths))
    return manifest


def _check_complete(name: str, manifest: Manifest, paths: set[str]) -> None:
    wanted = {sqlite.FILE, archive.FILE}
    for collection in manifest.collections:
        if collection.seq_id is not None:
            wanted |= {f"{collection.segment}/{name}" for name in segment.FILES}
    if missing := sorted(wanted - paths):
        raise BackupError(f"{name} is damaged: it lacks {missing[0]}", _HINT)


def _belongs(path: str) -> bool:
    """Whether a path is that of a file in a backup: FILE or SEGMENT/FILE."""
    home, slash, name = path.rpartition("/")
    return names.is_plain(name) and (names.is_uuid(home) if slash else True)


def hash_file(path: Path, progress: Progress) -> Entry:
    """Reads a file; the entry's path is its bare name. progress: called with each number of bytes read."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        for chunk in _chunks(file.read):
            digest.update(chunk)
            size += len(chunk)
            progress(len(chunk))
    return Entry(path.name, size, digest.hexdigest())


def check_file(path: Path, expected: Entry, progress: Progress) -> None:
    """Compares a file with its entry. Raises BackupError when it differs or is missing."""
    try:
        found = hash_file(path, progress)
    except FileNotFoundError:
        raise BackupError(f"{path} is missing from the backup", _HINT) from None
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}", _HINT) from None
    if (found.size, found.sha256) != (expected.size, expected.sha256):
        raise BackupError(f"{path} is not what the manifest says (damaged)", _HINT)


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(_CHUNK):
        yield chunk
