"""Forms of values: durations, sizes, paths, addresses, and what restic takes for a repository."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

_DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 365 * 86400
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_duration(value: object) -> float:
    """Seconds from '90s', '15m', '2h', '1d', or from a plain number of seconds. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds: int | float = value
    else:
        match = re.fullmatch(r"(\d{1,15})\s*([smhd])", str(value), re.ASCII)
        if not match:
            raise ValueError("a duration is a number and s, m, h or d, for example 10m")
        seconds = int(match[1]) * _DURATION_UNITS[match[2]]
    # Compared before it is converted: an integer can be too large for a float.
    if not 0 < seconds <= _LONGEST:
        raise ValueError("a duration is more than 0 and at most a year")
    return float(seconds)


def parse_size(value: object) -> int:
    """Bytes from '40M', '1G' (powers of 1024), or from a plain number of bytes. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d{1,15})\s*([KMGT]?)", str(value), re.ASCII)
    if not match:
        raise ValueError("a size is a number and K, M, G or T, for example 40M")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _absolute(value: object) -> object:
    if isinstance(value, str):
        if not value.startswith("/"):
            raise ValueError(f"the path {value!r} is relative; it must be absolute")
        if ".." in Path(value).parts:
            raise ValueError(f"the path {value!r} must not contain '..'")
        if not value.isprintable():
            raise ValueError(f"the path {value!r} contains a character that cannot be printed")
    return value


def listen_host(value: object) -> object:
    if value == "localhost":
        return "127.0.0.1"
    if isinstance(value, str):
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError(f"{value!r} is not an IP address (or localhost)") from None
    return value


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character cannot be passed on to a command")
    return text


AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
# A word of a command line or of an environment, execve(2)
Word = Annotated[str, AfterValidator(_no_nul)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0, le=1 << 40)]
Count = Annotated[int, Field(strict=True, ge=0, le=10_000)]


# A password may have an @ in it, or a slash, after which it looks like a port that is no number.
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@|://[^/@:\[]*:(?!\d*(/|$))")


def _repository(value: object) -> object:
    if isinstance(value, str):
        if not value.isprintable() or not value.strip():
            raise ValueError(
                "a repository is a path, or restic's name of a place: sftp:host:/path, s3:…, rest:…, rclone:…"
            )
        if ":" not in value.split("/")[0]:
            return str(_absolute(value))
        if _PASSWORD.search(value):
            raise ValueError("a repository's address must not hold a password; put it into backup.environment_file")
        if re.match(r"rclone:.*[:,][^=,]*(pass|token|secret|key)[^=,]*=", value, re.IGNORECASE):
            raise ValueError(
                "a repository's address must not hold a secret; put the remote into rclone's configuration"
            )
    return value


# As restic's --repo takes it
Repository = Annotated[str, BeforeValidator(_repository)]
Percent = Annotated[int, Field(strict=True, ge=1, le=100)]
