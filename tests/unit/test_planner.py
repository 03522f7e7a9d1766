"""What makes filters fast is made step by step, stops when asked to, and is left when there is no room or no time for it."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from chromad.chroma import planner
from chromad.chroma.sqlite import FILE
from chromad.host.signals import Interrupted
from chromad.logs.lines import log
from chromad.store import compact

ROWS = 40_000
SCHEMA = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE segments (id TEXT PRIMARY KEY, type TEXT NOT NULL, scope TEXT NOT NULL, collection TEXT);
    CREATE TABLE embeddings (id INTEGER PRIMARY KEY, segment_id TEXT NOT NULL, embedding_id TEXT NOT NULL,
        seq_id BLOB NOT NULL, UNIQUE (segment_id, embedding_id));
    CREATE TABLE embedding_metadata (id INTEGER REFERENCES embeddings(id), key TEXT NOT NULL, string_value TEXT,
        int_value INTEGER, float_value REAL, bool_value INTEGER, PRIMARY KEY (id, key));
    CREATE TABLE embedding_metadata_array (id INTEGER NOT NULL REFERENCES embeddings(id), key TEXT NOT NULL,
        string_value TEXT, int_value INTEGER, float_value REAL, bool_value INTEGER);
"""
FILTERED = """EXPLAIN QUERY PLAN SELECT embedding_id FROM embeddings WHERE segment_id = ?
    AND id IN (SELECT id FROM embedding_metadata WHERE key = ? AND int_value = ?)"""


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """As in a process that has told nothing yet."""
    planner._told.clear()
    yield
    planner._told.clear()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, log.name)
    return caplog


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as found:
        found.executescript(SCHEMA)
        yield found


def fill(connection: sqlite3.Connection, rows: int = ROWS) -> None:
    keys = range(1, rows + 1)
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO embeddings VALUES (?1, 'a segment', 'id-' || ?1, ?1)", ((key,) for key in keys))
    for kind in ("string", "int", "float", "bool"):
        connection.executemany(
            f"INSERT INTO embedding_metadata (id, key, {kind}_value) VALUES (?1, 'a {kind}', ?1)",
            ((key,) for key in keys),
        )
    connection.execute("COMMIT")


def messages(told: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in told.records if record.levelno == level]


def test_what_tick_raises_ends_the_work_and_what_was_made_stays(connection: sqlite3.Connection) -> None:
    fill(connection)

    def tick() -> None:
        if len(planner.missing_indexes(other)) < len(planner.INDEXES) - 1:
            raise Interrupted(signal.SIGTERM)

    (_, _, path) = connection.execute("PRAGMA database_list").fetchone()
    with closing(sqlite3.connect(path)) as other, pytest.raises(Interrupted):
        planner.index(connection, tick)
    assert not connection.in_transaction
    assert len(planner.missing_indexes(connection)) == len(planner.INDEXES) - 2
    planner.index(connection)
    assert planner.missing_indexes(connection) == []


def test_tick_that_raises_within_an_index(connection: sqlite3.Connection) -> None:
    fill(connection)

    def tick() -> None:
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        planner.index(connection, tick)
    assert planner.missing_indexes(connection) == [*planner.INDEXES]


def test_signal_while_sqlite_works(connection: sqlite3.Connection, tmp_path: Path) -> None:
    fill(connection)
    program = f"""
import os, signal, sqlite3, threading
from chromad.host import signals
from chromad.chroma import planner
signals.raise_on_end()
begun = threading.Event()
threading.Thread(target=lambda: begun.wait() and os.kill(os.getpid(), signal.SIGTERM)).start()
try:
    planner.index(sqlite3.connect({str(tmp_path / FILE)!r}, isolation_level=None), begun.set)
except signals.Interrupted:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_interrupted_statement_is_not_forgiven(connection: sqlite3.Connection) -> None:
    fill(connection)
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        planner.index(connection, connection.interrupt)


def test_compacting_raises_what_its_progress_raises(connection: sqlite3.Connection, tmp_path: Path) -> None:
    fill(connection)
    connection.execute("CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value)")

    def progress(_phase: str, _done: int, _total: int) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        compact.run(tmp_path, progress)


def test_wal_stays_small(connection: sqlite3.Connection, tmp_path: Path) -> None:
    fill(connection, 4 * ROWS)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = os.path.getsize(tmp_path / FILE)
    planner.index(connection)
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    made = os.path.getsize(tmp_path / FILE) - before
    assert os.path.getsize(tmp_path / f"{FILE}-wal") < made / 2


def test_indexes_are_told_of_when_they_are_there(
    connection: sqlite3.Connection, told: pytest.LogCaptureFixture
) -> None:
    planner.index(connection)
    [message] = messages(told, logging.INFO)
    assert message.startswith(f"made {len(planner.INDEXES)} indexes")


@pytest.mark.skipif(os.geteuid() != 0, reason="SQLite takes another place where it cannot write")
def test_too_little_space_for_temporary_files_is_told_once(
    connection: sqlite3.Connection, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", "/proc")  # which has nothing free
    for _ in range(3):
        planner.index(connection)
        planner.inform(connection)
    [message] = messages(told, logging.WARNING)
    assert message.startswith("filters stay slow: /proc has 0 B free; each of 10 indexes needs ")
    assert messages(told, logging.INFO) == []
    assert planner.missing_indexes(connection) == [*planner.INDEXES]
    monkeypatch.delenv("SQLITE_TMPDIR")
    planner.index(connection)
    assert planner.missing_indexes(connection) == []


def test_place_for_temporary_files_that_is_not_there(
    connection: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes the next one."""
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / FILE))
    planner.index(connection)
    assert planner.missing_indexes(connection) == []


def test_what_sqlite_refuses_is_told_once(connection: sqlite3.Connection, told: pytest.LogCaptureFixture) -> None:
    connection.execute("PRAGMA query_only = ON")
    for _ in range(3):
        planner.index(connection)
    assert len(messages(told, logging.WARNING)) == 1
    assert messages(told, logging.INFO) == []


@pytest.mark.parametrize(("rows", "made"), [(0, True), (100, True), (ROWS, False)])
def test_while_clients_write_no_index_of_many_rows_is_made(
    connection: sqlite3.Connection, rows: int, made: bool
) -> None:
    """A few may be there already when a client's reset is seen."""
    fill(connection, rows)
    planner.index(connection, serving=True)
    assert (planner.missing_indexes(connection) == []) == made


def test_statistics_come_with_the_last_index(connection: sqlite3.Connection) -> None:
    planner.inform(connection)
    assert not planner.is_informed(connection)
    planner.index(connection)
    planner.inform(connection)
    assert planner.is_informed(connection)
    connection.execute("DROP INDEX chromad_embedding_metadata_bool")
    planner.inform(connection)
    assert planner.is_informed(connection)


def test_table_that_has_lost_its_key(connection: sqlite3.Connection) -> None:
    """The audit gives it one under another name."""
    connection.execute("DROP TABLE embeddings")
    connection.execute(
        "CREATE TABLE embeddings (id INTEGER PRIMARY KEY, segment_id TEXT, embedding_id TEXT, seq_id BLOB)"
    )
    connection.execute("CREATE UNIQUE INDEX chromad_embeddings_key ON embeddings (segment_id, embedding_id)")
    planner.index(connection)
    planner.inform(connection)
    (_, _, path) = connection.execute("PRAGMA database_list").fetchone()
    with closing(sqlite3.connect(path)) as other:
        plan = "; ".join(row[3] for row in other.execute(FILTERED, [None] * 3))
    assert "SEARCH embeddings USING INTEGER PRIMARY KEY (rowid=?)" in plan
