"""What is wrong with a directory, in words, and what mends it."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

# The hint where nothing here can help
NO_WAY = "restore a copy of the directory from before, or mend it with the Chroma that wrote it"

Mend = Callable[[sqlite3.Connection], None]


@dataclass(frozen=True)
class Finding:
    """kind: one of a few words, for programs. fact: what is wrong, with names and counts. hint: what to do about it, empty
    where it is only said. count: of rows or records. mend: puts it right on a private copy or while no engine runs, within a
    transaction of the caller's; None where that cannot be done. deletes: by taking rows out, so that it is for copies alone.
    loses: something that clients wrote is not there any more, even when mended."""

    kind: str
    fact: str
    hint: str = ""
    count: int = 1
    mend: Mend | None = field(default=None, compare=False, repr=False)
    deletes: bool = False
    loses: bool = False


def run(*statements: str) -> Mend:
    """A mend that runs SQL as it is given."""

    def mend(connection: sqlite3.Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    return mend
