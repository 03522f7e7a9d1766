"""What a segment's files say of themselves, without numpy: the ids of its pickle, and the dimension of its header."""

import struct
from collections.abc import Iterator
from pathlib import Path

from chromad.chroma import damage, idmap, legacy
from chromad.chroma.damage import Damage
from chromad.chroma.idmap import IdMap

# See `format`.
_HEADER = struct.Struct("<i6QiI3QdQ")


def ids(directory: Path) -> Iterator[str]:
    """The ids of a segment's pickle, as far as it can be read."""
    if legacy.is_old(directory):
        yield from legacy.read(directory).labels
        return
    try:
        with damage.open_file(directory / idmap.FILE) as file:
            for name, found, _ in IdMap(file).items():
                if name == "id_to_label":
                    yield from (each.decode() for each in found)
    except Damage:
        return


def is_whole(directory: Path) -> bool:
    """Whether the pickle can be read to its end."""
    if legacy.is_old(directory):
        return legacy.read(directory).whole
    try:
        with damage.open_file(directory / idmap.FILE) as file:
            for _ in IdMap(file).items():
                pass
    except Damage:
        return False
    return True


def dimension(directory: Path) -> int | None:
    """Numbers of a vector, by a header that makes sense and is not of an index without elements; else None."""
    try:
        with damage.open_file(directory / "header.bin") as file:
            content = file.read(_HEADER.size)
        with damage.open_file(directory / "data_level0.bin") as file:
            level0 = damage.size(file)
    except Damage:
        return None
    if len(content) < _HEADER.size:
        return None
    fields = _HEADER.unpack(content)
    elements, size, label, data = fields[3], fields[4], fields[5], fields[6]
    bytes_of_vector = label - data
    sane = elements and 0 < bytes_of_vector < size < 1 << 24 and size == label + 8 and bytes_of_vector % 4 == 0
    sane = sane and level0 % size == 0 and level0 >= elements * size
    return bytes_of_vector // 4 if sane else None
