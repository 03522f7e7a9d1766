"""The pickle of Chroma before 1.0, made into that of the Rust engine. Nothing in it is ever executed.

Until 0.6 `index_metadata.pickle` was Python's own: an object `PersistentData` whose attributes are the maps that `store.idmap`
describes. Its opcodes are read one by one (pickletools), so one that is cut off gives what comes before the cut.
"""

import pickletools
import struct
from pathlib import Path

from chromad.store import idmap

_OLD = (b"\x80\x04", b"\x80\x05")
_GROUP = 1000
_LARGEST = (1 << 31) - 1  # BININT


def is_old(directory: Path) -> bool:
    """Whether a segment's pickle is of Chroma before 1.0."""
    try:
        with open(directory / idmap.FILE, "rb") as file:
            return file.read(2) in _OLD
    except FileNotFoundError:
        return False


def convert(directory: Path) -> int:
    """Replaces a segment's pickle by one of the present form, with the ids that it gives; how many there are."""
    path = directory / idmap.FILE
    labels = _labels(path.read_bytes())
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(_present(labels))
    draft.replace(path)
    return len(labels)


def _labels(content: bytes) -> dict[str, int]:
    """Labels by id, as far as the pickle goes and makes sense."""
    found: dict[str, int] = {}
    section, text = "", ""
    try:
        for opcode, value, _ in pickletools.genops(content):
            if "UNICODE" in opcode.name:
                text = str(value)
            elif opcode.name == "EMPTY_DICT":
                # An attribute's name, and then its value
                section = text
            elif opcode.name.startswith(("BININT", "LONG")) and section == "id_to_label":
                label = int(str(value))
                if not 0 < label <= _LARGEST:
                    return found
                found[text] = label
    except ValueError:
        return found
    return found


def _present(labels: dict[str, int]) -> bytes:
    """The form of `store.idmap`."""
    ids = [(_string(record), _integer(label)) for record, label in labels.items()]
    return b"".join(
        [
            b"\x80\x03}(",
            _string("dimensionality") + b"N",
            _string("total_elements_added") + _integer(max(labels.values(), default=0)),
            _string("max_seq_id") + b"N",
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
