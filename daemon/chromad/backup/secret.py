"""Keys and credentials of repositories: read as root or from systemd's credentials, handed on through memory alone."""

import os
import re
from pathlib import Path

from chromad.errors import ConfigurationError, PermissionProblem

_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_OTHERS = 0o007
# Bytes
_LARGEST = 64 << 10


def read(path: Path) -> bytes:
    """The content of a secret file: systemd's copy of it (LoadCredential=, by its bare name) where there is one.

    Raises ConfigurationError when it is missing or empty, PermissionProblem when it cannot be read, or by anybody.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    given = Path(directory, path.name)
    source = given if directory and given.exists() else path
    try:
        with open(source, "rb") as file:
            if source == path and os.fstat(file.fileno()).st_mode & _OTHERS:
                raise PermissionProblem(f"{path} can be read by everybody", f"chmod 0400 {path}, and take another key")
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} does not exist", "chromactl backups init makes a key; on another host, bring the one of the first"
        ) from None
    except PermissionError:
        raise PermissionProblem(f"{path} is not readable for this user", "run as root") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", "name a file with the key") from None
    if len(content) > _LARGEST:
        raise ConfigurationError(f"{path} is larger than {_LARGEST >> 10} KiB", "name a file with the key")
    if not content.strip():
        raise ConfigurationError(f"{path} is empty", "put the key of the repository into it")
    return content


def read_environment(path: Path) -> dict[str, str]:
    """The variables of a file with lines KEY=VALUE, as systemd's EnvironmentFile= has them, without quoting."""
    found: dict[str, str] = {}
    for number, line in enumerate(read(path).decode(errors="replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if not match:
            raise ConfigurationError(f"{path}, line {number}: not of the form KEY=VALUE", "one variable a line")
        found[match[1]] = match[2]
    return found


def in_memory(content: bytes) -> int:
    """A file descriptor of a file without a name, for a child that wants a file."""
    fd = os.memfd_create("secret")
    os.write(fd, content)
    return fd
