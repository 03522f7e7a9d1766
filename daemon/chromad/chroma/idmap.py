"""index_metadata.pickle: which id has which label. Read as a stream, never as objects.

The engine writes it with serde_pickle's `to_writer`, protocol 3 (struct IdMap of Chroma's rust/segment/src/local_hnsw.rs):

    PROTO 3, EMPTY_DICT, MARK,
      "dimensionality"        NONE (the Rust engine never sets it)
      "total_elements_added"  BININT: the last label given; labels begin at 1 and are never given again
      "max_seq_id"            NONE, or an integer where an older Chroma left one
      "id_to_label"           dict of string to BININT
      "label_to_id"           dict of BININT to string
      "id_to_seq_id"          dict of string to BININT; empty unless an older Chroma left something
    SETITEMS, STOP

A string is BINUNICODE. A dict is EMPTY_DICT and, unless empty, groups of up to 1000 items between MARK and SETITEMS, the
last of which may hold none. There is nothing behind STOP. This reader takes these opcodes in these places, no others:
what could name a global or call something is refused like any other byte.
"""

import struct
from collections.abc import Callable, Iterator
from io import FileIO

from chromad.chroma.damage import Damage

FILE = "index_metadata.pickle"

# The engine bounds ids by the size of a request alone (max_payload_size); this bounds the memory used here.
LONGEST_ID = 1 << 30

# Bytes read at a time.
CHUNK = 1 << 18

_PROTO, _EMPTY_DICT, _MARK, _SETITEMS, _STOP = b"\x80\x03", b"}", b"(", b"u", b"."
_NONE, _BININT, _LONG1, _BINUNICODE = b"N", b"J", b"\x8a", b"X"
_MARK_BYTE, _SETITEMS_BYTE, _BININT_BYTE, _BINUNICODE_BYTE = ord("("), ord("u"), ord("J"), ord("X")

_string_head = struct.Struct("<BI").unpack_from
_integer = struct.Struct("<Bi").unpack_from

_SCALARS = ("dimensionality", "total_elements_added", "max_seq_id")
_MAPS = ("id_to_label", "label_to_id", "id_to_seq_id")
_REQUIRED = {"total_elements_added", "id_to_label", "label_to_id", "id_to_seq_id"}

# What Python's own pickle module writes by default since 3.0 and 3.8; the engine's writer only ever wrote 3.
_OLDER = (b"\x80\x04", b"\x80\x05")


class Older(Damage):
    """The pickle is of Chroma before 1.0, in Python: the engine reads it, and writes its own with the next persist."""


# Name of the map, ids as UTF-8, and the labels (in id_to_seq_id: seq ids), in the same order.
Items = tuple[str, list[bytes], list[int]]


class IdMap:
    """One pass over the file.

    total: the last label given; known before the first items are yielded.
    """

    def __init__(self, file: FileIO) -> None:
        self.total = -1
        self._file = file
        self._buffer = b""
        self._at = 0
        self._gone = 0

    def items(self) -> Iterator[Items]:
        """Yields the items of all maps, in pieces of at most some 100 KiB (or one long id).

        Raises Older for the format of another writer, Damage at the first byte that the engine would not have written; all
        whole items before it are yielded.
        """
        if any(self._accept(proto) for proto in _OLDER):
            raise Older(f"{FILE} is of a Chroma before 1.0, which is not examined")
        self._expect(_PROTO)
        self._expect(_EMPTY_DICT)
        self._expect(_MARK)
        found: set[str] = set()
        while not self._accept(_SETITEMS):
            name = self._name()
            if name in found:
                raise Damage(f"{FILE} has {name} twice")
            found.add(name)
            if name in _SCALARS:
                self._scalar(name)
            elif self.total < 0:
                raise Damage(f"{FILE} has {name} before total_elements_added")
            else:
                yield from self._map(name)
        missing = sorted(_REQUIRED - found)
        if missing:
            raise Damage(f"{FILE} lacks {', '.join(missing)}")
        self._expect(_STOP)
        if self._fill(1):
            raise Damage(f"{FILE} goes on behind its end")

    def _name(self) -> str:
        self._expect(_BINUNICODE)
        length = int.from_bytes(self._take(4), "little")
        name = self._take(min(length, 32)).decode("ascii", "replace")
        if name not in _SCALARS + _MAPS:
            raise self._refused()
        return name

    def _scalar(self, name: str) -> None:
        if self._accept(_BININT):
            value = int.from_bytes(self._take(4), "little", signed=True)
        elif name == "max_seq_id" and self._accept(_LONG1):
            value = int.from_bytes(self._take(self._take(1)[0]), "little", signed=True)
        elif name != "total_elements_added" and self._accept(_NONE):
            return
        else:
            raise self._refused()
        if value < 0:
            raise Damage(f"{FILE} gives {name} as {value}")
        if name == "total_elements_added":
            self.total = value

    def _map(self, name: str) -> Iterator[Items]:
        self._expect(_EMPTY_DICT)
        if not self._fill(1) or self._buffer[self._at] != _MARK_BYTE:
            return
        scan = _label_first if name == "label_to_id" else _id_first
        while self._accept(_MARK):
            yield from self._group(name, scan)

    def _group(self, name: str, scan: "_Scan") -> Iterator[Items]:
        while True:
            ids, labels, self._at, wanted = scan(self._buffer, self._at)
            # UTF-8 cannot join over the separator, so this holds for each of them.
            if ids and not _is_utf8(b"\n".join(ids)):
                raise Damage(f"{FILE} has an id that is not UTF-8 before byte {self._position}")
            if ids:
                yield name, ids, labels
            if wanted > LONGEST_ID:
                raise Damage(f"{FILE} claims an id of {wanted} bytes at byte {self._position}")
            if self._accept(_SETITEMS):
                return
            if not wanted:
                raise self._refused()
            if not self._fill(wanted):
                raise self._cut()

    @property
    def _position(self) -> int:
        return self._gone + self._at

    def _refused(self) -> Damage:
        if not self._fill(1):
            return self._cut()
        opcode = self._buffer[self._at]
        return Damage(
            f"{FILE} is refused: byte {self._position} is {opcode:#04x}, which the engine does not write there"
        )

    def _cut(self) -> Damage:
        return Damage(f"{FILE} is cut off at byte {self._gone + len(self._buffer)}")

    def _accept(self, wanted: bytes) -> bool:
        if self._fill(len(wanted)) and self._buffer.startswith(wanted, self._at):
            self._at += len(wanted)
            return True
        return False

    def _expect(self, wanted: bytes) -> None:
        if not self._accept(wanted):
            raise self._refused() if self._fill(len(wanted)) else self._cut()

    def _take(self, count: int) -> bytes:
        if not self._fill(count):
            raise self._cut()
        self._at += count
        return self._buffer[self._at - count : self._at]

    def _fill(self, wanted: int) -> bool:
        """Makes so many bytes available; False when the file ends before."""
        if len(self._buffer) - self._at >= wanted:
            return True
        pieces = [self._buffer[self._at :]]
        available = len(pieces[0])
        while available < wanted:
            piece = self._file.read(CHUNK)
            if not piece:
                break
            pieces.append(piece)
            available += len(piece)
        self._gone += self._at
        self._buffer = b"".join(pieces)
        self._at = 0
        return available >= wanted


# Takes a buffer and where to begin. Gives ids, labels, where it stopped, and how many bytes from there it wants to see to go
# on; 0 when there is no item.
_Scan = Callable[[bytes, int], tuple[list[bytes], list[int], int, int]]


def _id_first(buffer: bytes, at: int) -> tuple[list[bytes], list[int], int, int]:
    ids: list[bytes] = []
    labels: list[int] = []
    last = len(buffer) - 5
    while at <= last:
        opcode, length = _string_head(buffer, at)
        if opcode != _BINUNICODE_BYTE:
            return ids, labels, at, 0
        end = at + 5 + length
        if end > last:
            return ids, labels, at, length + 10
        opcode, label = _integer(buffer, end)
        if opcode != _BININT_BYTE or label < 0:
            return ids, labels, at, 0
        ids.append(buffer[at + 5 : end])
        labels.append(label)
        at = end + 5
    return ids, labels, at, 10


def _label_first(buffer: bytes, at: int) -> tuple[list[bytes], list[int], int, int]:
    ids: list[bytes] = []
    labels: list[int] = []
    size = len(buffer)
    last = size - 10
    while at <= last:
        opcode, label = _integer(buffer, at)
        if opcode != _BININT_BYTE or label < 0:
            return ids, labels, at, 0
        opcode, length = _string_head(buffer, at + 5)
        if opcode != _BINUNICODE_BYTE:
            return ids, labels, at, 0
        end = at + 10 + length
        if end > size:
            return ids, labels, at, length + 10
        ids.append(buffer[at + 10 : end])
        labels.append(label)
        at = end
    return ids, labels, at, 10


def _is_utf8(text: bytes) -> bool:
    try:
        text.isascii() or text.decode()
    except UnicodeDecodeError:
        return False
    return True
