"""client.yml: where the service is, and as whom one connects.

endpoint: https://chroma.example.com:8443
ca_file: /etc/chromadb/ca.pem          # where the certificate is not of a public authority
token_file: /etc/chromadb/token
tenant: default_tenant
database: default_database
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from chromad_client.errors import ConfigurationError

PATH = Path("/etc/chromadb/client.yml")
VARIABLE = "CHROMAD_CLIENT"  # names another file
_PORTS = {"http": 80, "https": 443}


class Settings(BaseModel):
    """What the file says. endpoint: a URL of scheme, host and port."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    endpoint: str
    ca_file: str | None = None
    token_file: str | None = None
    tenant: str = "default_tenant"
    database: str = "default_database"

    @field_validator("endpoint")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        parts = urlsplit(value)
        # Of white space, some would be left out and some kept.
        if parts.scheme not in _PORTS or not parts.hostname or value.split() != [value]:
            raise ValueError("it must be a URL such as https://chroma.example.com:8443")
        if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
            raise ValueError("only scheme, host and port belong into it")
        if parts.port == 0:  # raises ValueError for what is none
            raise ValueError("the port must be one from 1 to 65535")
        return value

    @field_validator("ca_file", "token_file")
    @classmethod
    def _is_absolute(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("/"):
            raise ValueError("the path must be absolute")
        return value

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.endpoint).scheme == "https"

    @property
    def host(self) -> str:
        """The name or address of the service."""
        return urlsplit(self.endpoint).hostname or ""

    @property
    def port(self) -> int:
        """The TCP port."""
        parts = urlsplit(self.endpoint)
        return parts.port or _PORTS[parts.scheme]

    @property
    def stays_here(self) -> bool:
        """Whether the connection does not leave this host."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def read() -> Settings:
    """Return the settings of CHROMAD_CLIENT, else of /etc/chromadb/client.yml. Raises ConfigurationError."""
    path = Path(os.environ.get(VARIABLE) or PATH)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} does not exist",
            f"make it, with a line such as endpoint: http://127.0.0.1:8000, or name one in {VARIABLE}",
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", "is this user in the group chromadb-clients?") from None
    # PyYAML lets others out when a tag and its value do not go together, and of what is nested too deeply.
    except (
        yaml.YAMLError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigurationError(f"{path} is no YAML: {' '.join(str(error).split())}", "correct it") from None
    try:
        found = Settings.model_validate(content if isinstance(content, dict) else {})
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_first(error)}", "correct it") from None
    if found.token_file and not found.tls and not found.stays_here:
        raise ConfigurationError(
            f"{path}: the token would go to {found.host} unencrypted", "use an endpoint that begins with https://"
        )
    return found


def _first(error: ValidationError) -> str:
    problem: Any = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    known = ", ".join(Settings.model_fields)
    if problem["type"] == "extra_forbidden":
        return f"there is no setting {place!r}; there are {known}"
    if problem["type"] == "missing":
        return f"{place} is missing"
    return f"{place}: {problem['msg'].replace('Value error, ', '')}"


def token(path: str) -> str:
    """Return the content of a token file. Raises ConfigurationError, also for one that everybody can read."""
    try:
        with open(path, encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IROTH:
                raise ConfigurationError(
                    f"{path} can be read by everybody", f"chmod 0640 {path}, and take another token"
                )
            found = file.read().strip()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}", "token_file must name a file with the token") from None
    except UnicodeDecodeError:
        found = ""
    # What no header can hold would be told of with all the rest of it.
    if not re.fullmatch(r"[!-~]+", found):
        raise ConfigurationError(f"{path} holds no token", "put the token into it, and nothing else")
    return found
