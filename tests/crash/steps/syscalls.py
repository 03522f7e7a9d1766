"""System calls that change files, on x86-64: their numbers, where their paths are, the filter that tells of them.

The filter lets pass what changes nothing: files that are opened without being made or cut, and what a process says on its
standard streams.
"""

import errno
import os
import platform
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# linux/seccomp.h, linux/audit.h, linux/fs.h
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_X86_64 = 0xC000003E
_FICLONE = 0x40049409
_AT_FDCWD = -100
_TMPFILE = 0x400000
_MAKES = os.O_CREAT | os.O_TRUNC | _TMPFILE
_CHANGES = os.O_TRUNC | _TMPFILE
_LONGEST = 4096

# Of classic BPF, linux/bpf_common.h
_LOAD, _RETURN, _IF_EQUAL, _IF_SET, _IF_GREATER = 0x20, 0x06, 0x15, 0x45, 0x25


@dataclass(frozen=True)
class Event:
    """One call that waits. tid: its thread. number and arguments: as it was made."""

    tid: int
    number: int
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class _Call:
    """kind: for people, one for calls that do the same. paths: of what it changes. needs_room: whether a full disk refuses it."""

    kind: str
    paths: Callable[[Event], list[str]]
    needs_room: bool = False


def supported() -> bool:
    """Whether the numbers are those of this machine."""
    return platform.machine() == "x86_64"


def _file(place: int = 0) -> Callable[[Event], list[str]]:
    return lambda event: [_descriptor(event.tid, event.arguments[place])]


def _named(place: int = 0) -> Callable[[Event], list[str]]:
    return lambda event: [_path(event.tid, _AT_FDCWD, event.arguments[place])]


def _at(place: int = 0) -> Callable[[Event], list[str]]:
    return lambda event: [_path(event.tid, event.arguments[place], event.arguments[place + 1])]


def _two_named(event: Event) -> list[str]:
    return [_path(event.tid, _AT_FDCWD, address) for address in event.arguments[:2]]


def _two_at(event: Event) -> list[str]:
    return [_path(event.tid, event.arguments[at], event.arguments[at + 1]) for at in (0, 2)]


# asm/unistd_64.h
_CALLS: dict[int, _Call] = {
    1: _Call("write", _file(), True),
    18: _Call("write", _file(), True),  # pwrite64
    20: _Call("write", _file(), True),  # writev
    296: _Call("write", _file(), True),  # pwritev
    328: _Call("write", _file(), True),  # pwritev2
    40: _Call("copy", _file(), True),  # sendfile: the first is where it goes
    326: _Call("copy", _file(2), True),  # copy_file_range
    16: _Call("clone", _file(), True),  # ioctl
    285: _Call("allocate", _file(), True),  # fallocate
    76: _Call("truncate", _named()),
    77: _Call("truncate", _file()),  # ftruncate
    74: _Call("sync", _file()),  # fsync
    75: _Call("sync", _file()),  # fdatasync
    2: _Call("make", _named(), True),  # open
    85: _Call("make", _named(), True),  # creat
    257: _Call("make", _at(), True),  # openat
    82: _Call("rename", _two_named),
    264: _Call("rename", _two_at),  # renameat
    316: _Call("rename", _two_at),  # renameat2
    86: _Call("link", _two_named, True),
    265: _Call("link", _two_at, True),  # linkat
    88: _Call("symlink", _named(1), True),
    266: _Call("symlink", _at(1), True),  # symlinkat
    87: _Call("unlink", _named()),
    263: _Call("unlink", _at()),  # unlinkat
    84: _Call("rmdir", _named()),
    83: _Call("mkdir", _named(), True),
    258: _Call("mkdir", _at(), True),  # mkdirat
    90: _Call("chmod", _named()),
    91: _Call("chmod", _file()),  # fchmod
    268: _Call("chmod", _at()),  # fchmodat
    92: _Call("chown", _named()),
    93: _Call("chown", _file()),  # fchown
    94: _Call("chown", _named()),  # lchown
    260: _Call("chown", _at()),  # fchownat
    280: _Call("times", _at()),  # utimensat
}
_WRITES, _MAKES_AT = (1, 20), {2: 1, 257: 2}
_IOCTL, _UNLINKAT, _REMOVE_DIRECTORY = 16, 263, 0x200
_POSITIONAL = (18, 296, 328)


def kind(event: Event) -> str:
    """What a call does."""
    if event.number == _UNLINKAT and event.arguments[2] & _REMOVE_DIRECTORY:
        return "rmdir"
    return _CALLS[event.number].kind


def paths(event: Event) -> list[str]:
    """What a call changes, as absolute paths; nothing where its process is gone, or what is to be made or removed is so already."""
    with suppress(OSError):
        found = _CALLS[event.number].paths(event)
        name = kind(event)
        there = os.path.lexists(found[0])
        if (name in ("unlink", "rmdir") and not there) or (name == "mkdir" and there):
            return []
        return [] if name == "make" and there and not _flags(event) & _CHANGES else found
    return []


def finds_no_room(event: Event) -> bool:
    """Whether a call fails on a full disk: it makes something, or writes where nothing is allocated yet."""
    if not _CALLS[event.number].needs_room:
        return False
    name = kind(event)
    with suppress(OSError):
        if name == "make":
            return bool(_flags(event) & _TMPFILE) or not os.path.lexists(_CALLS[event.number].paths(event)[0])
        if name == "write":
            fd = event.arguments[0]
            end = event.arguments[3] if event.number in _POSITIONAL else _position(event.tid, fd)
            return end + event.arguments[2] > os.stat(f"/proc/{event.tid}/fd/{fd}").st_blocks * 512
    return True


def _flags(event: Event) -> int:
    """Of a file that is opened; creat(2) has none."""
    place = _MAKES_AT.get(event.number)
    return os.O_TRUNC if place is None else event.arguments[place]


def error(fault: str) -> int:
    """The error number that a call gets."""
    return errno.ENOSPC if fault == "full" else errno.EIO


def program() -> bytes:
    """The filter: an array of struct sock_filter, linux/filter.h."""
    lines: list[tuple[int, int, int, int]] = []

    def add(code: int, value: int, then: int = 0, otherwise: int = 0) -> None:
        lines.append((code, then, otherwise, value))

    # struct seccomp_data: number at 0, architecture at 4, arguments from 16 on, low half first
    add(_LOAD, 4)
    add(_IF_EQUAL, _X86_64, 1, 0)
    add(_RETURN, _ALLOW)
    for number in _CALLS:
        add(_LOAD, 0)
        if number in _MAKES_AT:
            add(_IF_EQUAL, number, 0, 4)
            add(_LOAD, 16 + 8 * _MAKES_AT[number])
            add(_IF_SET, _MAKES, 0, 1)
        elif number in _WRITES:
            add(_IF_EQUAL, number, 0, 4)
            add(_LOAD, 16)
            add(_IF_GREATER, 2, 0, 1)
        elif number == _IOCTL:
            add(_IF_EQUAL, number, 0, 4)
            add(_LOAD, 16 + 8)
            add(_IF_EQUAL, _FICLONE, 0, 1)
        else:
            add(_IF_EQUAL, number, 0, 2)
            add(_RETURN, _NOTIFY)
            add(_RETURN, _ALLOW)
            continue
        add(_RETURN, _NOTIFY)
        add(_RETURN, _ALLOW)
    add(_RETURN, _ALLOW)
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def command_line(tid: int) -> Iterator[str]:
    """The words of the program that a thread runs."""
    with suppress(OSError):
        yield from Path(f"/proc/{tid}/cmdline").read_bytes().decode(errors="replace").split("\0")


def _descriptor(tid: int, fd: int) -> str:
    return os.readlink(f"/proc/{tid}/fd/{_int32(fd)}")


def _path(tid: int, fd: int, address: int) -> str:
    """Of a file that is named in the memory of a thread, from a directory that it has open, or is in."""
    name = _string(tid, address)
    if name.startswith("/"):
        return name
    at = os.readlink(f"/proc/{tid}/cwd") if _int32(fd) == _AT_FDCWD else _descriptor(tid, fd)
    return os.path.normpath(os.path.join(at, name)) if name else at


def _string(tid: int, address: int) -> str:
    if not address:
        return ""  # as in futimens(3)
    with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:
        found = b""
        # Not beyond a page at a time: the next one may not be there.
        while b"\0" not in found and len(found) < _LONGEST:
            memory.seek(address + len(found))
            found += memory.read(_LONGEST - (address + len(found)) % _LONGEST)
        return os.fsdecode(found.partition(b"\0")[0])


def _position(tid: int, fd: int) -> int:
    """Where the next write of a descriptor goes."""
    lines = Path(f"/proc/{tid}/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
    return int(lines[0].split()[1])


def _int32(value: int) -> int:
    """A C int out of a register."""
    return (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)
