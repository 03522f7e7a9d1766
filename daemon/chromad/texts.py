"""Chroma's phrases: all that chromad goes by in what the engine says, and nothing else in the package reads its texts.

Clients choose names, ids, keys and paths, and the engine echoes them in messages and in log lines, newlines included. So a
message counts only as a whole, or by a beginning that no client can write before; and a log line, which can be forged as a
whole, is never more than a reason to look at the thing itself. tests/integration/test_texts.py provokes each of them.
"""

import json
import re
from collections.abc import Mapping

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

# Of a log line: the header of tracing-subscriber's "pretty" format; "at" and "in" lines follow it.
_TRACE = re.compile(r"\s*\d{4}-\d\d-\d\dT[\d:.]+Z\s+(TRACE|DEBUG|INFO|WARN|ERROR)\s+(.*)")
# The same in what is said of each write to the log that fails, and of each answer with a status of 500 and more.
_WRITE_REFUSED = "error: Query error: Database error: error returned from database: (code: 1811) "
_ANSWER_FAILED = "response failed, classification: Status code: "


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
        found = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(found, dict) or found.get("error") != "InternalError":
        return ""
    return str(found.get("message", ""))


def trace(line: str) -> tuple[str, str] | None:
    """Level and message of a log line; None for one that only goes on with another, or is none."""
    match = _TRACE.match(line)
    return (match[1], match[2].rstrip()) if match else None


def is_refused_write(message: str) -> bool:
    """Whether an ERROR line tells of a write that a trigger has refused: a fence, which is no fault of the engine's."""
    return message.startswith(_WRITE_REFUSED)


def is_failed_answer(message: str) -> bool:
    """Whether an ERROR line tells of an answer, after what it may have told of its reason."""
    return message.startswith(_ANSWER_FAILED)
