"""What Chroma's system tables hold, as one document: read, looked through, and put back."""

import math
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from chromad.chroma import sqlite
from chromad.errors import BackupError

TABLES = ("tenants", "databases", "collections", "collection_metadata", "segments", "segment_metadata")
# Rows that belong to a segment by way of `embeddings`
_OF_EMBEDDINGS = {
    "embedding_fulltext_search": "rowid",
    "embedding_metadata": "id",
    "embedding_metadata_array": "id",
}
# Those whose rows belong to a collection, and the column that says to which; by way of its segment where there is none
_OWNED = {"collection_metadata": "collection_id", "segments": "collection", "segment_metadata": ""}
# A table's name: its columns and its rows
Catalog = dict[str, dict[str, list[Any]]]
# One of them, by its columns
Row = dict[str, Any]


def read(connection: sqlite3.Connection) -> Catalog:
    """The system tables of a database, small beside the rest."""
    catalog: Catalog = {}
    for table in TABLES:
        cursor = connection.execute(f"SELECT * FROM main.{table}")  # noqa: S608 (constants)
        catalog[table] = {
            "columns": [column[0] for column in cursor.description],
            "rows": [[_plain(value) for value in row] for row in cursor],
        }
    return catalog


def collections(catalog: Catalog) -> dict[str, tuple[str, str]]:
    """Ids of the collections, with their names and the ids of their databases."""
    table = catalog["collections"]
    uuid, name, database = (table["columns"].index(column) for column in ("id", "name", "database_id"))
    return {row[uuid]: (row[name], row[database]) for row in table["rows"]}


def places(catalog: Catalog) -> dict[str, tuple[str, str, str]]:
    """Tenant, database and name of each collection of a catalog, by its id."""
    table = catalog["databases"]
    uuid, name, tenant = (table["columns"].index(column) for column in ("id", "name", "tenant_id"))
    databases = {row[uuid]: (row[tenant], row[name]) for row in table["rows"]}
    return {each: (*databases[database], name) for each, (name, database) in collections(catalog).items()}


def rows(catalog: Catalog, table: str) -> list[Row]:
    """Those of one table."""
    content = catalog[table]
    return [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]


def rows_of(catalog: Catalog, wanted: Callable[[str | None], bool]) -> dict[str, list[Row]]:
    """Rows of metadata and segments, by table: of the collections, given by their ids, that are wanted."""
    owners = {row["id"]: row["collection"] for row in rows(catalog, "segments")}
    return {
        table: [row for row in rows(catalog, table) if wanted(row[key] if key else owners.get(row["segment_id"]))]
        for table, key in _OWNED.items()
    }


def metadata(catalog: Catalog) -> dict[str, dict[str, Row]]:
    """What clients have attached to collections, by collection and key."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows(catalog, "collection_metadata"):
        found.setdefault(row["collection_id"], {})[row["key"]] = row
    return found


def put(connection: sqlite3.Connection, catalog: Catalog) -> set[str]:
    """Has a database hold what a catalog says, and nothing of collections that are not in it; gives the segments, by their
    ids, that are no more. Within a transaction of the caller's. Raises BackupError when its tables are others."""
    before = sqlite.read_segments(connection)
    for table in TABLES:
        _replace(connection, table, catalog[table])
    gone = before - sqlite.read_segments(connection)
    _forget(connection, gone)
    return gone


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it."""
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"real": str(value)}
    return value


def value(document: dict[str, Any]) -> Any:
    """The inverse of `read`, of a value, for what is an object in JSON."""
    if document.keys() == {"blob"}:
        return bytes.fromhex(document["blob"])
    if document.keys() == {"real"}:
        return float(document["real"])
    return document


def set_dimensions(connection: sqlite3.Connection) -> None:
    """Gives collections that were empty when the catalog was read the dimension of the records that were logged since: the
    engine replays nothing where there is none."""
    for (uuid,) in connection.execute("SELECT id FROM collections WHERE dimension IS NULL").fetchall():
        row = connection.execute(
            "SELECT length(vector) / 4 FROM embeddings_queue WHERE topic = ? AND vector IS NOT NULL ORDER BY seq_id LIMIT 1",
            (sqlite.topic(uuid),),
        ).fetchone()
        if row:
            connection.execute("UPDATE collections SET dimension = ? WHERE id = ?", (row[0], uuid))


def _replace(connection: sqlite3.Connection, table: str, content: Mapping[str, list[Any]]) -> None:
    columns = {row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")}
    if set(content["columns"]) != columns:
        raise BackupError(
            f"the archive's table {table} is not that of the base", "choose another backup: chromactl backups"
        )
    connection.execute(f"DELETE FROM main.{table}")  # noqa: S608 (constants)
    places = ", ".join("?" * len(columns))
    names = ", ".join(content["columns"])
    connection.executemany(f"INSERT INTO main.{table} ({names}) VALUES ({places})", content["rows"])  # noqa: S608 (as above)


def _forget(connection: sqlite3.Connection, segments: set[str]) -> None:
    """Removes what belonged to segments of collections that are no more."""
    there = {name for (name,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")}
    for uuid in segments:
        for table, key in _OF_EMBEDDINGS.items():
            if table in there:
                connection.execute(
                    f"DELETE FROM main.{table} WHERE {key} IN (SELECT id FROM embeddings WHERE segment_id = ?)",  # noqa: S608 (constants)
                    (uuid,),
                )
        connection.execute("DELETE FROM main.embeddings WHERE segment_id = ?", (uuid,))
        connection.execute("DELETE FROM main.max_seq_id WHERE segment_id = ?", (uuid,))
