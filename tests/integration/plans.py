"""How SQLite would run the engine's own statements on a directory."""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

from chromad.chroma import planner
from chromad.chroma.sqlite import FILE

from tests import statements

# Matches say nothing of which records do not match; and a condition that the engine binds as a value stands before those of
# an $or, for SQLite one more that could hold.
WALK = {"or", "not", "none of", "contains not"}
FAST = "SEARCH embeddings USING INTEGER PRIMARY KEY (rowid=?)"


def plan(directory: Path, statement: str) -> str:
    """How SQLite would run a statement, for whoever opens the file anew."""
    marked = re.sub(r"\$\d+", "?", statement)
    with closing(sqlite3.connect(f"file:{directory / FILE}?mode=ro", uri=True)) as connection:
        connection.create_function("regexp", 2, lambda _pattern, _text: True)
        rows = connection.execute(f"EXPLAIN QUERY PLAN {marked}", [None] * marked.count("?")).fetchall()
    return "; ".join(row[3] for row in rows)


def filtering(told: Mapping[str, list[str]]) -> Iterator[tuple[str, str]]:
    """What was asked for, and the statement that applies the filter."""
    kinds = {*statements.FILTERS, *statements.DOCUMENTS} - WALK
    asked = [f"{verb} {kind}" for verb in ("get", "query") for kind in sorted(kinds)] + ["delete by filter"]
    for each in asked:
        if each in told:
            found = [text for text in told[each] if "SELECT DISTINCT" in text]
            assert len(found) == 1, f"{each} is no longer one statement: {told[each]}"
            yield each, found[0]


def assert_fast(directory: Path, told: Mapping[str, list[str]]) -> None:
    """Filters begin with their matches. told: what the engine says it runs, by the kind of request."""
    for each, statement in filtering(told):
        assert FAST in plan(directory, statement), each
    with closing(sqlite3.connect(f"file:{directory / FILE}?mode=ro", uri=True)) as connection:
        assert planner.is_informed(connection)


def lacks(directory: Path) -> list[str]:
    """The indexes that are missing."""
    with closing(sqlite3.connect(f"file:{directory / FILE}?mode=ro", uri=True)) as connection:
        return planner.missing_indexes(connection)


def assert_indexed(directory: Path) -> None:
    """All indexes are there."""
    assert lacks(directory) == []


def is_fast(directory: Path, told: Mapping[str, list[str]]) -> bool:
    """Whether it is both. False in the middle of a reset, too."""
    with suppress(sqlite3.OperationalError, AssertionError):
        assert_fast(directory, told)
        assert_indexed(directory)
        return True
    return False
