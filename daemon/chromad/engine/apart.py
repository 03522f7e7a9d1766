"""A network namespace for an engine that serves nobody but us, so that no other user of the host reaches what it holds.

Chroma asks nobody who they are, and whoever has a login on the host reaches its loopback addresses. So such an engine enters a
namespace of its own before it serves. What connects for us is a small process that stays in there with it: the door, which hands
each connection out over a socket. Where the host permits no user namespaces, the door stands in the namespace that we are in, and says
so, unless that is one behind a gateway.
"""

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # linux/sockios.h, linux/if.h
_IFREQ = "16sH22x"  # struct ifreq, with the flags of an interface
_CAPABILITIES_3 = 0x20080522  # linux/capability.h
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP = 1, 24  # linux/prctl.h
_LONGEST = 64  # bytes of a message
_CONNECTS = 1.0  # seconds
_ANSWERS = 30.0
_APART, _OPEN = "apart", "open"


class Door:
    """Our side. theirs: the descriptor that the engine is started with, to be closed here after that."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(_ANSWERS)
        self.theirs = theirs.detach()
        # One question at a time
        self._turn = threading.Lock()
        self.is_apart = False
        # Whether nobody stands at it any more
        self.is_gone = False

    def connect(self, port: int, timeout: float) -> socket.socket:
        """Return a connection to a port of the engine. timeout: seconds for each of its steps. Raises OSError."""
        text, descriptors = b"", list[int]()
        with self._turn, suppress(BrokenPipeError, ConnectionResetError):
            self._ours.send(str(port).encode(), socket.MSG_NOSIGNAL)
            text, descriptors, _, _ = socket.recv_fds(self._ours, _LONGEST, 1)
        if not text:
            self.is_gone = True
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the engine is gone")
        place, number = text.decode().split()
        self.is_apart = place == _APART
        if not descriptors:
            raise OSError(int(number), os.strerror(int(number)))
        connection = socket.socket(fileno=descriptors[0])
        connection.settimeout(timeout)
        return connection

    def close(self) -> None:
        """Nobody asks any more: with that the other side ends."""
        self._ours.close()


def enter(door: int) -> None:
    """For the process of the engine, before it has threads: enter a namespace of its own, where the host permits that, and leave a
    process at the door."""
    permitted = _is_permitted()
    if permitted:
        _enter()
    # The service's own, behind a gateway, is not the host's either.
    place = _APART if permitted or [name for _, name in socket.if_nameindex()] == ["lo"] else _OPEN
    engine = os.getpid()
    if os.fork() == 0:
        try:
            _serve(door, place, engine)
        finally:
            os._exit(0)
    os.close(door)


def _is_permitted() -> bool:
    """Tried by a child: there is no way back."""
    child = os.fork()
    if child == 0:
        try:
            _enter()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _enter() -> None:
    """Raises OSError."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWNET if user == 0 else _CLONE_NEWNET | _CLONE_NEWUSER)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack(_IFREQ, b"lo", _IFF_UP))
    if user != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path(f"/proc/self/{name}").write_text(text, encoding="ascii")
        # What it may do in there, and could get back, which nobody needs any more. After the last one that the kernel knows, that fails.
        with suppress(OSError):
            for capability in range(64):
                _call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
        # A filter of system calls may be in the way of this.
        with suppress(OSError):
            _call("capset", struct.pack("=Ii", _CAPABILITIES_3, 0), struct.pack("=6I", *[0] * 6))


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _serve(door: int, place: str, engine: int) -> None:
    """Connects, again and again, until nobody asks any more, or the engine has ended."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Above all the lock of the directory, which is the engine's alone
    os.dup2(door, 0)
    os.closerange(1, os.sysconf("SC_OPEN_MAX"))
    pipe = socket.socket(fileno=0)
    while os.getppid() == engine and (asked := pipe.recv(_LONGEST)):
        try:
            connection = socket.create_connection((HOST, int(asked)), _CONNECTS)
        except OSError as error:
            pipe.send(f"{place} {error.errno or errno.ETIMEDOUT}".encode())
        else:
            with connection:
                socket.send_fds(pipe, [f"{place} 0".encode()], [connection.fileno()])
