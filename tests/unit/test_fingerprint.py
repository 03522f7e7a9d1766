"""Fingerprints: rounding does not tell, changes do."""

from typing import Any

import numpy as np
import pytest
from chromad.backup import fingerprint

NUMBERS = np.random.default_rng(1)


def record(vector: list[float] | None, **changes: Any) -> dict[str, Any]:
    return {"embedding": vector, "document": "text", "uri": None, "metadata": {"a": 1}, **changes}


@pytest.mark.parametrize("dimension", [1, 3, 384, 4096])
def test_normalised_and_back(dimension: int) -> None:
    for _ in range(100):
        vector = NUMBERS.normal(size=dimension).astype("f4")
        length = np.float32(np.linalg.norm(vector))
        back = vector / length * length
        one, two = (fingerprint.of(record([float(each) for each in numbers])) for numbers in (vector, back))
        assert one.like(two)
        assert two.like(one)


@pytest.mark.parametrize("dimension", [3, 384, 4096])
def test_other_vectors(dimension: int) -> None:
    for _ in range(100):
        vector = NUMBERS.normal(size=dimension)
        one = fingerprint.of(record(list(vector)))
        for other in (
            vector + NUMBERS.normal(size=dimension) / 100,
            -vector,
            vector * 1.01,
            [*vector, 1.0],
            vector[1:],
        ):
            assert not one.like(fingerprint.of(record(list(other))))


@pytest.mark.parametrize(
    "changes", [{"document": "other"}, {"uri": "there"}, {"metadata": {"a": 2}}, {"metadata": None}]
)
def test_the_rest(changes: dict[str, Any]) -> None:
    assert not fingerprint.of(record([1.0, 2.0])).like(fingerprint.of(record([1.0, 2.0], **changes)))


def test_no_vector_and_no_number() -> None:
    nothing, zero, odd = (fingerprint.of(record(each)) for each in (None, [0.0, 0.0], [float("nan"), 1.0]))
    assert nothing.like(nothing)
    assert zero.like(zero)
    assert odd.like(fingerprint.of(record([float("nan"), 1.0])))
    for one, two in ((nothing, zero), (zero, odd), (odd, nothing)):
        assert not one.like(two)
        assert not two.like(one)
