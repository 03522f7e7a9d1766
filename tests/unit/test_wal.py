"""The WAL: of a private copy it stays where it is while it is kept; whether it could be emptied is said."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from chromad.chroma import sqlite, wal

_ROWS = 2000
_AUTOMATIC = 1000  # pages after which SQLite moves the WAL into the file


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    wal.use(tmp_path, flush=False)
    with closing(sqlite3.connect(tmp_path / sqlite.FILE)) as connection:
        connection.execute("CREATE TABLE numbers (content BLOB)")
    return tmp_path


def fill(directory: Path) -> None:
    """Writes some pages for each row, with a commit for each."""
    with closing(sqlite3.connect(directory / sqlite.FILE, isolation_level=None)) as connection:
        for _ in range(_ROWS):
            connection.execute("INSERT INTO numbers VALUES (zeroblob(4000))")


def test_file_is_not_written(directory: Path) -> None:
    with closing(sqlite3.connect(directory / sqlite.FILE)):  # so that none of the others is the last one
        with wal.keep(directory):
            before = (directory / sqlite.FILE).read_bytes()
            fill(directory)
            assert (directory / sqlite.FILE).read_bytes() == before
            assert (directory / f"{sqlite.FILE}-wal").stat().st_size > 4096 * _AUTOMATIC
        fill(directory)
        assert (directory / sqlite.FILE).read_bytes() != before


def test_nothing_is_lost(directory: Path) -> None:
    with wal.keep(directory):
        fill(directory)
    assert wal.truncate(directory, flush=False)
    assert not (directory / f"{sqlite.FILE}-wal").exists()
    with closing(sqlite3.connect(directory / sqlite.FILE)) as connection:
        assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (_ROWS,)


def test_reader_who_keeps_it_from_being_emptied_is_told_of(directory: Path) -> None:
    fill(directory)
    with closing(sqlite3.connect(directory / sqlite.FILE, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM numbers").fetchone()
        with closing(sqlite3.connect(directory / sqlite.FILE)) as writer, writer:
            writer.execute("INSERT INTO numbers VALUES (zeroblob(4000))")
        assert not wal.truncate(directory)
        reader.execute("ROLLBACK")
        assert wal.truncate(directory)
