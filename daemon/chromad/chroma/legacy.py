"""The pickle of Chroma before 1.0, made into that of the Rust engine. Nothing in it is ever executed.

Until 0.6 `index_metadata.pickle` was Python's own: an object `PersistentData` whose attributes are the maps that `idmap`
describes. Its opcodes are read one by one (pickletools), so one that is cut off gives what comes before the cut.
"""

import pickletools
import struct
from dataclasses import dataclass, field
from pathlib import Path

from chromad.chroma import damage, idmap

_OLD = (b"\x80\x04", b"\x80\x05")
_CLASS = "PersistentData"
_GROUP = 1000
_LARGEST = (1 << 31) - 1  # BININT


@dataclass
class Old:
    """What such a pickle says, as far as it goes and makes sense. labels: by id. total: the last label given. seq_id: up to
    where the segment has applied the log; None where SQLite has that alone. whole: whether it goes to its end."""

    labels: dict[str, int] = field(default_factory=dict)
    total: int = 0
    seq_id: int | None = None
    whole: bool = False

    def take(self, section: str, text: str, number: int) -> bool:
        """A number of the pickle, by the map or attribute that it is in; False for one that makes no sense."""
        if not 0 < number <= _LARGEST:
            return False
        if section == "id_to_label":
            self.labels[text] = number
        elif text == "total_elements_added":
            self.total = number
        elif text == "max_seq_id":
            self.seq_id = number
        return True


def is_old(directory: Path) -> bool:
    """Whether a segment's pickle is of Chroma before 1.0."""
    try:
        with damage.open_file(directory / idmap.FILE) as file:
            return file.read(2) in _OLD
    except damage.Damage:
        return False


def read(directory: Path) -> Old:
    """Reads the pickle of a segment that `is_old`."""
    return _read((directory / idmap.FILE).read_bytes())


def convert(directory: Path) -> int:
    """Replaces a segment's pickle by one of the present form, with what it says; how many ids there are."""
    path = directory / idmap.FILE
    found = read(directory)
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(_present(found))
    draft.replace(path)
    return len(found.labels)


def _read(content: bytes) -> Old:
    found = Old()
    section, text = "", ""
    try:
        for opcode, value, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                found.whole = True
            elif "UNICODE" in opcode.name:
                text = str(value)
            elif opcode.name == "EMPTY_DICT":
                # An attribute's name, and then its value; the first is that of all attributes.
                section = text
            elif not (opcode.name.startswith(("BININT", "LONG")) and section in (_CLASS, "id_to_label")):
                continue
            elif not found.take(section, text, int(str(value))):
                break
    except ValueError:
        pass
    found.total = max(found.total, max(found.labels.values(), default=0))
    return found


def _present(found: Old) -> bytes:
    """The form of `idmap`."""
    ids = [(_string(record), _integer(label)) for record, label in found.labels.items()]
    return b"".join(
        [
            b"\x80\x03}(",
            _string("dimensionality") + b"N",
            _string("total_elements_added") + _integer(found.total),
            _string("max_seq_id") + (b"N" if found.seq_id is None else _integer(found.seq_id)),
            _string("id_to_label") + _map(ids),
            _string("label_to_id") + _map([(label, record) for record, label in ids]),
            _string("id_to_seq_id") + _map([]),
            b"u.",
        ]
    )


def _map(items: list[tuple[bytes, bytes]]) -> bytes:
    groups = (items[start : start + _GROUP] for start in range(0, len(items), _GROUP))
    return b"}" + b"".join(b"(" + b"".join(key + value for key, value in group) + b"u" for group in groups)


def _string(text: str) -> bytes:
    content = text.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
