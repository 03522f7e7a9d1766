"""The configuration file: its schema, and loading it with every problem named at once."""

import copy
import errno
import ipaddress
import os
import re
import stat
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from chromad.errors import ConfigurationError, PermissionProblem, passes

DEFAULT_PATH = Path("/etc/chromadb/chromad.yml")
# Bytes; more than any real one has, and little enough to be parsed while the watchdog waits.
_LARGEST = 128 << 10
# So many problems are named at a time.
_MOST_PROBLEMS = 50

# Keys that a running daemon takes over on SIGHUP, with all of the section backup; all others need a restart.
RUNTIME_KEYS = frozenset(
    {
        "log_level",
        "checkpoint.interval",
        "checkpoint.after_log",
        "disk.warn_percent",
        "disk.fence_percent",
        "disk.release_percent",
        "disk.command",
    }
)

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


def _listen_host(value: object) -> object:
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


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Address(_Section):
    host: Annotated[str, BeforeValidator(_listen_host)] = "127.0.0.1"
    port: int

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Listen(_Address):
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] = 8000


class Metrics(_Address):
    """Where metrics, the page and the health checks are served. port: 0 switches them off."""

    port: Annotated[int, Field(strict=True, ge=0, le=65535)] = 9464


Count = Annotated[int, Field(strict=True, ge=0, le=10_000)]


class Keep(_Section):
    """How many backups stay: of the newest, and the newest of each day, week and month."""

    last: Count = 3
    daily: Count = 7
    weekly: Count = 4
    monthly: Count = 6

    @model_validator(mode="after")
    def _something(self) -> "Keep":
        if not any((self.last, self.daily, self.weekly, self.monthly)):
            raise ValueError("keeps no backup at all; let last be at least 1")
        return self


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


class CopyTo(_Section):
    """A second repository, which each backup is copied to."""

    repository: Repository
    password_file: AbsolutePath = Path("/etc/chromadb/backup.key")


class Backup(_Section):
    """repository: of restic. options: restic's extended ones (-o). environment_file: KEY=VALUE lines for its back end."""

    repository: Repository = "/var/backups/chromadb"
    password_file: AbsolutePath = Path("/etc/chromadb/backup.key")
    environment_file: AbsolutePath | None = None
    options: dict[Word, Word] = {}
    keep: Keep = Keep()
    copy_to: CopyTo | None = None

    @property
    def local_path(self) -> Path | None:
        """Where the repository is on this host; None for one elsewhere."""
        return Path(self.repository) if self.repository.startswith("/") else None


Percent = Annotated[int, Field(strict=True, ge=1, le=100)]


class Disk(_Section):
    """Percent of a file system that is used. command: run with the state and the path when the state changes."""

    warn_percent: Percent = 80
    fence_percent: Percent = 95
    release_percent: Percent = 90
    command: list[Word] = []


class Checkpoint(_Section):
    interval: Duration = 900.0
    after_log: Size = 256 << 20


class Warm(_Section):
    collections: Literal["all", "none"] | list[str] = "all"
    memory_percent: Percent = 50
    timeout: Duration = 600.0


class Engine(_Section):
    max_payload_size: Size = 40 << 20
    cors_allow_origins: list[str] = []
    allow_reset: Annotated[bool, Field(strict=True)] = False


class Config(_Section):
    """chromad.yml. Durations are held in seconds, sizes in bytes."""

    data_dir: AbsolutePath = Path("/opt/chromadb/data")
    checkpoint_dir: AbsolutePath = Path("/opt/chromadb/checkpoints")
    mount: AbsolutePath | None = None
    listen: Listen = Listen()
    allow_unauthenticated_network: Annotated[bool, Field(strict=True)] = False
    control_socket: AbsolutePath = Path("/run/chromadb/chromad.sock")
    metrics: Metrics = Metrics()
    disk: Disk = Disk()
    checkpoint: Checkpoint = Checkpoint()
    backup: Backup = Backup()
    warm: Warm = Warm()
    engine: Engine = Engine()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    allow_root: Annotated[bool, Field(strict=True)] = False

    @property
    def backup_dir(self) -> Path:
        """What backups keep here: the base of the next ones, their log, and what is known of them. Below the checkpoints,
        since hard links do not leave a mount."""
        return self.checkpoint_dir / ".backup"

    @property
    def quarantine_dir(self) -> Path:
        """Where broken segments and those of deleted collections are moved."""
        return self.data_dir.parent / "quarantine"

    @model_validator(mode="before")
    @classmethod
    def _checkpoints_beside_data(cls, document: Any) -> Any:
        if isinstance(document, dict) and "checkpoint_dir" not in document:
            data_dir = document.get("data_dir")
            if isinstance(data_dir, str | Path) and str(data_dir).startswith("/"):
                return {**document, "checkpoint_dir": str(Path(data_dir).parent / "checkpoints")}
        return document

    @model_validator(mode="after")
    def _contradictions(self) -> "Config":
        problems = []
        if not self.listen.loopback and not self.allow_unauthenticated_network:
            problems.append(
                f"listen.host {self.listen.host} is reachable from the network and Chroma has no authentication; "
                "listen on 127.0.0.1, or set allow_unauthenticated_network: true knowingly"
            )
        if self.metrics.port and not self.metrics.loopback and not self.allow_unauthenticated_network:
            problems.append(
                f"metrics.host {self.metrics.host} is reachable from the network; listen on 127.0.0.1, "
                "or set allow_unauthenticated_network: true knowingly"
            )
        if self.metrics.port == self.listen.port:
            problems.append(f"metrics.port and listen.port are both {self.listen.port}")
        if self.data_dir == Path("/"):
            problems.append("data_dir cannot be /")
        else:
            places = {
                "data_dir": self.data_dir,
                "checkpoint_dir": self.checkpoint_dir,
                "the quarantine": self.quarantine_dir,
            }
            if self.backup.local_path:
                places["backup.repository"] = self.backup.local_path
            if self.backup.copy_to and self.backup.copy_to.repository.startswith("/"):
                places["backup.copy_to.repository"] = Path(self.backup.copy_to.repository)
            problems += [
                f"{inner} {places[inner]} lies inside {outer} {places[outer]}"
                for inner, outer in permutations(places, 2)
                if places[outer] in (places[inner], *places[inner].parents)
            ]
        if self.mount and not (
            self.data_dir.is_relative_to(self.mount) and self.checkpoint_dir.is_relative_to(self.mount)
        ):
            problems.append(f"mount {self.mount} holds not both, data_dir and checkpoint_dir")
        if self.disk.release_percent >= self.disk.fence_percent:
            problems.append("disk.release_percent must be below disk.fence_percent")
        # sun_path of unix(7) holds 108 bytes, the last one zero
        if len(bytes(self.control_socket)) > 107:
            problems.append(f"control_socket is longer than 107 bytes: {self.control_socket}")
        if problems:
            raise ValueError("\n".join(problems))
        return self


class _Loader(yaml.SafeLoader):
    """Refuses what YAML lets pass silently: a key given twice, and keys merged from elsewhere, which can grow without end."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "keys cannot be merged (<<) here", key_node.start_mark
                )
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path) -> Config:
    """Reads and validates a configuration file.

    Raises ConfigurationError, naming every problem as `At 'listen.port': …`, and PermissionProblem when
    the file cannot be read.
    """
    try:
        text = _read(path).decode()
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: the configuration file does not exist", "give one with --config FILE"
        ) from None
    except PermissionError:
        raise PermissionProblem(
            f"{path}: not readable for this user", "run as root, or as a member of the service's group"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: not UTF-8 text", "a configuration file is YAML") from None
    except OSError as error:
        if passes(error):
            raise
        raise ConfigurationError(f"{path}: {error.strerror}", "give a readable file with --config FILE") from None
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 (_Loader is a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"{path}: not valid YAML: {_one_line(error)}", "check indentation and colons"
        ) from None
    except RecursionError:
        raise ConfigurationError(f"{path}: not valid YAML: nested too deeply", "write plain keys and values") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML lets these out of its constructors when a tag and its value do not go together.
        raise ConfigurationError(f"{path}: not valid YAML: {error!r}", "write plain keys and values") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigurationError(
            f"{path}: holds a {type(document).__name__}, not keys and values", "start with `data_dir: …`"
        )
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(
            _problems(path, error, document), "chromactl config show prints every key with its value"
        ) from None


def _read(path: Path) -> bytes:
    """The content of a file, and of nothing that has no end or never begins (devices, pipes). Raises OSError."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(errno.EFBIG, f"larger than {_LARGEST >> 10} KiB")
    return content


def is_runtime(key: str) -> bool:
    """Whether a running daemon takes a dotted key over."""
    return key in RUNTIME_KEYS or key.startswith("backup.")


def differences(old: Config, new: Config) -> list[str]:
    """The dotted keys whose values differ, sorted."""
    before, after = _flat(old.model_dump()), _flat(new.model_dump())
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def pending(loaded: Config, wanted: Config) -> tuple[Literal["none", "reload", "restart"], list[str]]:
    """What it takes for a daemon with one configuration to have another, and the dotted keys that differ."""
    keys = differences(loaded, wanted)
    if not keys:
        return "none", []
    return "reload" if all(map(is_runtime, keys)) else "restart", keys


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


def _problems(path: Path, error: ValidationError, document: dict[Any, Any]) -> str:
    lines = sorted({*_lines(error), *_hidden(error, document)})
    count = f"{len(lines)} problems" if len(lines) > 1 else "1 problem"
    shown = lines[:_MOST_PROBLEMS]
    if len(lines) > len(shown):
        shown.append(f"and {len(lines) - len(shown)} more")
    return "\n".join([f"{path}: {count}", *(f"  {line}" for line in shown)])


def _lines(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        where = ".".join(_keys(problem["loc"]))
        what = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            what = "unknown key"
        yield from (f"At '{where}': {line}" if where else line for line in what.splitlines())


def _hidden(error: ValidationError, document: dict[Any, Any]) -> list[str]:
    """The contradictions among the keys that are valid each for itself, which are not looked at while others are not."""
    wrong = [_keys(problem["loc"]) for problem in error.errors(include_url=False)]
    if [] in wrong:
        return []
    rest = copy.deepcopy(document)
    for keys in wrong:
        _drop(rest, keys)
    names = {".".join(keys) for keys in wrong}
    if "data_dir" in names:
        # They lie beside it.
        names |= {"checkpoint_dir", "the quarantine"}
    try:
        Config.model_validate(rest)
    except ValidationError as more:
        # What was dropped has its default now, and contradicts nothing.
        return [line for line in _lines(more) if not any(re.search(rf"\b{re.escape(name)}\b", line) for name in names)]
    return []


def _drop(document: Any, keys: Sequence[str]) -> None:
    """Removes the deepest key of a path that is there."""
    *sections, last = keys
    for number, key in enumerate(sections):
        if not isinstance(document, dict) or not isinstance(document.get(key), dict):
            last = sections[number]
            break
        document = document[key]
    if isinstance(document, dict):
        document.pop(last, None)


def _keys(place: tuple[int | str, ...]) -> list[str]:
    return [str(part) for part in place if not str(part).startswith(("literal[", "list["))]
