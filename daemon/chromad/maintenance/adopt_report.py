"""What an adoption finds, and what it has done."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from chromad.chroma import contents, soundness, sqlite
from chromad.chroma.origin import Origin
from chromad.maintenance import repair


@dataclass(frozen=True)
class Found:
    """A collection of the directory. database: `tenant/database`. state: `sound`, `logged` (all of it is in the log), `empty`,
    or `rebuild`, for the reason given."""

    name: str
    database: str
    records: int
    dimension: int | None
    state: str
    reason: str


@dataclass(frozen=True)
class Mended:
    """What was wrong with the directory and is put right on the copy, see `chroma.finding`."""

    kind: str
    fact: str
    count: int
    deletes: bool
    loses: bool


@dataclass(frozen=True)
class Lost:
    """Records of a collection without a vector, which neither files nor log have. lost_file: lists their ids, one a line."""

    collection: str
    records: int
    lost_file: Path


@dataclass(frozen=True)
class Report:
    """What there is, before anything is done. migrated: whether this engine has to bring its schema up to date. bytes: of
    Chroma's files. left_out: files that are not Chroma's. in_place: it is the data directory."""

    directory: Path
    origin: Origin
    engine_version: str
    migrated: bool
    bytes: int
    free: int
    log_rows: int
    collections: list[Found]
    mended: list[Mended]
    orphans: list[str]
    left_out: list[str]
    in_place: bool


@dataclass(frozen=True)
class Adopted:
    """repaired: what became of segments that had to be rebuilt. replaced: where the former data directory is; None when there
    was nothing in it. restarted: whether the service was stopped and started. compared: records that were compared with what
    the directory held, in so many seconds; unknown: those of them without their vectors, which were lost there, or all zero; named: the
    first of these. lost: those without a vector, but for what `repaired` lists."""

    collections: int
    records: int
    compared: int
    unknown: int
    named: list[str]
    seconds: float
    repaired: list[repair.Repaired]
    lost: list[Lost]
    directory: Path
    replaced: Path | None
    restarted: bool


class LostRecords:
    """Ids of records without a vector, in a file for each collection, one a line. found: by its id, each collection that has
    some, and how many."""

    def __init__(self, directory: Path, known: Container[tuple[str, str]]) -> None:
        """known: segments and ids that are listed elsewhere."""
        directory.mkdir(mode=0o700)
        self.directory = directory
        self.found: dict[str, tuple[contents.HeldCollection, int]] = {}
        self._known = known

    def path(self, collection: contents.HeldCollection) -> Path:
        """The list of one collection."""
        return self.directory / collection.held.id

    def add(self, collection: contents.HeldCollection, records: Sequence[str]) -> None:
        """Notes some."""
        new = [each for each in records if (collection.held.segment, each) not in self._known]
        if new:
            _, before = self.found.get(collection.held.id, (collection, 0))
            self.found[collection.held.id] = collection, before + len(new)
            with open(self.path(collection), "a", encoding="utf-8") as file:
                file.writelines(f"{each}\n" for each in new)


def found_in(collection: sqlite.Collection, records: int, verdict: soundness.Verdict | None) -> Found:
    fields = (collection.name, f"{collection.tenant}/{collection.database}", records, collection.dimension)
    if collection.dimension is None:
        return Found(*fields, "empty", "")
    if verdict is None or verdict.empty:
        return Found(*fields, "logged", "")
    if verdict.sound:
        return Found(*fields, "sound", "")
    return Found(*fields, "rebuild", verdict.problem or "")
