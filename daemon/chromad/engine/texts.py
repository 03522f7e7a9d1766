"""Chroma's phrases: all that chromad goes by in what the engine says, and nothing else in the package reads its texts.

Clients choose names, ids, keys and paths, and the engine echoes them in messages and in log lines, newlines included. So a
message counts only as a whole, or by a beginning that no client can write before. In the log, a line can be forged as a whole,
and is no more than a reason to look at the thing itself; the beginning of an event cannot, see `events`.
tests/integration/test_texts.py provokes each of them.
"""

import re
from collections.abc import Mapping
from enum import Enum

from chromad import documents
from chromad.errors import EngineError, NotFound, RecordLost, SegmentUnreadable, TablesMissing

# Of a message, {"error": "InternalError", "message": …} with status 500

# A record without a vector is asked for with it (chroma_segment::local_hnsw), as `chromactl repair` leaves those that
# cannot be had.
_RECORD_LOST = re.compile(r"Error executing plan: Internal error: Error finding id")
# A vector segment cannot be loaded at the first touch, or what the log adds not be put into it. Not where its file cannot be
# opened, or SQLite not be read.
_SEGMENT_UNREADABLE = re.compile(
    r"Error executing plan: Error sending backfill request to compactor: ("
    r"Error constructing hnsw segment reader: Error creating hnsw segment reader: "
    r"(?!Error opening pickle file|Error reading from sqlite).*|"
    r"Failed to get hnsw segment writer|Failed to apply logs to the hnsw segment writer)",
    re.DOTALL,
)
# A client's reset drops all tables, one by one, before it makes them anew.
_TABLES_MISSING = re.compile(r"Database error: error returned from database: \(code: 1\) no such table: \w+")
_KINDS: Mapping[re.Pattern[str], type[EngineError]] = {
    _RECORD_LOST: RecordLost,
    _SEGMENT_UNREADABLE: SegmentUnreadable,
    _TABLES_MISSING: TablesMissing,
}

# Of the log, in tracing-subscriber's "pretty" format: a header, then "at" and "in" lines.
_TRACE = re.compile(r"\s*\d{4}-\d\d-\d\dT[\d:.]+Z\s+(TRACE|DEBUG|INFO|WARN|ERROR)\s+(.*)")
# A write to the log failed, for the reason that SQLite gives; 1811 is a trigger's refusal.
_WRITE_FAILED = re.compile(
    r"error: Query error: Database error: error returned from database: \(code: (?!1811\))(\d{1,9})\) .*"
)
# It was logged, but not applied.
_NOT_APPLIED = "error: Error in compaction: Failed to apply logs to the metadata segment"
# An answer with a status of 500 and more, for whatever reason, and the request that it was for, by the engine's own name
# for its route.
_ANSWER_FAILED = "response failed, classification: Status code: 500 Internal Server Error, latency: "
_REQUEST = re.compile(r'\s*in HTTP request with http\.method: ([A-Z]+), http\.uri: \S+, http\.route: "([^"]*)"')
_CATALOG = ("/tenants", "/databases", "/collections", "/fork", "/reset")
# What has the engine log requests, for RUST_LOG
REQUESTS = "chroma_tracing::tower_tracing=debug"


def kind(status: int, body: str) -> type[EngineError]:
    """The class of the error that an answer stands for. status: 400 and more."""
    if status == 404:
        return NotFound
    if status != 500:
        return EngineError
    message = _message(body)
    return next((found for phrase, found in _KINDS.items() if phrase.fullmatch(message)), EngineError)


def _message(body: str) -> str:
    """What the engine says of an internal error; empty where it says nothing of that form."""
    try:
        found = documents.parse(body)
    except ValueError:
        return ""
    if not isinstance(found, dict) or found.get("error") != "InternalError":
        return ""
    return str(found.get("message", ""))


def trace(line: str) -> tuple[str, str] | None:
    """Level and message of a log line; None for one that only goes on with another, or is none."""
    match = _TRACE.match(line)
    return (match[1], match[2].rstrip()) if match else None


def is_failed_answer(message: str) -> bool:
    """Whether the message of a log line says that a request was answered with 500."""
    return message.startswith(_ANSWER_FAILED)


class FailedWrite(Enum):
    """FULL, FAILING, STARVED: SQLite has undone a transaction by itself, for this; the value is what the engine found.
    NOT_APPLIED: what was logged could not be applied, and the engine does not say why. OTHER: a write to the log that failed for
    another reason, or a change of the catalog, of which the engine does not say why it failed. READ: neither is told of a read that
    failed, and it applies what was logged."""

    FULL = "the disk full"
    FAILING = "the disk failing"
    STARVED = "too little memory"
    NOT_APPLIED = "not applied"
    OTHER = "other"
    READ = "read"


# By SQLite's primary codes FULL, IOERR and NOMEM
# (https://www.sqlite.org/lang_transaction.html, "Response To Errors Within A Transaction")
UNDOING = {13: FailedWrite.FULL, 10: FailedWrite.FAILING, 7: FailedWrite.STARVED}


def failed_write(event: str) -> FailedWrite | None:
    """What an event of the log, or the beginning of one, tells of a write; None where it tells of none that failed."""
    found = trace(event)
    if not found or found[0] != "ERROR":
        return None
    message = found[1]
    if message == _NOT_APPLIED:
        return FailedWrite.NOT_APPLIED
    if failed := _WRITE_FAILED.fullmatch(message):
        # An extended code has the primary one in its lowest byte.
        return UNDOING.get(int(failed[1]) & 0xFF, FailedWrite.OTHER)
    if not is_failed_answer(message):
        return None
    request = next(filter(None, map(_REQUEST.match, event.splitlines()[1:])), None)
    if not request:
        # It comes after the address, of which clients decide how long it is.
        return FailedWrite.OTHER
    method, route = request.groups()
    changes = method in ("PUT", "PATCH", "DELETE") or (method == "POST" and route.endswith(_CATALOG))
    return FailedWrite.OTHER if changes else FailedWrite.READ
