"""Disks made of files, and a power cut: what such a disk holds at one moment.

The disk is an ext4 image on a loop device; the image lies on XFS, where FICLONE copies it at one moment. The loop
device works with direct I/O, so the image holds what ext4 has written to its disk, and nothing of what still waits in
the page cache. Like a disk with a write cache that survives, the copy has completed writes that nobody flushed.
"""

import ctypes
import fcntl
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests import packages

_FICLONE = 0x40049409  # linux/fs.h
_CLONE_NEWNS = 0x20000  # linux/sched.h
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000  # linux/mount.h
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_PAGE = 4096
_TOOLS = {"mkfs.xfs": "xfsprogs", "mkfs.ext4": "e2fsprogs", "losetup": "mount"}

_libc = ctypes.CDLL(None, use_errno=True)


class DiskError(Exception):
    """Disks cannot be made here."""


def prepare() -> None:
    """Installs missing tools, and enters a mount namespace, with which all mounts go away however this process ends."""
    if os.geteuid() != 0:
        raise DiskError("power cuts and full disks need root: they mount images")
    packages.need(_TOOLS)
    if _libc.unshare(_CLONE_NEWNS) or _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise DiskError(f"this machine does not allow mounts: {os.strerror(ctypes.get_errno())}")


@contextmanager
def small(megabytes: int) -> Iterator[Path]:
    """A file system of its own of this size."""
    with _directory() as base:
        image = base / "disk.img"
        _make_ext4(image, megabytes)
        with _mounted(image, base / "disk"):
            yield base / "disk"


class Disk:
    """A mounted disk at `path` whose power can be cut."""

    def __init__(self, base: Path, pool: Path) -> None:
        self.path = base / "disk"
        self._image = pool / "disk.img"
        self._next = pool / "next.img"
        self._remembered = pool / "remembered.img"
        _make_ext4(self._image, 1024)
        self.plug()

    def plug(self) -> None:
        """Mounts the disk. Without what ext4 does for those who rename a file over another one and have not flushed it: other
        file systems do not."""
        _mount(self._image, self.path, "noauto_da_alloc")

    def copy(self) -> None:
        """Takes what the disk holds now."""
        _clone(self._image, self._next)

    def cut(self) -> None:
        """Puts what `copy` took in the disk's place. Nothing may have files open on it."""
        _unmount(self.path)
        self._next.rename(self._image)
        self.plug()

    def remember(self) -> None:
        """Takes what the disk holds now, for `keep`."""
        _clone(self._image, self._remembered)

    def keep(self, target: Path) -> None:
        """Copies the image that was remembered, holes left out."""
        _run("cp", "--sparse=always", str(self._remembered), str(target))


class Writeback(threading.Thread):
    """Has single pages of files on a disk written, now these, now those, as the kernel may do at any time.

    Without it a power cut would find a file either as it was when it was flushed last, or as it is.
    """

    def __init__(self, directory: Path, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self._chance = chance
        self._ended = threading.Event()

    def stop(self) -> None:
        """Returns when it has no file open any more."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(self._chance.uniform(0.001, 0.02)):
            files = [path for path in self._directory.rglob("*") if path.is_file()]
            with suppress(FileNotFoundError):
                self._write(self._chance.choice(files))

    def _write(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            start = self._chance.randrange(os.fstat(fd).st_size // _PAGE + 1) * _PAGE
            length = self._chance.randrange(1, 64) * _PAGE
            _libc.sync_file_range(fd, ctypes.c_int64(start), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)
        finally:
            os.close(fd)


@contextmanager
def disk() -> Iterator[Disk]:
    """A disk that is seen to forget what was not flushed, and to keep what was."""
    with _directory() as base:
        pool_image = base / "pool.img"
        with open(pool_image, "wb") as file:
            file.truncate(16 << 30)
        _run("mkfs.xfs", "-q", "-m", "reflink=1", str(pool_image))
        with _mounted(pool_image, base / "pool"):
            made = Disk(base, base / "pool")
            try:
                _prove(made)
                yield made
            finally:
                _unmount(made.path)


def _prove(made: Disk) -> None:
    """Raises DiskError where a cut would lose too little or too much."""
    content = os.urandom(256 << 10)
    flushed, waiting = made.path / "flushed", made.path / "waiting"
    for path in (flushed, waiting):
        path.write_bytes(content)
    # An overwrite in place, too: this is how vector files are written.
    overwritten = made.path / "overwritten"
    overwritten.write_bytes(bytes(len(content)))
    for path in (flushed, overwritten):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    with open(overwritten, "r+b") as file:
        file.write(content)
    made.copy()
    made.cut()
    if flushed.read_bytes() != content:
        raise DiskError("a power cut here would lose what was flushed")
    if overwritten.read_bytes() != bytes(len(content)) or (waiting.exists() and waiting.read_bytes() == content):
        raise DiskError("a power cut here would keep what was not flushed")
    for path in (flushed, waiting, overwritten):
        path.unlink(missing_ok=True)


def _make_ext4(image: Path, megabytes: int) -> None:
    with open(image, "wb") as file:
        file.truncate(megabytes << 20)
    _run("mkfs.ext4", "-q", "-m", "0", "-E", "root_owner=0:0", str(image))


@contextmanager
def _directory() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="chromad-disk-"))
    base.chmod(0o755)
    try:
        yield base
    finally:
        shutil.rmtree(base)


@contextmanager
def _mounted(image: Path, at: Path) -> Iterator[None]:
    _mount(image, at)
    try:
        yield
    finally:
        _unmount(at)


def _mount(image: Path, at: Path, options: str = "defaults") -> None:
    at.mkdir(exist_ok=True)
    device = _run("losetup", "--find", "--show", "--direct-io=on", str(image)).strip()
    try:
        if _run("losetup", "--noheadings", "--output", "DIO", device).strip() != "1":
            raise DiskError(f"{image}: its loop device does no direct I/O")
        _run("mount", "-o", options, device, str(at))
    finally:
        # The kernel lets go of it with the last mount.
        _run("losetup", "--detach", device)


def _unmount(at: Path) -> None:
    for _ in range(50):
        try:
            _run("umount", str(at))
        except DiskError:
            time.sleep(0.1)
        else:
            return
    _run("umount", str(at))


def _clone(source: Path, target: Path) -> None:
    with open(source, "rb") as reader, open(target, "wb") as writer:
        fcntl.ioctl(writer, _FICLONE, reader.fileno())


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DiskError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
