"""What the daemon's answers hold at least, so that whoever asks can work with them.

Somebody else may listen in its place, with the same user; then an answer is anything at all.
"""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from chromad.control.messages import (
    CheckpointsReport,
    CollectionsReport,
    CompactReport,
    ErrorReport,
    FencesReport,
    Message,
    StatusReport,
)
from chromad.fields import Number

_KINDS: dict[str, type[Message]] = {
    "status": StatusReport,
    "collections": CollectionsReport,
    "checkpoint": CheckpointsReport,
    "compact": CompactReport,
    "fence": FencesReport,
    "unfence": FencesReport,
}
_PROGRESS = TypeAdapter(tuple[str, Number, Number])


def check(verb: str, answer: dict[str, Any]) -> None:
    """Raises ValueError for an answer to a verb, or an error, that lacks something, or has it in another form."""
    kind = ErrorReport if "error" in answer else _KINDS.get(verb, Message)
    try:
        kind.model_validate(answer)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ValueError(f"{where} of it is not understood") from None


def progress(line: dict[str, Any]) -> tuple[str, int, int]:
    """Phase, done and total of a line of progress. Raises ValueError for what is none."""
    try:
        return _PROGRESS.validate_python(line["progress"])
    except ValidationError:
        raise ValueError("a line of progress is not understood") from None
