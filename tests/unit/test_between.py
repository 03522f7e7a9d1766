"""The system tables between two marks: what is known of them, what is not, and that they always fit together."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from chromad.backup import between
from chromad.chroma.catalogs import Catalog
from chromad.chroma.changes import BEGUN, COLLECTION, DELETED, MADE, RENAMED, Change
from chromad.store.archive import Mark
from hypothesis import given
from hypothesis import strategies as st

COLUMNS = {
    "tenants": ["id"],
    "databases": ["id", "name", "tenant_id"],
    "collections": ["id", "name", "dimension", "database_id", "config_json_str", "schema_str"],
    "collection_metadata": ["collection_id", "key", "str_value"],
    "segments": ["id", "type", "scope", "collection"],
    "segment_metadata": ["segment_id", "key", "str_value"],
}
# By id: database and name
Collections = dict[str, tuple[str, str]]


def schema(*keys: str, ef: int = 100) -> str:
    return json.dumps({"defaults": {"ef": ef}, "keys": {"#document": {"x": 1}, **{key: {} for key in keys}}})


def mark(
    hour: int,
    collections: Collections,
    databases: dict[str, str] | None = None,
    tenants: tuple[str, ...] = ("default_tenant",),
    schemas: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Mark:
    """databases: names by id, all of the first tenant."""
    databases = databases or {"d": "default_database"}
    schemas, metadata = schemas or {}, metadata or {}
    rows: dict[str, list[list[Any]]] = {
        "tenants": [[each] for each in tenants],
        "databases": [[uuid, name, tenants[0]] for uuid, name in databases.items()],
        "collections": [
            [uuid, name, 3, database, "{}", schemas.get(uuid, schema())]
            for uuid, (database, name) in collections.items()
        ],
        "collection_metadata": [[uuid, "key", value] for uuid, value in metadata.items()],
        "segments": [[f"{uuid}-{scope}", "t", scope, uuid] for uuid in collections for scope in ("VECTOR", "METADATA")],
        "segment_metadata": [[f"{uuid}-VECTOR", "of", uuid] for uuid in collections],
    }
    catalog: Catalog = {table: {"columns": columns, "rows": rows[table]} for table, columns in COLUMNS.items()}
    return Mark(hour, f"2026-01-01T{hour:02}:00:00+00:00", catalog)


def held(catalog: dict[str, dict[str, list[Any]]]) -> Collections:
    return {row[0]: (row[3], row[1]) for row in catalog["collections"]["rows"]}


def test_nothing_after() -> None:
    before = mark(1, {"a": ("d", "one")})
    assert between.catalog(before, None, set()) == (before.catalog, [])


def test_no_change() -> None:
    before, after = mark(1, {"a": ("d", "one")}), mark(2, {"a": ("d", "one")})
    assert between.catalog(before, after, {"a"}) == (before.catalog, [])


def test_keys_of_records_are_no_change() -> None:
    before = mark(1, {"a": ("d", "one")})
    after = mark(2, {"a": ("d", "one")}, schemas={"a": schema("new", "keys")})
    assert between.catalog(before, after, {"a"}) == (before.catalog, [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metadata": {"a": "other"}}, "the metadata of the collection 'one' changed"),
        ({"schemas": {"a": schema(ef=50)}}, "the configuration of the collection 'one' changed"),
        ({"schemas": {"a": "no json"}}, "the configuration of the collection 'one' changed"),
        ({"collections": {"a": ("d", "two")}}, "the collection 'one' was renamed to 'two'"),
        ({"collections": {}}, "the collection 'one' was deleted"),
        ({"databases": {"d": "default_database", "e": "new"}}, "the database 'default_tenant/new' was made"),
        ({"tenants": ("default_tenant", "n\x1b")}, r"the tenant 'n\x1b' was made"),
    ],
)
def test_what_is_not_known(changes: dict[str, Any], said: str) -> None:
    before = mark(1, {"a": ("d", "one")}, metadata={"a": "value"})
    same: dict[str, Any] = {"collections": {"a": ("d", "one")}, "metadata": {"a": "value"}}
    after = mark(2, **(same | changes))
    found, notes = between.catalog(before, after, {"a"})
    assert any(note.startswith(f"{said} between 2026-01-01T01:00:00+00:00 and 2026") for note in notes)
    assert held(found) == {"a": ("d", "one")}
    assert found["collection_metadata"]["rows"] == [["a", "key", "value"]]


def test_empty_one_that_may_not_have_been_there() -> None:
    before, after = mark(1, {}), mark(2, {"a": ("d", "one"), "b": ("d", "two")})
    found, notes = between.catalog(before, after, {"b"})
    assert {row[0]: row[2] for row in found["collections"]["rows"]} == {"a": None, "b": 3}
    assert [note[:33] for note in notes] == ["the collection 'one' was made bet"]
    assert found["segments"] == after.catalog["segments"]
    assert found["segment_metadata"] == after.catalog["segment_metadata"]


def test_second_of_the_mark() -> None:
    """What came in the rest of that second is known by its rows alone."""
    before = mark(1, {"a": ("d", "one")}, metadata={"a": "value"})
    after = mark(2, {"b": ("d", "one"), "c": ("e", "new"), "f": ("d", "f")}, {"d": "default_database", "e": "x"})
    found, notes = between.catalog(before, after, set(), at_once=True)
    assert (found, notes) == (before.catalog, [])
    found, notes = between.catalog(before, after, {"f"}, at_once=True)
    assert (held(found), notes) == ({"a": ("d", "one"), "f": ("d", "f")}, [])


def change(minute: int, event: str, uuid: str = "x", name: str = "gone") -> Change:
    return Change(f"2026-01-01 01:{minute:02}:00", event, COLLECTION, uuid, name, "d")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ((change(20, MADE), change(40, DELETED)), "the collection 'gone' was made between"),
        ((change(40, DELETED),), "the collection 'gone' was made between"),
        ((change(30, MADE), change(31, DELETED)), "the collection 'gone' was made between"),
        ((change(31, MADE), change(40, DELETED)), ""),
        ((change(20, MADE), change(30, DELETED)), ""),
        ((change(40, DELETED, "a"),), ""),
        ((change(20, RENAMED, "a", "one"), change(40, RENAMED, "a", "two")), "the collection 'two' was renamed at"),
        ((change(40, RENAMED, "a", "one"), change(50, RENAMED, "a", "two")), ""),
        ((change(40, BEGUN, "", ""),), "which collections came and went after"),
        ((change(20, BEGUN, "", ""),), ""),
    ],
)
def test_what_came_and_went(changed: tuple[Change, ...], said: str) -> None:
    """At half past one; what was done in a second was done by its end."""
    before, after = mark(1, {"a": ("d", "one")}), mark(2, {"a": ("d", "one")})
    at = datetime(2026, 1, 1, 1, 30, tzinfo=UTC)
    found, notes = between.catalog(before, replace(after, changed=changed), {"a"}, at=at)
    assert found == before.catalog
    assert len(notes) == bool(said)
    assert all(note.startswith(said) for note in notes)


def test_name_goes_from_one_to_another() -> None:
    """A chain: what has rows under a name shows that the one before had its later name."""
    before = mark(1, {"a": ("d", "one"), "b": ("d", "two"), "c": ("d", "three")})
    after = mark(2, {"n": ("d", "one"), "a": ("d", "two"), "b": ("d", "four")})
    found, notes = between.catalog(before, after, {"n"})
    assert held(found) == {"n": ("d", "one"), "a": ("d", "two"), "b": ("d", "four"), "c": ("d", "three")}
    assert len(notes) == 1
    assert "'three' was deleted" in notes[0]


def test_made_again_under_its_name() -> None:
    before, after = mark(1, {"a": ("d", "one")}), mark(2, {"b": ("d", "one")})
    found, notes = between.catalog(before, after, {"b"})
    assert (held(found), notes) == ({"b": ("d", "one")}, [])
    found, notes = between.catalog(before, after, set())
    assert held(found) == {"a": ("d", "one")}
    assert "in place of another one" in "\n".join(notes)


def test_database_made_again_under_its_name() -> None:
    before = mark(1, {"a": ("d", "one")}, {"d": "x"})
    after = mark(2, {"b": ("e", "one"), "c": ("e", "empty")}, {"e": "x"})
    found, notes = between.catalog(before, after, {"b"})
    assert held(found) == {"b": ("e", "one"), "c": ("e", "empty")}
    assert [row[0] for row in found["databases"]["rows"]] == ["e"]
    found, notes = between.catalog(before, after, set())
    assert held(found) == {"a": ("d", "one")}
    assert [row[0] for row in found["databases"]["rows"]] == ["d"]
    assert any("database 'default_tenant/x' was deleted" in note for note in notes)
    assert sum("in place of another one" in note for note in notes) == 2


IDS = st.sampled_from("abcdef")
PLACES = st.tuples(st.sampled_from(["d", "e"]), st.sampled_from(["one", "two", "three"]))


@st.composite
def collections(draw: st.DrawFn) -> Collections:
    """Two of one database never have one name."""
    found = draw(st.dictionaries(IDS, PLACES, max_size=6))
    return {uuid: place for uuid, place in found.items() if list(found.values()).count(place) == 1}


@given(collections(), collections(), st.sets(IDS))
def test_tables_fit_together(first: Collections, second: Collections, logged: set[str]) -> None:
    """SQLite takes them: no place twice, each database there, segments and metadata for each collection and no other."""
    databases = {"d": "default_database", "e": "other"}
    marks = mark(1, first, databases), mark(2, second, databases)
    found, _ = between.catalog(*marks, logged)
    there = held(found)
    assert len(set(there.values())) == len(there)
    assert there.keys() <= first.keys() | second.keys()
    assert (second.keys() & logged) <= there.keys()
    assert {database for database, _ in there.values()} <= {row[0] for row in found["databases"]["rows"]}
    assert sorted(row[0] for row in found["segments"]["rows"]) == sorted(
        f"{uuid}-{scope}" for uuid in there for scope in ("VECTOR", "METADATA")
    )
    assert sorted(row[2] for row in found["segment_metadata"]["rows"]) == sorted(there)


def test_notes_that_matter_to_one_collection() -> None:
    """Those on it, those on all, and those of an archive that cannot be joined, which are plain text."""
    notes = [between.Note("on a", "a"), between.Note("on b", "b"), between.Note("on all"), "plain"]
    assert between.concerning(notes, "a") == ["on a", "on all", "plain"]
