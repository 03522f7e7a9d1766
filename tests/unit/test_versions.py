"""Versions compare by number."""

import pytest
from chromad import versions
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("older", "newer"), [("1.5.9", "1.5.10"), ("1.5.9", "1.6.0"), ("0.6.3", "1.0.0"), ("1.5", "1.5.1")]
)
def test_order(older: str, newer: str) -> None:
    assert versions.numbers(older) < versions.numbers(newer)


@given(st.text())
def test_any_text(text: str) -> None:
    assert all(number >= 0 for number in versions.numbers(text))


def test_superscript_digit_is_no_number() -> None:
    assert versions.numbers("1.²") == (1, 0)


def test_installed() -> None:
    assert versions.numbers(versions.engine()) >= (1, 5, 9)
    assert versions.chromad()


def test_number_of_no_version() -> None:
    assert versions.numbers(f"1.{'9' * 5000}") == (1, 0)
