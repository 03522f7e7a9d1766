"""What people and the journal read."""

import logging

import pytest
from chromad import output
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (2 << 40, "2.0 TiB"),
        (5000 << 40, "5000.0 TiB"),
    ],
)
def test_human_bytes(count: int, text: str) -> None:
    assert output.human_bytes(count) == text


@given(st.sampled_from([logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR]), st.text(min_size=1))
def test_journal_lines_all_have_a_priority(level: int, text: str) -> None:
    record = logging.LogRecord("chromad", level, "", 0, "%s", (text,), None)
    wanted = {logging.DEBUG: "<7>", logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>"}[level]
    lines = output._JournalFormatter("%(message)s").format(record).splitlines()
    assert all(line.startswith(wanted) for line in lines)
