"""Watches the calls of a process and of all that it starts, and decides what becomes of each."""

import errno
import fcntl
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.crash.steps import syscalls
from tests.crash.steps.calls import Call, Naming, Place, Steps, alike, role
from tests.crash.steps.syscalls import Event

# linux/seccomp.h: struct seccomp_notif, seccomp_notif_resp, and what is asked with them
_NOTIFICATION, _ANSWER = struct.Struct("QIIiIQ6Q"), struct.Struct("QqiI")
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_ENTER = Path(__file__).with_name("enter.py")

# What becomes of a call: it happens, it fails with an error number, or it never returns, since its process is to be killed.
GO_ON, NEVER = 0, -1
Decide = Callable[[Call, Event], int]


class Tracer(threading.Thread):
    """Of one process. `command` starts it; calls count from `arm` to `disarm`.

    decide: is asked for each call below the places of `naming`, one at a time, while the caller waits.
    """

    def __init__(self, path: Path, naming: Naming, decide: Decide) -> None:
        """path: of a socket, which is made."""
        super().__init__(name="tracer", daemon=True)
        self._path = path
        self._naming, self._plain = naming, naming.without_aliases()
        self._decide = decide
        self._steps = Steps()
        self._armed = False
        self._ended, self._end = os.pipe()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o777)
        self._listener.listen()
        self.start()

    @property
    def command(self) -> list[str]:
        """What comes before the words of the command that is to be watched."""
        return [sys.executable, "-IS", str(_ENTER), str(self._path), syscalls.program().hex()]

    def arm(self) -> None:
        """Calls count from now on."""
        self._armed = True

    def disarm(self) -> None:
        """All calls happen from now on."""
        self._armed = False

    def close(self) -> None:
        """What still waits gets an error, as does all that comes: to be called when the processes are gone."""
        os.close(self._end)
        self.join()
        self._listener.close()
        os.close(self._ended)

    def run(self) -> None:
        ready, _, _ = select.select([self._listener.fileno(), self._ended], [], [])
        if self._ended in ready:
            return
        connection, _ = self._listener.accept()
        with connection:
            _, [fd], _, _ = socket.recv_fds(connection, 1, 1)
        try:
            self._serve(fd)
        finally:
            os.close(fd)

    def _serve(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._ended, select.POLLIN)
        while True:
            for ready, found in poll.poll():
                if ready == self._ended or not found & select.POLLIN:
                    return
                self._answer(fd)

    def _answer(self, fd: int) -> None:
        request = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(fd, _RECEIVE, request)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return  # Who called is gone.
            raise
        identity, tid, _, number, _, _, *arguments = _NOTIFICATION.unpack(request)
        verdict = self._judge(Event(tid, number, tuple(arguments))) if self._armed else GO_ON
        if verdict == NEVER:
            return
        with suppress(FileNotFoundError):  # killed meanwhile
            fcntl.ioctl(fd, _SEND, _ANSWER.pack(identity, 0, -verdict, 0 if verdict else _CONTINUE))

    def _judge(self, event: Event) -> int:
        paths = syscalls.paths(event)
        if self._naming.names(paths) is None:
            return GO_ON
        name = role(syscalls.command_line(event.tid))
        # To the engine one segment is like the other, whatever state it was in.
        path = (self._plain if name == "engine" else self._naming).names(paths)
        call = alike(Call(name, syscalls.kind(event), path or ""))
        return self._decide(self._steps.placed(call), event)


class Recorder:
    """Lets all calls happen, and lists them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, call: Call, _event: Event) -> int:
        self.calls.append(call)
        return GO_ON


class Striker:
    """Does something to one call. reached: whether it came. fault: see this package.

    strike: is called once, when it has come, while it waits; for `kill` and `power` it has to end all processes.
    """

    def __init__(self, place: Place, fault: str, strike: Callable[[], None]) -> None:
        self.reached = threading.Event()
        self._struck = threading.Event()
        self._place = place
        self._fault = fault
        self._strike = strike
        self._seen = 0
        # Processes and descriptors that the kernel has yet to tell of what could not be written
        self._untold: set[tuple[int, int]] = set()

    def settle(self) -> None:
        """Returns when what was begun has come to its end: it takes all processes that are there for those of the operation."""
        if self.reached.is_set():
            self._struck.wait()

    def __call__(self, call: Call, event: Event) -> int:
        if self.reached.is_set():
            return self._go_on(call, event)
        if call != self._place.call:
            return GO_ON
        self._seen += 1
        if self._seen < self._place.number:
            return GO_ON
        self.reached.set()
        if self._fault == "failing":
            self._untold = _open_files(syscalls.paths(event)) - {_caller(event)}
        try:
            self._strike()
        finally:
            self._struck.set()
        if self._fault in ("kill", "power"):
            return NEVER
        return GO_ON if self._fault == "term" else syscalls.error(self._fault)

    def _go_on(self, call: Call, event: Event) -> int:
        # The disk stays full.
        if self._fault == "full" and syscalls.finds_no_room(event):
            return errno.ENOSPC
        # What could not be written to a file is told once to each who had it open (errseq_t).
        if call.kind == "sync" and _caller(event) in self._untold:
            self._untold.remove(_caller(event))
            return errno.EIO
        return GO_ON


def _caller(event: Event) -> tuple[int, int]:
    """The process and the descriptor of a call that has one."""
    try:
        lines = Path(f"/proc/{event.tid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return event.tid, -1
    return next(int(line.split()[1]) for line in lines if line.startswith("Tgid:")), event.arguments[0]


def _open_files(paths: Sequence[str]) -> set[tuple[int, int]]:
    """Processes and descriptors that have one of these files open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(link) in paths:
                found.add((int(link.parts[2]), int(link.name)))
    return found
