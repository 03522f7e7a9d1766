"""What the gateway asks the daemon, and what it is told.

| question | answer |
|---|---|
| `owner UUID` | `TENANT/DATABASE` of a collection; `-` where there is none; `!` and a reason when it cannot be told |
| `fences` | `503 REASON` while the operator refuses writes, `507 REASON` while the disk guard does, else `-` |
| `generation` | a text that is another one after a start of the daemon, a restore and a client's reset |
| `seen …` | `-`: the gateway says something of itself, see heard.py |
| anything else | `!unknown` |

A collection's owner is the same as long as it lives, so that the gateway may keep it until the generation changes.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from chromad import names
from chromad.chroma import owners, sqlite
from chromad.gateway.heard import WORD, Heard
from chromad.store import fence

NONE = "-"
UNKNOWN = "!unknown"

# A name with other characters is in no path that the gateway lets through: nobody's, for it.
_PLACE = re.compile(r"[A-Za-z0-9._~-]+")
_READY = ("warming", "serving")
# Of a trigger's text
_FENCED = "writes are fenced: "


class GatewayAnswers:
    """state: of the daemon. standing: the fences, by kind, as `fence.read` gives them."""

    def __init__(self, data_dir: Path, state: Callable[[], str], standing: Callable[[], Mapping[str, str]]) -> None:
        self._data_dir = data_dir
        self._state = state
        self._standing = standing
        self.heard = Heard()
        self._run = secrets.token_hex(8)

    def answer(self, question: str) -> str:
        """One line for one line. Raises what SQLite does."""
        word, space, rest = question.rstrip("\r").partition(" ")
        if word == "fences" and not space:
            return self._fences()
        if word == WORD:
            return NONE if self.heard.take(rest) else UNKNOWN
        if word != "owner" and (word != "generation" or space):
            return UNKNOWN
        if (state := self._state()) not in _READY:
            # Its files may be those of another moment, or about to be put on disk.
            return f"!the service is {state}"
        return self._owner(rest) if word == "owner" else self._generation()

    def _owner(self, collection: str) -> str:
        # The engine takes other spellings of a UUID as well, which the gateway must not.
        if not names.is_uuid(collection):
            return NONE
        with owners.reading(self._data_dir) as connection:
            found = owners.owner(connection, collection)
        return "/".join(found) if found and all(map(_PLACE.fullmatch, found)) else NONE

    def _generation(self) -> str:
        status = (self._data_dir / sqlite.FILE).stat()
        with owners.reading(self._data_dir) as connection:
            return f"{self._run}-{status.st_ino}-{owners.generation(connection)}"

    def _fences(self) -> str:
        standing = self._standing()
        for kind, status in ((fence.OPERATOR, 503), (fence.DISK, 507)):
            if reason := standing.get(kind):
                return f"{status} {reason.removeprefix(_FENCED)}"
        return NONE
