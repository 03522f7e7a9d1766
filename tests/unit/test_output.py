"""What people and the journal read."""

import io
import logging
import re
import socket
import struct
from pathlib import Path

import pytest
from chromad import errors
from chromad.cli import ui
from chromad.logs import events, lines
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Table
from rich.text import Text


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
    assert lines.human_bytes(count) == text


@given(st.sampled_from([logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR]), st.text(min_size=1))
def test_journal_lines_all_have_a_priority(level: int, text: str) -> None:
    record = logging.LogRecord("chromad", level, "", 0, "%s", (text,), None)
    wanted = {logging.DEBUG: "<7>", logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>"}[level]
    told = lines._JournalFormatter("%(message)s").format(record).splitlines()
    assert all(line.startswith(wanted) for line in told)


def _entry(data: bytes) -> dict[str, str]:
    """Reads an entry as journald does, https://systemd.io/JOURNAL_NATIVE_PROTOCOL"""
    fields = {}
    while data:
        name, _, rest = data.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
        else:
            key = name
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        fields[key.decode()] = value.decode()
        data = rest
    return fields


@settings(max_examples=20, deadline=None)
@given(st.text())
def test_events_are_entries_with_fields(text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind("")  # an abstract address
        address = journald.getsockname()
        assert lines.send(events.FENCED, logging.WARNING, text, "chromactl", address)
        assert _entry(journald.recv(1 << 20)) == {
            "MESSAGE": errors.contained(text),
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "chromactl",
            "MESSAGE_ID": events.FENCED.id,
            "CHROMAD_EVENT": "fenced",
        }


def test_no_journald(tmp_path: Path) -> None:
    assert not lines.send(events.READY, logging.INFO, "text", "chromad", tmp_path / "nothing")


def test_events_are_told_apart() -> None:
    assert len({each.id for each in events.ALL}) == len({each.name for each in events.ALL}) == len(events.ALL) >= 15
    assert all(re.fullmatch("[0-9a-f]{32}", each.id) for each in events.ALL)


def test_no_name_of_a_clients_controls_a_terminal_or_makes_a_line() -> None:
    name = "a\x1b[31m\x07\u202e\ud800\x9b\x85b\n12:00:00 ERROR   forged"
    record = logging.LogRecord("chromad", logging.INFO, "", 0, "left cold: %s", (name,), None)
    said = r"left cold: a\x1b[31m\x07\u202e\ud800\x9b\x85b"
    assert lines._Formatter("%(message)s").format(record) == f"{said}\n  12:00:00 ERROR   forged"
    assert errors.one_line(name) == said.removeprefix("left cold: ") + r"\n12:00:00 ERROR   forged"
    assert errors.one_line("x" * 3000) == "x" * 2000 + "…"


@pytest.mark.parametrize("terminal", [True, False])
def test_console_prints_no_control_characters(terminal: bool) -> None:
    shown = io.StringIO()
    console = ui._Console(file=shown, force_terminal=terminal, width=80, no_color=True, highlight=False)
    text = "a\x1b[31m\x07\u202e\x9b b"
    table = Table("NAME", text, box=None)
    table.add_row(Text(text), text)
    for each in (text, Text(text), table, Group(text, Text(text))):
        console.print(each, markup=False)
    assert not re.search("[\x07\u202e\x9b]|\x1b\\[31m", shown.getvalue())
    # rich itself leaves the bell out.
    assert r"a\x1b[31m\u202e\x9b b" in shown.getvalue()
