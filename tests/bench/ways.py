"""Ways to back up: chromactl, and what people do without it. Each is measured twice, the second time after a change."""

import json
import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from chromad.chroma import sqlite
from chromad.store.layout import BALLAST

from tests import packages

from .servers import Chromad

_TOOLS = {"restic": "restic", "rsync": "rsync", "sqlite3": "sqlite3", "tar": "tar", "zstd": "zstd"}


@dataclass(frozen=True)
class Cost:
    """seconds: from the start until all was on disk. bytes: that it takes there, beyond what was there before."""

    seconds: float
    bytes: int


def prepare() -> None:
    """Installs tools that are missing. Ends the run where it may not."""
    try:
        packages.need(_TOOLS)
    except packages.Missing as error:
        raise SystemExit(str(error)) from None


class Way(ABC):
    """A way to back up a server's data. title: for the table. stopped: whether the server must be down."""

    title = ""
    stopped = False

    def __init__(self, server: Chromad) -> None:
        self.server = server
        self.place = server.root / f"way-{type(self).__name__}"

    def clear(self) -> None:
        """Forgets all backups; the next one is a first one."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()

    def cost(self, *, first: bool) -> Cost:
        """Takes a backup, a first one or one beside it."""
        if self.stopped:
            self.server.stop()
        os.sync()
        before = allocated(self.place)
        started = time.perf_counter()
        self._take(first)
        os.sync()
        found = Cost(time.perf_counter() - started, allocated(self.place) - before)
        if self.stopped:
            self.server.start()
        return found

    @abstractmethod
    def _take(self, first: bool) -> None: ...


class Chromactl(Way):
    """`chromactl backup`. The checkpoint that the daemon takes every so often is there already."""

    title = "chromactl backup"

    def __init__(self, server: Chromad) -> None:
        super().__init__(server)
        self.place = server.repository

    def clear(self) -> None:
        for path in (self.place, self.server.checkpoints / ".backup"):
            shutil.rmtree(path, ignore_errors=True)
        self.server.chromactl("backups", "init")
        self.server.ask("checkpoint")

    def _take(self, first: bool) -> None:
        found = json.loads(self.server.chromactl("backup", "--json"))
        if bool(found["base"]) != first:
            raise SystemExit(f"the backup has a base of its own ({found['base']!r}); that is not what is measured")


class Archive(Way):
    """An archive of the directory while nothing writes to it. Nothing looks whether it can be opened."""

    title = "tar + zstd, service stopped"
    stopped = True

    def _take(self, first: bool) -> None:
        path = self.place / ("first.tar.zst" if first else "second.tar.zst")
        options = ["--use-compress-program", "zstd -T0", f"--exclude={BALLAST}"]
        _run("tar", *options, "-C", str(self.server.root), "-cf", str(path), "data")


class Mirror(Way):
    """A copy of the live database and of the rest of the live directory, files that did not change being links to those of
    the copy before. The segments are not of one moment, neither among themselves nor with the database."""

    title = "sqlite3 .backup + rsync, not consistent"

    def _take(self, first: bool) -> None:
        target = self.place / ("first" if first else "second")
        target.mkdir()
        links = [] if first else [f"--link-dest={self.place / 'first'}"]
        _run("sqlite3", str(self.server.data / sqlite.FILE), f".backup '{target / sqlite.FILE}'")
        _run(
            "rsync",
            "-a",
            f"--exclude={sqlite.FILE}*",
            f"--exclude={BALLAST}",
            *links,
            f"{self.server.data}/",
            str(target),
        )


WAYS = (Chromactl, Archive, Mirror)


def allocated(directory: Path) -> int:
    """Bytes that the files below a directory take on disk; those with several links count once."""
    sizes = {}
    for top, _, names in os.walk(directory):
        for name in names:
            status = os.lstat(os.path.join(top, name))
            sizes[status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
