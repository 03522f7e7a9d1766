"""Lines of the engine: what reaches the journal, and with which level."""

import errno
import io
import itertools
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chromad.chroma import sqlite, wal
from chromad.config import Config
from chromad.engine import events, process, texts
from chromad.engine.witness import Witness
from chromad.host import signals

NOT_APPLIED = "2026-11-23T01:00:00Z ERROR error: Error in compaction: Failed to apply logs to the metadata segment"
WRITE_FAILED = (
    "2026-11-23T01:00:00Z ERROR error: Query error: Database error: error returned from database: (code: {}) something"
)
# Its route is cut off, as by a long address.
ANSWER_FAILED = (
    "2026-11-23T01:00:00Z ERROR response failed, classification: Status code: 500 Internal Server Error, latency: 1 ms"
)
READ_FAILED = f'{ANSWER_FAILED}\n    in HTTP request with http.method: POST, http.uri: /x, http.route: "/collections/{{id}}/get"\n'
BANNER = """
                (((((((((    (((((####
             ((((((((((((((((((((((#########

Saving data to: /opt/chromadb/data
Connect to Chroma at: http://127.0.0.1:8000
Getting started guide: https://docs.trychroma.com/docs/overview/getting-started

"""

TRACE = """\
  2026-11-23T01:00:00.123456Z {level} {target}: something happened, latency: 3 ms
    at rust/frontend/src/server.rs:12
    in chroma_frontend::server::add with tenant: "default_tenant"

"""


def traces(caplog: pytest.LogCaptureFixture, text: str) -> list[tuple[int, str]]:
    with caplog.at_level(logging.DEBUG, "chromad"):
        process._pump_traces([(text, True)])
    return [(record.levelno, record.getMessage()) for record in caplog.records]


def errors(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    with caplog.at_level(logging.DEBUG, "chromad"):
        process._pump_errors(io.StringIO(text))
    assert all(record.levelno == logging.ERROR for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


def test_banner_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    assert traces(caplog, BANNER) == []


@pytest.mark.parametrize(
    ("word", "level"),
    [
        ("ERROR", logging.ERROR),
        (" WARN", logging.WARNING),
        (" INFO", logging.INFO),
        ("DEBUG", logging.DEBUG),
        ("TRACE", logging.DEBUG),
    ],
)
def test_trace_has_its_level(caplog: pytest.LogCaptureFixture, word: str, level: int) -> None:
    found = traces(caplog, TRACE.format(level=word, target="chroma_log"))
    assert found == [(level, "engine: chroma_log: something happened, latency: 3 ms")]


def test_percent_signs_are_text(caplog: pytest.LogCaptureFixture) -> None:
    found = traces(caplog, "2026-11-23T01:00:00Z ERROR a: 100%s of %d\n")
    assert found == [(logging.ERROR, "engine: a: 100%s of %d")]


def test_echoed_configuration_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    assert errors(caplog, "==========\nport: 8000\npersist_path: /data\n==========\n") == []


def test_a_panic_is_told_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    text = "==========\nport: 8000\n==========\nthread 'main' panicked at src/main.rs:1:\n\nno space left\n"
    assert errors(caplog, text) == ["engine: thread 'main' panicked at src/main.rs:1:", "engine: no space left"]


def test_an_error_before_the_echo_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert errors(caplog, "the daemon is gone\n") == ["engine: the daemon is gone"]


def test_events_are_listened_to() -> None:
    heard: list[events.Event] = []
    came = [("  2026-11-23T01:00:00Z ERROR error: broken\n    at x.rs:1\n\n", True), ("rest of a long one", False)]
    process._pump_traces(came, heard.append)
    assert heard == came


def test_line_within_an_event_is_no_event(caplog: pytest.LogCaptureFixture) -> None:
    """Such as in what a client has named something."""
    event = f"2026-11-23T01:00:00Z  WARN a: no\n{NOT_APPLIED}\n    at x.rs:1\n\n"
    assert traces(caplog, event) == [(logging.WARNING, "engine: a: no")]
    assert texts.failed_write(event) is None
    assert texts.failed_write(f"{NOT_APPLIED}\n") is texts.FailedWrite.NOT_APPLIED


def test_rest_of_an_event_is_no_event(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "chromad"):
        process._pump_traces([(NOT_APPLIED, False)])
    assert not caplog.records


def test_writes_stay_apart_however_they_are_read() -> None:
    reading, writing = events.pipe()
    full = "x" * 4095 + "\n"
    written = ["one\ntwo\n", full + full + "rest\n", "\xff\n", full, "after a full one"]
    for each in written:
        os.write(writing, each.encode("latin-1"))
    os.close(writing)
    assert list(events.Events(reading)) == [
        ("one\ntwo\n", True),
        (full, True),
        (full, False),
        ("rest\n", False),
        ("\ufffd\n", True),
        (full, True),
        # Nobody can tell.
        ("after a full one", False),
    ]


def test_what_is_heard_without_memory_is_heard_later(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scarce(bytearray):
        failures = 1

        def __getitem__(self, place: Any) -> Any:
            if self.failures:
                self.failures -= 1
                raise MemoryError
            return super().__getitem__(place)

    reading, writing = events.pipe()
    found = events.Events(reading)
    monkeypatch.setattr(found, "_buffer", Scarce(4096))
    for text in (b"one\n", b"two\n"):
        os.write(writing, text)
    os.close(writing)
    with pytest.raises(MemoryError):
        next(found)
    assert list(found) == [("one\n", True), ("two\n", True)]


@pytest.mark.parametrize(
    ("code", "failed"),
    [
        (7, texts.FailedWrite.STARVED),
        (13, texts.FailedWrite.FULL),
        # SQLITE_IOERR_FSYNC
        (1034, texts.FailedWrite.FAILING),
        # What leaves the transaction as it is: BUSY_SNAPSHOT, CORRUPT, and a fence
        (517, texts.FailedWrite.OTHER),
        (11, texts.FailedWrite.OTHER),
        (1811, None),
    ],
)
def test_what_sqlite_says_of_a_write(code: int, failed: texts.FailedWrite | None) -> None:
    assert texts.failed_write(WRITE_FAILED.format(code)) is failed


def listening(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[process.Engine, list[bool]]:
    """An engine that runs, and what becomes of it."""
    killed: list[bool] = []
    running = SimpleNamespace(poll=lambda: 1 if killed else None, kill=lambda: killed.append(True))
    found = process.Engine(Config(data_dir=tmp_path), -1)
    monkeypatch.setattr(found, "_process", running)
    monkeypatch.setattr(process, "_KEPT_OUT", 0.5)
    return found, killed


def looking(
    monkeypatch: pytest.MonkeyPatch, engine: process.Engine, seconds: float = 0.0, *troubles: str
) -> list[float]:
    """When the disk was looked at. seconds: for a look. troubles: what is found; nothing after that."""
    looks: list[float] = []
    left = list(troubles)

    def trouble() -> str:
        looks.append(time.monotonic())
        time.sleep(seconds)
        return left.pop(0) if left else ""

    monkeypatch.setattr(engine, "_witness", SimpleNamespace(trouble=trouble))
    return looks


def looked_into(engine: process.Engine) -> None:
    """Waits until all that it has said is looked into."""
    deadline = time.monotonic() + 30
    while engine._watch and time.monotonic() < deadline:
        engine._watch.join(0.1)
    assert not engine._watch


@pytest.mark.parametrize(
    ("text", "genuine", "trouble", "found"),
    [
        (WRITE_FAILED.format(1034), True, "", "the disk failing"),
        (WRITE_FAILED.format(13), True, "", "the disk full"),
        (WRITE_FAILED.format(7), True, "", "too little memory"),
        # What may be of a client, or has another reason, is looked into.
        (WRITE_FAILED.format(1034), False, "", ""),
        (WRITE_FAILED.format(1034), False, "the disk full", "the disk full"),
        (WRITE_FAILED.format(517), True, "", ""),
        (NOT_APPLIED, True, "", ""),
        (NOT_APPLIED, True, "the disk failing", "the disk failing"),
        (ANSWER_FAILED, True, "the disk full", "the disk full"),
        (READ_FAILED, True, "the disk full", ""),
        (READ_FAILED, True, "the disk failing", "the disk failing"),
        ("2026-11-23T01:00:00Z ERROR a: b", True, "the disk full", ""),
    ],
)
def test_engine_whose_write_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, genuine: bool, trouble: str, found: str
) -> None:
    """It may keep a transaction open, and put into it what it acknowledges."""
    engine, killed = listening(monkeypatch, tmp_path)
    monkeypatch.setattr(engine, "_witness", SimpleNamespace(trouble=lambda: trouble))
    wal.use(tmp_path)
    engine._listen((f"{text}\n", genuine))
    looked_into(engine)
    assert (bool(killed), engine.ended_for) == (bool(found), found)


@pytest.mark.parametrize("damaged", [False, True])
def test_clients_do_not_have_the_disk_looked_at_without_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damaged: bool
) -> None:
    """damaged: the database, so that nobody can tell whether writers are kept out."""
    engine, killed = listening(monkeypatch, tmp_path)
    looks = looking(monkeypatch, engine)
    wal.use(tmp_path)
    if damaged:
        (tmp_path / sqlite.FILE).write_bytes(b"garbage" * 1000)
    for _ in range(50):
        engine._listen((f"{READ_FAILED}\n", True))
        time.sleep(0.01)
    looked_into(engine)
    assert 2 <= len(looks) <= 10
    assert min(later - one for one, later in itertools.pairwise(looks)) >= process._LOOK
    assert killed == []


def test_no_failure_is_left_out_between_two_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that comes while the disk is looked at for another one, or just after that."""
    engine, killed = listening(monkeypatch, tmp_path)
    looking(monkeypatch, engine, 0.1, "", "the disk full")
    wal.use(tmp_path)
    engine._listen((f"{READ_FAILED}\n", True))
    time.sleep(0.05)
    engine._listen((f"{ANSWER_FAILED}\n", True))
    looked_into(engine)
    assert (bool(killed), engine.ended_for) == (True, "the disk full")


def test_engine_does_not_wait_for_a_look_at_a_slow_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """More than its pipe holds: a client may have it fail again and again, and the others are served."""
    engine, killed = listening(monkeypatch, tmp_path)
    looking(monkeypatch, engine, 0.5)
    wal.use(tmp_path)
    reading, writing = events.pipe()
    threading.Thread(target=process._pump_traces, args=(events.Events(reading), engine._listen), daemon=True).start()
    begun = time.monotonic()
    for _ in range(1000):
        os.write(writing, f"{READ_FAILED}\n".encode())
    took = time.monotonic() - begun
    os.close(writing)
    looked_into(engine)
    assert took < 10
    assert killed == []


@pytest.mark.parametrize("ours", [False, True])
def test_engine_that_keeps_writers_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ours: bool) -> None:
    """A failed write of which nobody knows why, and then nobody else can write. ours: it is us, as while the database is compacted."""
    engine, killed = listening(monkeypatch, tmp_path)
    wal.use(tmp_path)
    with sqlite.connect(tmp_path) as connection, engine.waiting() if ours else nullcontext():
        connection.execute("BEGIN IMMEDIATE")
        engine._listen((f"{NOT_APPLIED}\n", True))
        looked_into(engine)
    assert bool(killed) is not ours


@pytest.mark.parametrize("way", ["one after the other", "a long one"])
def test_writers_who_get_on_have_the_engine_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str) -> None:
    """Large writes of clients leave no moment without a writer, and one can take a minute; any request that fails has us look."""
    engine, killed = listening(monkeypatch, tmp_path)
    wal.use(tmp_path)
    with sqlite.connect(tmp_path) as one, sqlite.connect(tmp_path) as other:
        writers = [one, other]
        one.execute("CREATE TABLE x (y)")
        one.execute("PRAGMA cache_size = 10")
        one.execute("BEGIN IMMEDIATE")
        engine._listen((f"{NOT_APPLIED}\n", True))
        deadline = time.monotonic() + 3 * process._KEPT_OUT
        while time.monotonic() < deadline and not killed:
            writers[0].execute("INSERT INTO x VALUES (zeroblob(100000))")
            if way == "one after the other":
                writers[0].execute("COMMIT")
                writers[1].execute("BEGIN IMMEDIATE")
                writers.reverse()
            time.sleep(0.02)
        writers[0].execute("ROLLBACK")
    looked_into(engine)
    assert (killed, engine.ended_for) == ([], "")


def test_transaction_into_which_all_is_put_has_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It grows, and nothing of it is kept."""
    engine, killed = listening(monkeypatch, tmp_path)
    monkeypatch.setattr(process, "_GROWS", 1.0, raising=False)
    wal.use(tmp_path)
    with sqlite.connect(tmp_path) as connection:
        connection.execute("CREATE TABLE x (y)")
        connection.execute("PRAGMA cache_size = 10")
        connection.execute("BEGIN IMMEDIATE")
        engine._listen((f"{NOT_APPLIED}\n", True))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not killed:
            connection.execute("INSERT INTO x VALUES (zeroblob(100000))")
            time.sleep(0.02)
        connection.execute("ROLLBACK")
    assert killed


def test_two_of_us_who_write_for_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As two operators who compact: one of them gives up, since the other one has the database."""
    engine, killed = listening(monkeypatch, tmp_path)
    wal.use(tmp_path)
    with sqlite.connect(tmp_path) as connection, engine.waiting():
        connection.execute("BEGIN IMMEDIATE")
        with engine.waiting():
            pass
        engine._listen((f"{NOT_APPLIED}\n", True))
        looked_into(engine)
    assert killed == []


def test_witness_sees_a_full_disk_and_one_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wal.use(tmp_path)
    witness = Witness(tmp_path)
    witness.begin()
    assert witness.trouble() == ""
    for number, found in (
        (errno.ENOSPC, "the disk full"),
        (errno.EDQUOT, "the disk full"),
        (errno.EIO, "the disk failing"),
        (errno.EROFS, "the disk failing"),
        (errno.EUCLEAN, "the disk failing"),
        (errno.EMFILE, ""),
    ):
        for name in ("write", "fdatasync"):
            with monkeypatch.context() as patched:
                patched.setattr(os, name, _failing(number))
                assert witness.trouble() == found


def _failing(number: int) -> Callable[..., Any]:
    def fail(*_words: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_control_characters_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    found = traces(caplog, "2026-11-23T01:00:00Z ERROR a: \x1b[31m\x07\u202e\x00\x85READY=1\n")
    assert found == [(logging.ERROR, r"engine: a: \x1b[31m\x07\u202e\x00\x85READY=1")]


def test_long_lines_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    [(_, found)] = traces(caplog, f"2026-11-23T01:00:00Z ERROR {'x' * 1_000_000}\n")
    assert len(found) < 3000


@pytest.mark.parametrize(
    ("end", "well"), [("exit 0", True), ("kill -TERM $$", True), ("exit 1", False), ("kill -KILL $$", False)]
)
def test_engine_that_ends_on_request_has_ended_well(end: str, well: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM ends it at once before it serves: a stop in the middle of a start is a clean one."""
    found = process.Engine(Config(), -1)
    assert found.ended_well, "it was never started"
    with subprocess.Popen(["/bin/sh", "-c", end]) as ended:
        ended.wait()
    monkeypatch.setattr(found, "_process", ended)
    assert found.ended_well is well


@pytest.mark.parametrize("scratch", [True, False])
def test_engine_of_somebody_who_is_interrupted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, scratch: bool
) -> None:
    """One of our own complains, before it is ended itself, that nobody waits for its answer: that reaches no terminal."""
    found = process.Engine(Config(), -1, scratch=scratch)
    line = "2026-11-23T01:00:00Z ERROR system: message reply channel was unexpectedly dropped by caller: Ok(())\n"
    expected = []
    with caplog.at_level(logging.DEBUG, "chromad"):
        for came, quiet in ((0, False), (signal.SIGINT, scratch)):
            monkeypatch.setattr(signals._Ending, "came", came)
            process._pump_traces([(line, True)], unheard=found._ends_unheard, scratch=scratch)
            process._pump_errors(io.StringIO("panicked\n"), found._ends_unheard)
            expected += [logging.DEBUG if quiet else logging.ERROR] * 2
    assert [record.levelno for record in caplog.records] == expected
