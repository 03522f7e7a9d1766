"""Values of lists in metadata: the engine leaves those of deleted records, and gives the row ids to others."""

import sqlite3

from chromad.chroma import sqlite

# chroma#7594
_LISTS = "embedding_metadata_array"
_LISTS_TRIGGER = "chromad_embeddings_lists"
_DELETE_LISTS = (
    f"CREATE TRIGGER {_LISTS_TRIGGER} AFTER DELETE ON embeddings BEGIN DELETE FROM {_LISTS} WHERE id = OLD.id; END"  # noqa: S608 (constants)
)


def keep(connection: sqlite3.Connection) -> int:
    """Has the list values of a record deleted with it from now on, and removes what earlier ones have left behind; gives how
    many rows these were. A matter of a moment where that was done before.

    connection: in autocommit, or in a transaction of the caller's. Does nothing on a database that knows no lists.
    """
    found = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?", (_LISTS_TRIGGER,)
    ).fetchone()
    if found and found[0] == _DELETE_LISTS:
        return 0
    if not sqlite.has_table(connection, _LISTS) or not sqlite.has_table(connection, "embeddings"):
        return 0
    own = not connection.in_transaction
    if own:
        connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"DROP TRIGGER IF EXISTS {_LISTS_TRIGGER}")
        connection.execute(_DELETE_LISTS)
        removed = drop_ghosts(connection)
    except BaseException:
        if own:
            connection.execute("ROLLBACK")
        raise
    if own:
        connection.execute("COMMIT")
    return removed


def drop_ghosts(connection: sqlite3.Connection) -> int:
    """Removes list values of records that are no more, which the next record with their row id would serve as its own; gives
    how many rows these were. Reads all list values.

    connection: in autocommit, or in a transaction of the caller's. Does nothing on a database that knows no lists.
    """
    if not sqlite.has_table(connection, _LISTS):
        return 0
    return connection.execute(f"DELETE FROM {_LISTS} WHERE id NOT IN (SELECT id FROM embeddings)").rowcount  # noqa: S608 (constants)
