"""Ways to make a directory refuse writes to its owner; they need root."""

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import packages
from tests.integration.account import Account, until

_SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")


@contextmanager
def bound(directory: Path) -> Iterator[None]:
    """Mounts the directory over itself, as container engines mount volumes."""
    with _mounted("--bind", str(directory), at=directory):
        yield


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Mounts the directory read-only over itself."""
    with bound(directory):
        _run("mount", "-o", "remount,bind,ro", str(directory))
        yield


@contextmanager
def immutable(directory: Path) -> Iterator[None]:
    """Sets the immutable attribute."""
    _run("chattr", "+i", str(directory))
    try:
        yield
    finally:
        _run("chattr", "-i", str(directory))


@contextmanager
def full(directory: Path, account: Account) -> Iterator[None]:
    """Mounts a small file system over the directory and fills it."""
    options = f"size=64k,mode=0750,uid={account.uid},gid={account.gid}"
    with _mounted("-t", "tmpfs", "-o", options, "tmpfs", at=directory):
        with open(directory / "fill", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(1024))
        yield


@contextmanager
def small(directory: Path, size: int, *, inodes: int = 0) -> Iterator[None]:
    """Mounts an empty tmpfs of so many bytes, and inodes where a number is given, over the directory."""
    with _mounted("-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=0755", "tmpfs", at=directory):
        yield


@contextmanager
def compressed(source: Path, image: Path, directory: Path) -> Iterator[None]:
    """Makes an image of all in a directory, and mounts it over another, read-only: EROFS, which compresses, and like ZFS tells
    how many blocks a file takes then."""
    try:
        packages.need({"mkfs.erofs": "erofs-utils"})
    except packages.Missing as error:
        pytest.skip(str(error))
    _run("mkfs.erofs", "-zlz4", str(image), str(source))
    with _mounted("-o", "loop,ro", str(image), at=directory):
        yield


@contextmanager
def disk(image: Path, directory: Path, size: int) -> Iterator[None]:
    """Makes an image of so many bytes, and mounts it over the directory, as a disk of its own with ext4."""
    with image.open("wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", "-m", "0", str(image))
    with _mounted("-o", "loop", str(image), at=directory):
        yield


def written(directory: Path) -> int:
    """Bytes that were written to the disk of a directory since it is there."""
    device = directory.stat().st_dev
    # Documentation/block/stat.rst: the seventh field counts sectors, of 512 bytes
    sectors = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text(encoding="ascii").split()[6]
    return int(sectors) * 512


def sync(directory: Path) -> int:
    """Puts all on the disk of a directory; gives how many bytes that still had to be written."""
    before = written(directory)
    _run("sync", "--file-system", str(directory))
    return written(directory) - before


@contextmanager
def network(source: Path, directory: Path) -> Iterator[None]:
    """Mounts one directory over another as a file system of the network, sshfs. Its server is on this host."""
    try:
        packages.need({"sshfs": "sshfs", str(_SFTP_SERVER): "openssh-sftp-server"})
    except packages.Missing as error:
        pytest.skip(str(error))
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        subprocess.Popen([str(_SFTP_SERVER)], stdin=theirs.fileno(), stdout=theirs.fileno()) as server,
        subprocess.Popen(
            ["sshfs", "-f", "-o", "passive,allow_other", f":{source}", str(directory)],
            stdin=ours.fileno(),
            stdout=ours.fileno(),
        ) as client,
    ):
        try:
            until(lambda: os.path.ismount(directory), "mounted")
            yield
        finally:
            _run("umount", "--lazy", str(directory))
            client.wait(10)
            server.kill()


@contextmanager
def hanging(directory: Path) -> Iterator[Callable[[], None]]:
    """Mounts a file system over the directory that never answers, as one of a network whose other side is gone: FUSE, whose
    requests nobody reads. Gives what ends the wait: from then on every call fails (ENOTCONN)."""
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"hanging", bytes(directory), b"fuse", 0, options):
        os.close(fd)
        pytest.skip(f"FUSE cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    left = [fd]

    def fail() -> None:
        while left:
            os.close(left.pop())

    try:
        yield fail
    finally:
        fail()
        _run("umount", "--lazy", str(directory))


@contextmanager
def _mounted(*options: str, at: Path) -> Iterator[None]:
    _run("mount", *options, str(at))
    try:
        yield
    finally:
        # Lazily: sockets of the test may still be bound to files in it.
        _run("umount", "--lazy", str(at))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command)} is not possible here: {done.stderr.strip()}")
