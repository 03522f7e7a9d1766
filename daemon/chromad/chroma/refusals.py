"""Triggers on Chroma's tables that refuse what clients send, with a reason that they get to read.

They live in the SQLite file, so they survive restarts, and are in every copy of it.
"""

import sqlite3

from chromad.chroma.log import DELETE

# What clients change, by table. The daemon's own purge of the log is no change.
_CHANGES = {
    "embeddings_queue": ("INSERT",),
    "collections": ("INSERT", "UPDATE", "DELETE"),
    "collection_metadata": ("INSERT", "UPDATE", "DELETE"),
    "databases": ("INSERT", "UPDATE", "DELETE"),
    "tenants": ("INSERT", "UPDATE", "DELETE"),
}


def refuse_growth(connection: sqlite3.Connection, name: str, reason: str) -> None:
    """Refuses all writes of records but deletes. name: of the trigger. Within a transaction of the caller's."""
    _refuse(connection, name, f"INSERT ON embeddings_queue WHEN NEW.operation <> {DELETE}", reason)


def refuse_writes(connection: sqlite3.Connection, name: str, topic: str, reason: str) -> None:
    """As `refuse_growth`, of all writes to one collection, deletes included. topic: its part of the log."""
    _refuse(connection, name, f"INSERT ON embeddings_queue WHEN NEW.topic = {_quote(topic)}", reason)


def refuse_changes(connection: sqlite3.Connection, prefix: str, reason: str) -> None:
    """As `refuse_growth`, of every change that a client can make. prefix: of the names of the triggers."""
    for table, operations in _CHANGES.items():
        for operation in operations:
            _refuse(connection, f"{prefix}{table}_{operation.lower()}", f"{operation} ON {table}", reason)


def _refuse(connection: sqlite3.Connection, name: str, what: str, reason: str) -> None:
    connection.execute(f'CREATE TRIGGER "{name}" BEFORE {what} BEGIN SELECT RAISE(ABORT, {_quote(reason)}); END')


def reason(statement: str) -> str:
    """The reason, out of the statement that made a trigger."""
    return statement.partition("RAISE(ABORT, '")[2].rpartition("'); END")[0].replace("''", "'")


def drop(connection: sqlite3.Connection, name: str) -> None:
    """Removes a trigger, if it is there."""
    connection.execute(f'DROP TRIGGER IF EXISTS "{name}"')


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
