"""Names that come out of data, such as databases, manifests and repositories: what they must look like before they become a
path. Whoever wrote the data chose them."""

import uuid
from pathlib import PurePosixPath

_LONGEST = 255  # bytes of a name, as file systems have it


def is_uuid(text: object) -> bool:
    """Whether it is a UUID as Chroma writes them: ids of collections and segments, and the names of their directories."""
    try:
        return isinstance(text, str) and str(uuid.UUID(text)) == text
    except ValueError:
        return False


def is_plain(text: str) -> bool:
    """Whether it names something in a directory, and nothing elsewhere."""
    return text.isprintable() and text not in ("", ".", "..") and "/" not in text and len(text.encode()) <= _LONGEST


def is_absolute(text: str) -> bool:
    """Whether it is an absolute path that goes nowhere but down."""
    return text.startswith("/") and text == str(PurePosixPath(text)) and all(map(is_plain, text[1:].split("/")))
