"""What an operator wants to know before users notice: a look at a host from outside, with the service up or down."""

import sqlite3
import subprocess
from collections.abc import Callable, Iterator

from chromad.checks import Result, asides, backups, disks, drift, files, gateway, running, skip, storage
from chromad.checks.host import Host
from chromad.errors import ChromadError, unforeseen

_ROOMS: dict[str, Callable[[Host], Iterator[Result]]] = {
    "running": running.check,
    "files": files.look,
    "disks": disks.check,
    "drift": drift.check,
    "storage": storage.check,
    "backups": backups.check,
    "asides": asides.check,
    "gateway": gateway.look,
}


def examine(host: Host, *, deep: bool) -> Iterator[Result]:
    """The results of all checks; a room that cannot look says so, and the others go on. Changes nothing.

    deep: reads all of the database and of the vector segments, which takes long.
    """
    rooms = {**_ROOMS, "integrity": storage.deep} if deep else _ROOMS
    for name, check in rooms.items():
        try:
            yield from check(host)
        except MemoryError:
            raise
        except (ChromadError, OSError, sqlite3.Error, subprocess.TimeoutExpired) as error:
            fact = error.message if isinstance(error, ChromadError) else str(error)
            yield skip(name, f"could not look: {fact}")
        except Exception as error:
            # What is wrong with one thing hides nothing of the others.
            yield skip(name, f"could not look: {unforeseen(error).message}")
