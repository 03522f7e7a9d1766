"""What is kept of a record to know it again.

The engine normalises the vectors of a cosine collection and gives them back multiplied by their length: from one replay of the
log to the next they may differ in their last bits. So of a vector sums are compared, and of the rest a hash.
"""

import hashlib
import json
import math
import random
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import mul
from typing import Any

_SUMS = 2
# The part of a vector's length by which its sums may differ: more than rounding does, less than any change that one sees
_SAME = 1e-4


@dataclass(frozen=True)
class Fingerprint:
    """digest: SHA-256 of document, uri and metadata. vector: its length, then sums of its numbers with signs of their own;
    empty where there is no vector."""

    digest: str
    vector: tuple[float, ...]

    def like(self, other: "Fingerprint") -> bool:
        """Whether both are of the same record, as far as one can tell."""
        if self.digest != other.digest or len(self.vector) != len(other.vector):
            return False
        margin = _SAME * max((*self.vector[:1], *other.vector[:1]), default=0.0)
        return all(abs(one - two) <= margin for one, two in zip(self.vector, other.vector, strict=True))


def of(record: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint of a record as `Api.records` gives it."""
    found = hashlib.sha256()
    numbers = record["embedding"] or []
    sums: tuple[float, ...] = ()
    if all(map(math.isfinite, numbers)):
        if numbers:
            sums = (math.hypot(*numbers), *(math.fsum(map(mul, numbers, signs)) for signs in _signs(len(numbers))))
    else:
        found.update(array("f", numbers).tobytes())
    rest = [record["document"], record["uri"], record["metadata"]]
    found.update(json.dumps(rest, sort_keys=True, ensure_ascii=False).encode())
    return Fingerprint(found.hexdigest(), sums)


@lru_cache(maxsize=16)
def _signs(dimension: int) -> list[list[float]]:
    numbers = random.Random(dimension)  # noqa: S311 (the same each time)
    return [[1.0 if numbers.random() < 0.5 else -1.0 for _ in range(dimension)] for _ in range(_SUMS)]
