"""What the system tables held between two backups: the log says nothing of them, so it is told from the mark before and the
one after; what neither of them proves is said. So is what came and went in between, of which the second mark tells.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from chromad import documents
from chromad.chroma import catalogs, changes
from chromad.chroma.catalogs import Row
from chromad.store import archive

# The columns of `collections` that say what it is and where; the others are its configuration.
_OTHERS = {"id", "name", "dimension", "database_id", "schema_str"}
# What a note is about that is of none of the collections that are known
_OF_OTHERS = "others"
_DEFAULT = ("default_tenant", "default_database")


class Note(str):
    """One thing that is not exact. about: the id of the collection or database that it is about, empty where it is all."""

    about: str

    def __new__(cls, text: str, about: str = "") -> "Note":
        note = super().__new__(cls, text)
        note.about = about
        return note


def concerning(notes: Iterable[str], collection: str) -> list[str]:
    """Those notes that matter to one collection, given by its id."""
    return [note for note in notes if not isinstance(note, Note) or note.about in ("", collection)]


def catalog(
    before: archive.Mark,
    after: archive.Mark | None,
    logged: set[str],
    *,
    at: datetime | None = None,
    at_once: bool = False,
) -> tuple[catalogs.Catalog, list[Note]]:
    """The system tables at a moment after one mark and before the next, and notes of what of them is not exact.

    logged: the ids of the collections that had rows by then. at: the moment (UTC), for what came and went. at_once: it is the very second of the first mark, which then
    knows all that has no rows. Without a next mark it is as the one before says.
    """
    if after is None:
        return before.catalog, []
    between = _Between(before, after, logged, at_once=at_once)
    notes = [] if at_once else list(between.notes())
    if at:
        notes += between.notes_of_passing(at, at_once=at_once)
    return between.catalog(), sorted(notes)


class _Between:
    """What there was, by its id. A collection or database that has the place (name and parent) of another one that is known
    to have been there was there no more, or had its later name."""

    def __init__(self, before: archive.Mark, after: archive.Mark, logged: set[str], *, at_once: bool) -> None:
        self._before, self._after = before, after
        self._span = f"between {before.taken} and {after.taken}"
        self._tenants = [catalogs.rows(mark.catalog, "tenants") for mark in (before, after)]
        self._databases = [_by_id(mark, "databases") for mark in (before, after)]
        self._collections = [_by_id(mark, "collections") for mark in (before, after)]
        first, second = self._collections
        new = second.keys() - first.keys()
        self._made = new & logged
        self._find_databases(at_once=at_once)
        self._find_collections()
        places = {_place(row) for row in self._kept.values()} | {_place(second[uuid]) for uuid in self._made}
        self._doubtful = {
            uuid
            for uuid in new - logged
            if not at_once and second[uuid]["database_id"] in self._there and _place(second[uuid]) not in places
        }
        self._left_out = new - logged - self._doubtful

    def _find_databases(self, *, at_once: bool) -> None:
        first, second = self._databases
        needed = {self._collections[1][uuid]["database_id"] for uuid in self._made}
        taken = {_home(second[uuid]) for uuid in needed - first.keys() if uuid in second}
        self._kept_databases = {uuid for uuid, row in first.items() if _home(row) not in taken}
        homes = {_home(first[uuid]) for uuid in self._kept_databases}
        self._new_databases = {
            uuid
            for uuid in second.keys() - first.keys()
            if uuid in needed or (not at_once and _home(second[uuid]) not in homes)
        }
        self._there = self._kept_databases | self._new_databases

    def _find_collections(self) -> None:
        """kept: those of before that were still there, with the name that they had then."""
        first, second = self._collections
        self._kept = {uuid: row for uuid, row in first.items() if row["database_id"] in self._kept_databases}
        taken = {_place(second[uuid]) for uuid in self._made}
        while displaced := [uuid for uuid, row in self._kept.items() if row is first[uuid] and _place(row) in taken]:
            for uuid in displaced:
                if uuid in second and _place(second[uuid]) != _place(first[uuid]):
                    place = {name: second[uuid][name] for name in ("name", "database_id")}
                    self._kept[uuid] = first[uuid] | place
                    taken.add(_place(second[uuid]))
                else:
                    del self._kept[uuid]

    def catalog(self) -> catalogs.Catalog:
        """The tables."""
        first, second = self._collections
        added = self._made | self._doubtful
        dropped = first.keys() - self._kept.keys()
        empty = {uuid: second[uuid] | {"dimension": None} for uuid in self._doubtful}
        tenants = {row["id"] for row in self._tenants[0]}
        tables: dict[str, list[Row]] = {
            "tenants": self._tenants[0] + [row for row in self._tenants[1] if row["id"] not in tenants],
            "databases": [self._databases[0][uuid] for uuid in self._databases[0] if uuid in self._kept_databases]
            + [self._databases[1][uuid] for uuid in self._databases[1] if uuid in self._new_databases],
            "collections": [*self._kept.values(), *(empty.get(uuid, second[uuid]) for uuid in second if uuid in added)],
        }
        kept = catalogs.rows_of(self._before.catalog, lambda uuid: uuid not in dropped)
        new = catalogs.rows_of(self._after.catalog, lambda uuid: uuid in added)
        tables |= {table: kept[table] + new[table] for table in kept}
        return {table: _packed(content["columns"], tables[table]) for table, content in self._before.catalog.items()}

    def notes(self) -> Iterable[Note]:
        """What is not exact, a line each."""
        yield from self._notes_of_collections()
        yield from self._notes_of_changes()
        yield from self._notes_of_databases()

    def _notes_of_collections(self) -> Iterable[Note]:
        second = self._collections[1]
        for uuid in self._kept.keys() - second.keys():
            yield Note(
                f"the collection {self._name(0, uuid)} was deleted {self._span}; what was written to it in between went "
                f"with it, so it is as of {self._before.taken}",
                uuid,
            )
        for uuid in self._doubtful:
            yield Note(
                f"the collection {self._name(1, uuid)} was made {self._span}, and nothing was written to it up to then; it "
                "may not have been there yet, and comes back empty",
                uuid,
            )
        for uuid in self._left_out:
            yield Note(
                f"the collection {self._name(1, uuid)} was made {self._span} in place of another one, and nothing was "
                "written to it up to then; the other one comes back",
                uuid,
            )

    def _notes_of_changes(self) -> Iterable[Note]:
        first, second = self._collections
        metadata = [catalogs.metadata(mark.catalog) for mark in (self._before, self._after)]
        for uuid in self._kept.keys() & second.keys():
            if _place(self._kept[uuid]) != _place(second[uuid]):
                yield Note(
                    f"the collection {self._name(0, uuid)} was renamed to {second[uuid]['name']!r} {self._span}; it has the "
                    "former name",
                    uuid,
                )
            if metadata[0].get(uuid) != metadata[1].get(uuid):
                yield Note(
                    f"the metadata of the collection {self._name(0, uuid)} changed {self._span}; it has the former",
                    uuid,
                )
            if _configuration(first[uuid]) != _configuration(second[uuid]):
                yield Note(
                    f"the configuration of the collection {self._name(0, uuid)} changed {self._span}; it has the former",
                    uuid,
                )

    def _notes_of_databases(self) -> Iterable[Note]:
        first, second = self._databases
        for uuid in self._kept_databases - second.keys():
            yield Note(
                f"the database {_path(first[uuid])} was deleted {self._span}; it is as of {self._before.taken}", uuid
            )
        told = {self._collections[1][uuid]["database_id"] for uuid in self._made | self._doubtful}
        for uuid in self._new_databases - told:
            yield Note(
                f"the database {_path(second[uuid])} was made {self._span}; it may not have been there yet", uuid
            )
        known = {row["id"] for row in self._tenants[0]} | {second[uuid]["tenant_id"] for uuid in self._new_databases}
        for row in self._tenants[1]:
            if row["id"] not in known:
                yield Note(f"the tenant {row['id']!r} was made {self._span}; it may not have been there yet", row["id"])

    def notes_of_passing(self, at: datetime, *, at_once: bool) -> Iterable[Note]:
        """What came and went, or had another name for a while, as the second mark tells."""
        moment = _text(at)
        made = {each.id: each.happened for each in self._after.changed if each.event == changes.MADE}
        later = [each for each in self._after.changed if each.happened > moment]
        for each in later:
            if each.event == changes.DELETED and made.get(each.id, "") <= moment:
                yield from self._note_of_deleted(each)
            # A client's reset drops what was recorded before it.
            elif each.event == changes.BEGUN and not at_once and each.happened > _text(self._before.taken):
                yield Note(
                    f"which collections came and went after {self._before.taken} and before {_iso(each.happened)} is not "
                    "known; those that were there are missing",
                    _OF_OTHERS,
                )
        # The first one after the moment tells the name that it had.
        for each in {each.id: each for each in reversed(later) if each.event == changes.RENAMED}.values():
            if each.kind == changes.COLLECTION and made.get(each.id, "") <= moment:
                yield from self._note_of_renamed(each)

    def _note_of_deleted(self, change: changes.Change) -> Iterable[Note]:
        is_collection = change.kind == changes.COLLECTION
        if any(change.id in known for known in (self._collections if is_collection else self._databases)):
            return
        name = self._qualified(change.parent, change.name) if is_collection else repr(f"{change.parent}/{change.name}")
        yield Note(
            f"the {change.kind} {name} was made {self._span}, and deleted at {_iso(change.happened)}; what it held went "
            "with it, and it is missing",
            change.id,
        )

    def _note_of_renamed(self, change: changes.Change) -> Iterable[Note]:
        second = self._collections[1]
        if change.id in self._kept:
            found = self._kept[change.id]
            told = change.id in second and _place(found) != _place(second[change.id])
        elif change.id in self._made | self._doubtful:
            found, told = second[change.id], False
        else:
            return
        if found["name"] != change.name and not told:
            yield Note(
                f"the collection {self._qualified(change.parent, change.name)} was renamed at {_iso(change.happened)}; it "
                f"has the name {found['name']!r}",
                change.id,
            )

    def _qualified(self, database: str, name: str) -> str:
        """A collection's name with its place, where that is not the usual one."""
        passing = {
            each.id: {"tenant_id": each.parent, "name": each.name}
            for each in self._after.changed
            if each.kind == changes.DATABASE
        }
        found = (passing | self._databases[0] | self._databases[1]).get(database)
        if found is None or _home(found) == _DEFAULT:
            return repr(name)
        return repr(f"{found['tenant_id']}/{found['name']}/{name}")

    def _name(self, mark: int, uuid: str) -> str:
        """A collection's name at one of the marks, with its place where that is not the usual one."""
        row = self._collections[mark][uuid]
        database = self._databases[mark].get(row["database_id"])
        if database is None or (database["tenant_id"], database["name"]) == _DEFAULT:
            return repr(row["name"])
        return repr(f"{database['tenant_id']}/{database['name']}/{row['name']}")


def _text(moment: datetime | str) -> str:
    """As SQLite writes it."""
    found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return found.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _iso(happened: str) -> str:
    """As marks have it."""
    return f"{happened.replace(' ', 'T')}+00:00"


def _packed(columns: list[str], rows: list[Row]) -> dict[str, list[Any]]:
    return {"columns": columns, "rows": [[row.get(name) for name in columns] for row in rows]}


def _by_id(mark: archive.Mark, table: str) -> dict[str, Row]:
    return {row["id"]: row for row in catalogs.rows(mark.catalog, table)}


def _place(collection: Row) -> tuple[str, str]:
    return collection["database_id"], collection["name"]


def _home(database: Row) -> tuple[str, str]:
    return database["tenant_id"], database["name"]


def _path(database: Row) -> str:
    return repr(f"{database['tenant_id']}/{database['name']}")


def _configuration(collection: Row) -> tuple[Row, Any]:
    """What a client can change of it. The engine adds each key of the metadata that it meets to the schema, in any order."""
    rest = {name: value for name, value in collection.items() if name not in _OTHERS}
    try:
        schema = documents.parse(collection.get("schema_str") or "null")
        schema["keys"] = {key: value for key, value in schema["keys"].items() if key.startswith("#")}
    except (ValueError, LookupError, TypeError, AttributeError):
        schema = collection.get("schema_str")
    return rest, schema
