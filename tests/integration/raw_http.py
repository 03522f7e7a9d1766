"""HTTP as it is on the wire, so that tests can send what no client would; and a server that keeps what it is sent."""

import contextlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 3, 4, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1


@contextmanager
def connected(
    port: int,
    certificate: Path,
    protocol: str = "http/1.1",
    timeout: float = 20,
    address: str = "127.0.0.1",
    client: Path | None = None,
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection that speaks this protocol. The certificate is for the address, or that for localhost. client: one of its own."""
    context = ssl.create_default_context(cafile=certificate)
    if client:
        context.load_cert_chain(client)
    context.set_alpn_protocols([protocol])
    with (
        socket.create_connection((address, port), timeout) as plain,
        context.wrap_socket(plain, server_hostname=address) as secured,
    ):
        assert secured.selected_alpn_protocol() == protocol
        yield secured


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except (ConnectionError, ssl.SSLError):
        pass
    return found


def statuses(answers: bytes) -> list[int]:
    """Of the answers in a row; their bodies hold none."""
    return [int(each) for each in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answers)]


def exchange(port: int, certificate: Path, *parts: bytes) -> bytes:
    """What comes back for these bytes, until the other side closes: the last request should ask for that."""
    with connected(port, certificate) as connection:
        for part in parts:
            connection.sendall(part)
        return everything(connection)


# HTTP/2


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Fields as HPACK has them, each a literal that is not indexed and not compressed."""
    return b"".join(b"\x00" + _length(name) + name + _length(value) + value for name, value in fields)


def _length(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes([size])
    size -= 127
    rest = b""
    while size >= 128:
        rest += bytes([size % 128 + 128])
        size //= 128
    return b"\x7f" + rest + bytes([size])


def request(stream: int, fields: Iterable[tuple[bytes, bytes]], body: bytes | None = None) -> bytes:
    first = frame(HEADERS, END_HEADERS | (END_STREAM if body is None else 0), stream, block(fields))
    return first if body is None else first + frame(DATA, END_STREAM, stream, body)


def status2(connection: socket.socket, frames: bytes, streams: int = 1) -> list[int]:
    """Sends frames after the preface; gives the status of each stream that is answered, 0 for one that is reset or cut off."""
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + frames)
    found: dict[int, int] = {}
    buffer = b""
    while len(found) < streams:
        try:
            part = connection.recv(65536)
        except (ConnectionError, ssl.SSLError):
            break
        if not part:
            break
        buffer += part
        while len(buffer) >= 9:
            size = int.from_bytes(buffer[:3], "big")
            if len(buffer) < 9 + size:
                break
            kind, stream, payload = buffer[3], int.from_bytes(buffer[5:9], "big"), buffer[9 : 9 + size]
            buffer = buffer[9 + size :]
            if kind == HEADERS:
                found.setdefault(stream, _status(payload))
            elif kind == RESET:
                found.setdefault(stream, 0)
            elif kind == GOAWAY:
                return [found[each] for each in sorted(found)] or [0]
    return [found[each] for each in sorted(found)] or [0]


def _status(payload: bytes) -> int:
    """The first field of an answer is its status: one of HPACK's table, or a literal under that name."""
    table = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
    if payload[0] in table:
        return table[payload[0]]
    assert payload[0] & 0x0F == 8, payload[:8]
    assert payload[1] == 3, payload[:8]
    return int(payload[2:5])


class Recorder:
    """A server in the place of the engine, which keeps each connection's bytes and answers every request of them alike.

    pause: seconds before it answers.
    """

    def __init__(self, pause: float = 0) -> None:
        self.received: list[bytes] = []
        self.pause = pause
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            while whole := _one_request(connection):
                self.received.append(whole)
                time.sleep(self.pause)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}")

    def close(self) -> None:
        self._listening.close()


def _one_request(connection: socket.socket) -> bytes:
    """The bytes of the next request, which has a length; nothing when there is none."""
    found = b""
    length = None
    while length is None or len(found) < length:
        if not (part := connection.recv(65536)):
            return b""
        found += part
        head, end, _ = found.partition(b"\r\n\r\n")
        if end:
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            length = len(head + end) + int(fields.get(b"content-length", b"0"))
    return found


def has_read(connection: socket.socket) -> bool:
    """Whether the other side has taken all that was sent: its socket's receive queue in /proc/net/tcp is empty."""
    ours, theirs = connection.getsockname()[1], connection.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        local, remote = (int(address.split(":")[1], 16) for address in fields[1:3])
        if (local, remote) == (theirs, ours):
            # A connection that nobody has accepted yet has no inode.
            return fields[4].endswith(":00000000") and fields[9] != "0"
    return False
