"""The schema of the configuration file: its keys, their defaults, and what contradicts what."""

import ipaddress
import re
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from chromad.config import values
from chromad.config.values import AbsolutePath, Count, Duration, Percent, Repository, Size, Word

DEFAULT_PATH = Path("/etc/chromadb/chromad.yml")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Address(_Section):
    host: Annotated[str, BeforeValidator(values.listen_host)] = "127.0.0.1"
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


class Disk(_Section):
    """Percent of a file system that is used. command: run with the state and the path when the state changes."""

    warn_percent: Percent = 80
    fence_percent: Percent = 95
    release_percent: Percent = 90
    command: list[Word] = []


class CheckpointSettings(_Section):
    interval: Duration = 900.0
    after_log: Size = 256 << 20


class Warm(_Section):
    collections: Literal["all", "none"] | list[str] = "all"
    memory_percent: Percent = 50
    timeout: Duration = 600.0


class EngineSettings(_Section):
    max_payload_size: Size = 40 << 20
    cors_allow_origins: list[str] = []
    allow_reset: Annotated[bool, Field(strict=True)] = False


class GatewaySettings(_Section):
    """directory: of the gateway's configuration and tokens. admin_socket: on which it hears of changes. socket: on which chromad
    answers it; None where there is no gateway. local_socket: by which the rest of the host reaches the engine, where its port is in a
    network namespace that it has with the gateway alone; None where the port is the host's."""

    directory: AbsolutePath = Path("/etc/chromadb/gateway")
    admin_socket: AbsolutePath = Path("/run/chromadb-gateway/admin.sock")
    socket: AbsolutePath | None = None
    local_socket: AbsolutePath | None = None


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
    checkpoint: CheckpointSettings = CheckpointSettings()
    backup: Backup = Backup()
    warm: Warm = Warm()
    engine: EngineSettings = EngineSettings()
    gateway: GatewaySettings = GatewaySettings()
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

    def _reachable(self) -> Iterator[str]:
        """What listens where it should not."""
        if not self.listen.loopback and not self.allow_unauthenticated_network:
            yield (
                f"listen.host {self.listen.host} is reachable from the network and Chroma has no authentication; "
                "listen on 127.0.0.1, or set allow_unauthenticated_network: true knowingly"
            )
        if self.metrics.port and not self.metrics.loopback and not self.allow_unauthenticated_network:
            yield (
                f"metrics.host {self.metrics.host} is reachable from the network; listen on 127.0.0.1, "
                "or set allow_unauthenticated_network: true knowingly"
            )
        if self.metrics.port == self.listen.port:
            yield f"metrics.port and listen.port are both {self.listen.port}"

    def _in_each_other(self) -> Iterator[str]:
        """Directories that lie where they cannot."""
        if self.data_dir == Path("/"):
            yield "data_dir cannot be /"
            return
        places = {
            "data_dir": self.data_dir,
            "checkpoint_dir": self.checkpoint_dir,
            "the quarantine": self.quarantine_dir,
        }
        if self.backup.local_path:
            places["backup.repository"] = self.backup.local_path
        if self.backup.copy_to and self.backup.copy_to.repository.startswith("/"):
            places["backup.copy_to.repository"] = Path(self.backup.copy_to.repository)
        yield from (
            f"{inner} {places[inner]} lies inside {outer} {places[outer]}"
            for inner, outer in permutations(places, 2)
            if places[outer] in (places[inner], *places[inner].parents)
        )

    def _sockets(self) -> Iterator[str]:
        """Those that cannot be where they are."""
        gateway = self.gateway
        places = {"control_socket": self.control_socket, "gateway.admin_socket": gateway.admin_socket}
        optional = {"gateway.socket": gateway.socket, "gateway.local_socket": gateway.local_socket}
        places |= {key: path for key, path in optional.items() if path}
        for key, path in places.items():
            # sun_path of unix(7) holds 108 bytes, the last one zero
            if len(bytes(path)) > 107:
                yield f"{key} is longer than 107 bytes: {path}"
        if len(set(places.values())) < len(places):
            yield f"{' and '.join(places)} must differ"
        # It is a word in a line that HAProxy reads.
        if not re.fullmatch(r"[A-Za-z0-9._/-]+", str(gateway.directory)):
            yield f"gateway.directory {gateway.directory} has other characters than letters, digits, dot, hyphen and underscore"

    @model_validator(mode="after")
    def _contradictions(self) -> "Config":
        problems = [*self._reachable(), *self._in_each_other()]
        if self.mount and not (
            self.data_dir.is_relative_to(self.mount) and self.checkpoint_dir.is_relative_to(self.mount)
        ):
            problems.append(f"mount {self.mount} holds not both, data_dir and checkpoint_dir")
        if self.disk.release_percent >= self.disk.fence_percent:
            problems.append("disk.release_percent must be below disk.fence_percent")
        problems += self._sockets()
        if problems:
            raise ValueError("\n".join(problems))
        return self
