"""Lines of the engine: what reaches the journal, and with which level."""

import io
import logging
import signal

import pytest
from chromad.config import Config
from chromad.engine import process
from chromad.host import signals

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
        process._pump_traces(io.StringIO(text))
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


def test_lines_are_listened_to() -> None:
    heard: list[str] = []
    lines = "  2026-11-23T01:00:00Z ERROR error: broken\n    at x.rs:1\n"
    process._pump_traces(io.StringIO(lines), heard.append)
    assert "".join(heard) == lines


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
            process._pump_traces(io.StringIO(line), unheard=found._ends_unheard, scratch=scratch)
            process._pump_errors(io.StringIO("panicked\n"), found._ends_unheard)
            expected += [logging.DEBUG if quiet else logging.ERROR] * 2
    assert [record.levelno for record in caplog.records] == expected
