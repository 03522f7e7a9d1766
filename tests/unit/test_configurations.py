"""Configurations of collections that Chroma did not write."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from chromad.chroma import sqlite
from chromad.errors import ChromadError

_DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("schema", "configuration"),
    [
        (_DEEP, _DEEP),
        ("[]", "{}"),
        ('{"keys": {"#embedding": 7}}', "{}"),
        (None, "[]"),
        (None, '{"vector_index": 7}'),
        (None, "x"),
    ],
    ids=lambda text: str(text)[:20],
)
def test_distance_of_a_strange_one(two: Path, schema: str | None, configuration: str) -> None:
    with closing(sqlite3.connect(two / sqlite.FILE)) as connection, connection:
        connection.execute("UPDATE collections SET schema_str = ?, config_json_str = ?", (schema, configuration))
    [first, _] = sqlite.collections(two)
    with sqlite.connect(two) as connection, pytest.raises(ChromadError, match="is not one that Chroma writes"):
        sqlite.is_cosine(connection, first)
