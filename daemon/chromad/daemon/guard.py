"""The disk guard: watches the file systems that hold data, checkpoints and backups, and fences writes before one is full.

Backups may lie on another host: their file system is looked at aside, so that one that hangs or fails holds nothing up.
"""

import ctypes
import os
import subprocess
from typing import Literal

from chromad.chroma import sqlite
from chromad.config import Config
from chromad.errors import ChromadError
from chromad.host import disks
from chromad.logs import events
from chromad.logs.lines import human_bytes
from chromad.logs.lines import log as journal
from chromad.store import fence, layout

# Part of the file system that the ballast takes, and its bounds in bytes.
_BALLAST_PART = 100
_BALLAST_MIN, _BALLAST_MAX = 4 << 20, 64 << 20
_NEEDED_TO_START = 1 << 20
# The same for the room that SQLite's WAL has, written or not.
_RESERVE_MIN, _RESERVE_MAX = 8 << 20, 64 << 20
_FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h
# Seconds: what a look at the file system of the backups may take of others' time, and when it counts as hanging
_PATIENCE = 0.2
_SILENT = 10.0

Level = Literal["ok", "warn", "fence"]
_GRAVITY: dict[Level, int] = {"ok": 0, "warn": 1, "fence": 2}


class Guard:
    """Looks at the disks again and again; puts and lifts the disk fence.

    unreachable: why a place (`checkpoints` or `backups`) cannot be looked at, for those that cannot.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.level: Level = "ok"
        self.text = ""
        self.unreachable: dict[str, str] = {}
        self._backups: disks.Aside | None = None
        self._ballast = config.data_dir / layout.BALLAST
        self._fallocate = ctypes.CDLL(None, use_errno=True).fallocate

    def look(self, needed: int) -> Level:
        """Judges all file systems, and acts. needed: bytes that the next checkpoints take in `checkpoint_dir`.

        Gives the level; `text` says why it is not `ok`.
        """
        fenced = fence.DISK in fence.read(self.config.data_dir)
        level, text = self._judge(needed, fenced)
        if level == "fence" and not fenced:
            self._fence(text)
        elif level != "fence" and fenced:
            fence.lift(self.config.data_dir, fence.DISK)
            journal.info("disk: writes are let through again")
        if level != "fence":
            self._reserve_log()
        if level == "ok":
            self._make_ballast()
        before, self.level, self.text = self.level, level, text
        if level != before:
            self._tell(level, text)
        return level

    def places(self) -> dict[str, dict[str, float]]:
        """What `space` gives for `data`, `checkpoints` and `backups`, as far as they are there and answer."""
        found = {}
        for place, path in (("data", self.config.data_dir), ("checkpoints", self.config.checkpoint_dir)):
            try:
                found[place] = disks.space(path)
            except OSError as error:
                journal.debug("disk: %s", error)
        backups = self._backups
        if backups and backups.found:
            found["backups"] = backups.found
        return found

    def make_room(self) -> None:
        """Gives up the ballast where a start, or what the engine has yet to do, would fail for want of space."""
        try:
            status = os.statvfs(self.config.data_dir)
            if status.f_bavail * status.f_frsize < _NEEDED_TO_START:
                self.drop_ballast()
        except OSError as error:
            journal.debug("disk: %s", error)  # preflight says it better

    def drop_ballast(self) -> None:
        """Frees the space that is kept for times when there is none."""
        self._ballast.unlink(missing_ok=True)

    def _judge(self, needed: int, fenced: bool) -> tuple[Level, str]:
        disk = self.config.disk
        level: Level = "ok"
        text = ""
        limit = disk.release_percent if fenced else disk.fence_percent
        for place, found in self._usages().items():
            here: Level = "ok"
            if place != "backups" and found.percent >= limit:
                here = "fence"
            elif found.percent >= disk.warn_percent:
                here = "warn"
            said = f"{found.path}: {found.percent:.0f} % of its {found.of} used"
            if place == "checkpoints" and found.free < needed:
                here = "fence"
                said = f"{found.path}: {human_bytes(found.free)} free, the next checkpoint needs {human_bytes(needed)}"
            if _GRAVITY[here] > _GRAVITY[level]:
                level, text = here, said
        return level, text

    def _usages(self) -> dict[str, disks.Usage]:
        """How full each place is that can be looked at; notes which ones cannot."""
        data_dir, checkpoint_dir = self.config.data_dir, self.config.checkpoint_dir
        found = {"data": disks.usage(data_dir)}
        unreachable = {}
        try:
            found["checkpoints"] = disks.usage(checkpoint_dir)
        except FileNotFoundError:
            pass
        except OSError as error:
            unreachable["checkpoints"] = f"{checkpoint_dir}: {error.strerror}"
        backups = self._look_aside()
        if backups and backups.found:
            found["backups"] = disks.usage_of(backups.path, backups.found)
        elif backups and backups.problem:
            unreachable["backups"] = f"{backups.path}: {backups.problem}"
        for place in unreachable.keys() - self.unreachable.keys():
            journal.warning("disk: the file system of %s cannot be looked at: %s", place, unreachable[place])
        for place in self.unreachable.keys() - unreachable.keys():
            journal.info("disk: the file system of %s can be looked at again", place)
        self.unreachable = unreachable
        return found

    def _look_aside(self) -> disks.Aside | None:
        path = self.config.backup.local_path
        if path is None:
            self._backups = None
        else:
            if self._backups is None or self._backups.path != path:
                self._backups = disks.Aside(path, _SILENT)
            self._backups.look(_PATIENCE)
        return self._backups

    def _fence(self, text: str) -> None:
        # A disk without any room has none for the persists that are due; their collections could not even be read.
        self.make_room()
        try:
            fence.put(self.config.data_dir, fence.DISK, text)
        except ChromadError:
            # Nor for the fence itself.
            self.drop_ballast()
            fence.put(self.config.data_dir, fence.DISK, text)

    def _reserve_log(self) -> None:
        """Gives SQLite's WAL blocks beyond its end, so that writes have room until the fence stands.

        An engine that finds none in a transaction keeps it open: nobody else can write any more, and what it
        acknowledges from then on is never committed.
        """
        # All writes go through this file, and SQLite keeps no lock on it that closing it here could drop.
        path = self.config.data_dir / f"{sqlite.FILE}-wal"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        status = os.fstatvfs(fd)
        size = min(max(status.f_blocks * status.f_frsize // _BALLAST_PART, _RESERVE_MIN), _RESERVE_MAX)
        try:
            if self._fallocate(fd, _FALLOC_FL_KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)):
                journal.debug("disk: no reserve for %s: %s", path, os.strerror(ctypes.get_errno()))
        finally:
            os.close(fd)

    def _make_ballast(self) -> None:
        if self._ballast.exists():
            return
        status = os.statvfs(self.config.data_dir)
        size = status.f_blocks * status.f_frsize // _BALLAST_PART
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, min(max(size, _BALLAST_MIN), _BALLAST_MAX))
        except OSError as error:
            self.drop_ballast()
            journal.warning("disk: no ballast in %s: %s", self.config.data_dir, error.strerror)
        finally:
            os.close(fd)

    def _tell(self, level: Level, text: str) -> None:
        if level == "ok":
            journal.info("disk: below %d %% again", self.config.disk.warn_percent, extra=events.DISK_WELL.extra)
        elif level == "warn":
            journal.warning("disk: %s", text, extra=events.DISK_WARNING.extra)
        else:
            journal.error("disk: writes are fenced: %s", text, extra=events.DISK_FENCED.extra)
        if self.config.disk.command:
            try:
                subprocess.Popen(
                    [*self.config.disk.command, level, text], stdin=subprocess.DEVNULL, start_new_session=True
                )
            except OSError as error:
                journal.error("disk.command: %s", error)
