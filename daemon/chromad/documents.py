"""JSON that somebody else may have written."""

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """What it says. Raises ValueError when it is no JSON, or nested more deeply than anybody means it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
