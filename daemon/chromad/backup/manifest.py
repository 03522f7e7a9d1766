"""`manifest.json`: what a backup holds, and how to see that it still does."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from chromad.errors import BackupError
from chromad.store import segment

FILE = "manifest.json"
FORMAT = 1
_CHUNK = 1 << 20

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Entry:
    """One file: path relative to the backup, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class CollectionEntry:
    """One collection with the records that must be there after a restore. seq_id: None where the log rebuilds all of its vectors."""

    id: str
    tenant: str
    database: str
    name: str
    dimension: int | None
    records: int
    seq_id: int | None


@dataclass(frozen=True)
class Manifest:
    """format: of this file. created: UTC, ISO 8601. Versions are those that took the backup. data_id: see
    `state.State`, empty where chromad never ran. last_seq_id: of the newest record in the log."""

    format: int
    name: str
    created: str
    chromad_version: str
    engine_version: str
    sqlite_version: str
    data_id: str
    last_seq_id: int
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
        return json.dumps(asdict(self), indent=1) + "\n"


def read(directory: Path) -> Manifest:
    """The manifest of a backup. Raises BackupError when it is missing, damaged, or from a newer chromad."""
    path = directory / FILE
    damaged = BackupError(f"{path} is damaged", "choose another one: chromactl backups")
    try:
        text = path.read_bytes()
        version = json.loads(text)["format"]
        if isinstance(version, int) and version > FORMAT:
            raise BackupError(
                f"{path} has format {version}; this chromad knows up to {FORMAT}", "install the chromad that took it"
            )
        manifest = TypeAdapter(Manifest).validate_json(text, strict=True)
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror}", "choose another one: chromactl backups") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise damaged from None
    if not all(_belongs(entry.path) and entry.size >= 0 for entry in manifest.files):
        raise damaged
    return manifest


def _belongs(path: str) -> bool:
    """Whether a path is that of a file in a backup: FILE or SEGMENT/FILE."""
    parts = path.split("/")
    return path.isprintable() and len(parts) <= 2 and not {"", ".", ".."} & set(parts)


def hash_file(path: Path, progress: Progress) -> Entry:
    """Reads a file; the entry's path is its bare name. progress: called with each number of bytes read."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        for chunk in _chunks(file.read):
            digest.update(chunk)
            size += len(chunk)
            progress(len(chunk))
    return Entry(path.name, size, digest.hexdigest())


def copy_verified(source: Path, target: Path, expected: Entry, progress: Progress) -> None:
    """Copies a file while comparing it with its entry. Raises BackupError when it differs or is missing."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(source, "rb") as reader, open(target, "xb") as writer:
            for chunk in _chunks(reader.read):
                digest.update(chunk)
                size += len(chunk)
                writer.write(chunk)
                progress(len(chunk))
            writer.flush()
            segment.keep_times(reader.fileno(), writer.fileno())
    except FileNotFoundError:
        raise BackupError(f"{source} is missing from the backup", "choose another one: chromactl backups") from None
    if size != expected.size or digest.hexdigest() != expected.sha256:
        raise BackupError(f"{source} is not what the manifest says (damaged)", "choose another one: chromactl backups")


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(_CHUNK):
        yield chunk
