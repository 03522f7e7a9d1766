"""Writes well-formed segments of any size without the engine: random links, as if each element had been added at random."""

import struct
import uuid
from collections.abc import Callable
from math import log
from pathlib import Path

import numpy as np
from chromad.chroma import format, idmap, segment
from numpy.typing import NDArray

_PIECE = 10_000


def write(directory: Path, elements: int, dimension: int, links: int = 16) -> None:
    """Makes a segment with ids of 36 characters. Elements link to random ones; M is `links`."""
    directory.mkdir(parents=True)
    numbers = np.random.default_rng(1)
    levels = np.minimum((-np.log(1 - numbers.random(elements)) / log(links)).astype(int), 8)
    _header(directory, elements, dimension, links, levels)
    with open(directory / format.LEVEL0_FILE, "wb") as file:
        for first in range(0, elements, _PIECE):
            count = min(_PIECE, elements - first)
            block = np.zeros((count, 1 + 2 * links + dimension + 2), "<u4")
            block[:, 0] = links
            block[:, 1 : 1 + links] = numbers.integers(0, elements, (count, links))
            block[:, 1 + 2 * links : -2] = numbers.random((count, dimension), dtype=np.float32).view("<u4")
            block[:, -2] = np.arange(first + 1, first + 1 + count)
            block.tofile(file)
        file.truncate(max(100, elements) * block.shape[1] * 4)
    (directory / format.LENGTH_FILE).write_bytes(bytes(4 * max(100, elements)))
    _links(directory, links, levels, numbers)
    _pickle(directory, elements)


def _header(directory: Path, elements: int, dimension: int, links: int, levels: NDArray[np.int64]) -> None:
    data = 4 + 8 * links
    label = data + 4 * dimension
    room = 100 if elements <= 100 else 1 << (elements - 1).bit_length()
    (directory / format.HEADER_FILE).write_bytes(
        segment.HEADER.pack(
            1,
            0,
            room,
            elements,
            label + 8,
            label,
            data,
            int(levels.max()),
            int(levels.argmax()),
            links,
            2 * links,
            links,
            1 / log(links),
            100,
        )
    )


def _links(directory: Path, links: int, levels: NDArray[np.int64], numbers: np.random.Generator) -> None:
    known = [np.flatnonzero(levels >= level) for level in range(int(levels.max()) + 1)]
    with open(directory / format.LINKS_FILE, "wb") as file:
        for level in levels.tolist():
            file.write(struct.pack("<I", level * 4 * (links + 1)))
            for lower in range(1, level + 1):
                targets = numbers.choice(known[lower], links)
                file.write(struct.pack(f"<I{links}I", links, *targets.tolist()))


def _pickle(directory: Path, elements: int) -> None:
    ids = [
        str(uuid.UUID(int=(label * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128)) for label in range(1, elements + 1)
    ]
    with open(directory / idmap.FILE, "wb") as file:
        file.write(
            b"\x80\x03}(" + _string("dimensionality") + b"N" + _string("total_elements_added") + _integer(elements)
        )
        file.write(_string("max_seq_id") + b"N" + _string("id_to_label") + b"}")
        _items(file.write, [_string(key) + _integer(label) for label, key in enumerate(ids, 1)])
        file.write(_string("label_to_id") + b"}")
        _items(file.write, [_integer(label) + _string(key) for label, key in enumerate(ids, 1)])
        file.write(_string("id_to_seq_id") + b"}u.")


def _items(write: Callable[[bytes], object], items: list[bytes]) -> None:
    for first in range(0, len(items), 1000):
        write(b"(" + b"".join(items[first : first + 1000]) + b"u")
    if len(items) % 1000 == 0:
        write(b"(u")


def _string(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)
