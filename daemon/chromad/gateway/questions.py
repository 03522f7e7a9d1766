"""The socket on which the daemon answers the gateway: a line asks, a line answers, and a connection may ask many.

One thread serves all. Whoever asks slowly, much, or nonsense takes its own connection's time alone: each turn reads a little of
each, what is not read there is waited for, and one that is still for long is closed.
"""

import os
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from chromad.errors import one_line
from chromad.host import sockets, threads

NAME = "gateway questions"

_LONGEST = 256  # bytes of a question
_PART = 4096  # bytes that one connection is read of in a turn
_MOST = 256  # connections; one more ends the one that was still for the longest time
_AT_ONCE = 32  # connections that are taken in a turn
_STILL = 60.0  # seconds after which a connection is closed on which nothing goes either way
_TURN = 1.0

# Takes a question and gives its answer.
Answer = Callable[[str], str]


class _Asking:
    """A connection, what it has asked and not yet ended with a newline, and what it has not yet read."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.asked = b""
        self.told = b""
        self.ends = False
        self.moved = time.monotonic()


class Questions:
    """Answers what the gateway asks. path: of the socket, mode 0660; its group is that of its directory where this is setgid."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path = path
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopped = False
        self._asking: dict[int, _Asking] = {}
        self._thread = threads.Task(NAME, self._serve, again=_TURN)

    def start(self) -> None:
        """Binds the socket and answers in a thread; raises as `sockets.listen`."""
        sockets.listen(self._listener, self._path, "gateway.socket")
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, closes and removes the socket."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)
        self._thread.stop()
        self._listener.close()
        os.close(self._wake)
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            try:
                while not self._stopped:
                    for key, _ in selector.select(_TURN):
                        if key.fileobj is self._listener:
                            self._accept(selector)
                        elif key.fd in self._asking:
                            self._go_on(selector, self._asking[key.fd])
                    self._close_still(selector)
            finally:
                for each in self._asking.values():
                    each.connection.close()
                self._asking.clear()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        """Takes some of those that wait."""
        for _ in range(_AT_ONCE):
            if len(self._asking) >= _MOST:
                self._close_stillest(selector)
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:
                # Out of file descriptors: one of ours goes, or others will.
                if self._asking:
                    self._close_stillest(selector)
                else:
                    time.sleep(0.1)
                return
            connection.setblocking(False)
            self._asking[connection.fileno()] = _Asking(connection)
            selector.register(connection, selectors.EVENT_READ)

    def _go_on(self, selector: selectors.BaseSelector, asking: _Asking) -> None:
        """Reads a little where all was read that was answered, answers, and writes."""
        try:
            if not asking.told and not asking.ends:
                self._read(asking)
            sent = asking.connection.send(asking.told) if asking.told else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(selector, asking)
            return
        asking.told = asking.told[sent:]
        asking.moved = time.monotonic() if sent else asking.moved
        if asking.ends and not asking.told:
            self._close(selector, asking)
            return
        selector.modify(asking.connection, selectors.EVENT_WRITE if asking.told else selectors.EVENT_READ)

    def _read(self, asking: _Asking) -> None:
        data = asking.connection.recv(_PART)
        asking.ends = not data
        *lines, asking.asked = (asking.asked + data).split(b"\n")
        asking.told += b"".join(map(self._say, lines))
        if len(asking.asked) > _LONGEST:
            asking.told += f"!a question has {_LONGEST} bytes at most\n".encode()
            asking.ends = True

    def _say(self, line: bytes) -> bytes:
        try:
            answer = self._answer(line.decode("ascii")) if len(line) <= _LONGEST else "!unknown"
        except UnicodeDecodeError:
            answer = "!unknown"
        except Exception as error:
            threads.failed(f"{NAME}: answers", error, again=True)
            answer = f"!{threads.describe(error)}"
        else:
            threads.went_well(f"{NAME}: answers")
        return f"{one_line(answer, 1000)}\n".encode(errors="replace")

    def _close_still(self, selector: selectors.BaseSelector) -> None:
        limit = time.monotonic() - _STILL
        for each in [each for each in self._asking.values() if each.moved < limit]:
            self._close(selector, each)

    def _close_stillest(self, selector: selectors.BaseSelector) -> None:
        self._close(selector, min(self._asking.values(), key=lambda each: each.moved))

    def _close(self, selector: selectors.BaseSelector, asking: _Asking) -> None:
        del self._asking[asking.connection.fileno()]
        with suppress(KeyError, ValueError):
            selector.unregister(asking.connection)
        asking.connection.close()
