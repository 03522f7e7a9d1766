"""The hold: triggers that refuse every change that a client can make, while two versions are compared.

A fence lets deletes of records and changes of collections through; this does not, so that whoever undoes what was done
meanwhile loses nothing that was acknowledged. Like fences the triggers live in the SQLite file.
"""

import sqlite3

from chromad.chroma import refusals

_PREFIX = "chromad_hold_"


def put(connection: sqlite3.Connection, reason: str) -> None:
    """Refuses changes from now on. reason: one line, which clients get to read. connection: in autocommit."""
    connection.execute("BEGIN IMMEDIATE")
    drop(connection)
    refusals.refuse_changes(connection, _PREFIX, reason)
    connection.execute("COMMIT")


def drop(connection: sqlite3.Connection) -> None:
    """Lifts the hold, if there is one; within a transaction of the caller's, or in autocommit one trigger at a time."""
    ours = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name GLOB ?"
    for (name,) in connection.execute(ours, (f"{_PREFIX}*",)).fetchall():
        refusals.drop(connection, name)
