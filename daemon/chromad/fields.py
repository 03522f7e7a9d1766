"""Types for what files hold: times and numbers that everything which reads them can work with."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from chromad import names


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time has an offset")
    try:
        datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:
        raise ValueError("a time lies within the years 1 to 9999") from None
    return text


def _uuid(text: str) -> str:
    if not names.is_uuid(text):
        raise ValueError("an id is a UUID")
    return text


def _plain(text: str) -> str:
    if not names.is_plain(text):
        raise ValueError("a name is no path")
    return text


# The id of a collection or a segment
Uuid = Annotated[str, AfterValidator(_uuid)]
# The name of a file in the directory that is spoken of
Name = Annotated[str, AfterValidator(_plain)]
# A time, ISO 8601 with an offset
Moment = Annotated[str, AfterValidator(_moment)]
# The same, empty where there was none yet
MomentOrNone = Annotated[str, AfterValidator(lambda text: _moment(text) if text else text)]
# What SQLite holds in a column of integers
Number = Annotated[int, Field(ge=0, lt=1 << 63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
