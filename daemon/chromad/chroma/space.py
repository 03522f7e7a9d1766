"""Whether there is space for what SQLite writes beside its file, before it fills a disk."""

import os
from pathlib import Path

from chromad.errors import TryAgain
from chromad.logs.lines import human_bytes


def check(directory: Path, beside: int, temporary: int, what: str) -> None:
    """Raises TryAgain when a file system has too little free.

    directory: of the database. beside: bytes needed there. temporary: bytes of temporary files. what: that needs them.
    """
    for place, needed in ((directory, beside), (_temporary(), temporary)):
        status = os.statvfs(place)
        free = status.f_bavail * status.f_frsize
        if free < needed:
            raise TryAgain(
                f"{place} has {human_bytes(free)} free; {what} needs {human_bytes(needed)} for a while",
                "free some space first",
            )


def _temporary() -> Path:
    """As SQLite chooses it on Unix, https://www.sqlite.org/tempfiles.html#temporary_file_storage_locations"""
    named = (os.environ.get(name, "") for name in ("SQLITE_TMPDIR", "TMPDIR"))
    places = (*named, "/var/tmp", "/usr/tmp", "/tmp")  # noqa: S108 (places to look at)
    return next((Path(each) for each in places if os.path.isdir(each) and os.access(each, os.W_OK | os.X_OK)), Path())
