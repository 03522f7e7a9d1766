"""Work of SQLite's that takes long, with a call between its steps."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chromad.host import signals


@contextmanager
def ticking(connection: sqlite3.Connection, tick: Callable[[], None], steps: int) -> Iterator[None]:
    """Has `tick` called while the statements within run, every so many steps of SQLite's virtual machine. What it raises, or a
    signal does, ends the statement and is raised in its place: SQLite itself would only say that it was interrupted."""
    raised: list[BaseException] = []

    def call() -> int:
        try:
            signals.raise_pending()
            tick()
        except BaseException as error:
            raised.append(error)
        return len(raised)

    # A signal's exception would come before the first line of `call`, where nothing can keep it.
    with signals.deferred():
        connection.set_progress_handler(call, steps)
        try:
            yield
        except sqlite3.OperationalError:
            if raised:
                raise raised[0] from None
            raise
        finally:
            connection.set_progress_handler(None, 0)
