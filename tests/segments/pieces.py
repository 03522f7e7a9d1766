"""Small files read as if they were large: in pieces of a few bytes, so that every border falls everywhere."""

import random
from pathlib import Path

from chromad.chroma import format, idmap
from chromad.chroma.format import Facts


def examine(directory: Path, numbers: random.Random) -> Facts:
    """format.examine with pieces of random sizes, half of the time with those that it has by itself."""
    usual = idmap.CHUNK, format.CHUNK, format.LINKS_CHUNK
    if numbers.random() < 0.5:
        idmap.CHUNK, format.CHUNK, format.LINKS_CHUNK = (numbers.choice([1, 7, 64, 1000, 5000]) for _ in range(3))
    try:
        return format.examine(directory)
    finally:
        idmap.CHUNK, format.CHUNK, format.LINKS_CHUNK = usual
