"""What an upgrade leaves beside the environments while it goes on: how to put everything back, or how to end it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from chromad.errors import ConfigurationError
from chromad.host import files
from chromad.maintenance import environment

FILE = "upgrade.json"
FORMAT = 1


@dataclass(frozen=True)
class Journal:
    """What to put back. inode: of the former data directory, which tells where it is now. copy: where the copy was made; after
    the exchange the former data are there. compared: the new version is good, what is left is to lift the hold."""

    format: int
    begun: str
    old: Path
    new: Path
    engine: str
    data_dir: Path
    inode: int
    copy: Path
    compared: bool


def read() -> Journal | None:
    """The journal of an upgrade that did not come to its end. Raises ConfigurationError when it cannot be read."""
    path = environment.home() / FILE
    try:
        found = TypeAdapter(Journal).validate_json(files.read_plain(path))
    except FileNotFoundError:
        return None
    except ValueError:
        raise ConfigurationError(
            f"{path} is damaged", "look at the link venv, the data and the copy beside them yourself, then remove it"
        ) from None
    if found.format > FORMAT:
        raise ConfigurationError(
            f"{path} has format {found.format}; this chromactl knows up to {FORMAT}",
            f"{found.new}/bin/chromactl upgrade",
        )
    return found


def write(journal: Journal) -> None:
    """Puts it on disk; a crash leaves either the old or the new one."""
    text = json.dumps(asdict(journal), indent=2, default=str, allow_nan=False) + "\n"
    files.write_atomically(environment.home() / FILE, text, 0o644)


def remove() -> None:
    """The upgrade has come to its end, whichever."""
    files.remove(environment.home() / FILE)
    files.sync(environment.home())
