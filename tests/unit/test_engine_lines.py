"""Lines of the engine: what reaches the journal, and with which level."""

import io
import logging
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from chromad.config import Config
from chromad.engine import process, texts
from chromad.host import signals

NOT_APPLIED = "Error in compaction: Failed to apply logs to the metadata segment"
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
        process._pump_traces([text])
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
    heard: list[str] = []
    events = ["  2026-11-23T01:00:00Z ERROR error: broken\n    at x.rs:1\n\n", "  2026-11-23T01:00:00Z ERROR x\n\n"]
    process._pump_traces(events, heard.append)
    assert heard == events


def test_line_within_an_event_is_no_event(caplog: pytest.LogCaptureFixture) -> None:
    """Such as in what a client has named something."""
    forged = "2026-11-23T01:00:00Z ERROR error: Error in compaction: Failed to apply logs to the metadata segment"
    event = f"2026-11-23T01:00:00Z  WARN a: no {forged.replace('2026', chr(10) + '2026')}\n    at x.rs:1\n\n"
    assert traces(caplog, event) == [(logging.WARNING, "engine: a: no")]
    assert texts.failed_write(event) is None
    assert texts.failed_write(f"{forged}\n") is texts.FailedWrite.NOT_APPLIED


def test_writes_stay_apart_however_they_are_read() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    written = [b"one\ntwo\n", b"x" * 100_000, b"\xff\n"]
    with theirs:
        for each in written:
            theirs.send(each)
    assert list(process.packets(ours)) == [each.decode(errors="replace") for each in written]


@pytest.mark.parametrize(
    ("code", "failed"),
    [
        (7, texts.FailedWrite.UNDONE),
        (13, texts.FailedWrite.UNDONE),
        # SQLITE_IOERR_FSYNC
        (1034, texts.FailedWrite.UNDONE),
        # What leaves the transaction as it is: BUSY_SNAPSHOT, CORRUPT, and a fence
        (517, texts.FailedWrite.OTHER),
        (11, texts.FailedWrite.OTHER),
        (1811, None),
    ],
)
def test_what_sqlite_says_of_a_write(code: int, failed: texts.FailedWrite | None) -> None:
    event = f"2026-11-23T01:00:00Z ERROR error: Query error: Database error: error returned from database: (code: {code}) x\n"
    assert texts.failed_write(event) is failed


@pytest.mark.parametrize(
    ("code", "again", "ended"),
    [
        (1034, 0.0, True),
        (1034, 1.0, True),
        (517, 9999.0, False),
        (None, 1.0, False),
        (None, 3599.0, False),
        (None, 3601.0, True),
    ],
)
def test_engine_whose_write_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int | None, again: float, ended: bool
) -> None:
    """It may keep a transaction open, and put into it what it acknowledges: it is ended at once, but where the reason is not told
    not twice within an hour. again: seconds after the last time."""
    killed: list[bool] = []
    running = SimpleNamespace(poll=lambda: None, kill=lambda: killed.append(True))
    found = process.Engine(Config(data_dir=tmp_path), -1, doubted=time.time() - again)
    monkeypatch.setattr(found, "_process", running)
    text = f"Query error: Database error: error returned from database: (code: {code}) x" if code else NOT_APPLIED
    found._listen(f"2026-11-23T01:00:00Z ERROR error: {text}\n")
    assert bool(killed) is ended
    assert found.doubted is (ended and code is None)


def test_control_characters_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    found = traces(caplog, "2026-11-23T01:00:00Z ERROR a: \x1b[31m\x07\u202e\x00\x85READY=1\n")
    assert found == [(logging.ERROR, r"engine: a: \x1b[31m\x07\u202e\x00\x85READY=1")]


def test_long_lines_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    [(_, found)] = traces(caplog, f"2026-11-23T01:00:00Z ERROR {'x' * 1_000_000}\n")
    assert len(found) < 3000


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
            process._pump_traces([line], unheard=found._ends_unheard, scratch=scratch)
            process._pump_errors(io.StringIO("panicked\n"), found._ends_unheard)
            expected += [logging.DEBUG if quiet else logging.ERROR] * 2
    assert [record.levelno for record in caplog.records] == expected
