"""What the daemon says over the socket, as both sides know it.

The other side may be of another version, which is how a host is upgraded: keys that are not known are ignored, and what came
later, or what somebody else left out, has a default. Times are UTC, ISO 8601; sizes bytes; durations seconds.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from chromad.fields import MomentOrNone, Number, Seconds

# Why a collection is cold that nobody wanted warm
NOT_CHOSEN = "not in warm.collections"


class Message(BaseModel):
    """One message, or a part of one."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, populate_by_name=True)

    def document(self) -> dict[str, Any]:
        """As JSON has it: all that was set, so that what is not known is not made up."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class DiskReport(Message):
    """level: `ok`, `warn` or `fence`. full_in: until writes will be refused at the growth of the last day, None where there is no
    such growth. unreachable: place to reason."""

    level: str = ""
    text: str = ""
    full_in: Seconds | None = None
    unreachable: dict[str, str] = {}


class LogReport(Message):
    """Of Chroma's log, as of the last minute."""

    bytes: Number
    rows: Number


class CheckpointReport(Message):
    """newest: when it was taken, empty when there is none. error: of the last cycle, empty when it went well."""

    newest: MomentOrNone = ""
    error: str = ""


class ShrunkReport(Message):
    """A backup has `to` records, and the one before it had `before`: that one, of the time `kept`, stays until a time."""

    before: Number = Field(alias="from")
    to: Number
    kept: str
    kept_until: str


class BackupReport(Message):
    """last_good, problem: of backups. drill: when the last one ended, drill_good: the last that was good. All None before there
    were any."""

    last_good: MomentOrNone | None = None
    problem: str | None = None
    shrunk: ShrunkReport | None = None
    drill: MomentOrNone | None = None
    drill_good: MomentOrNone | None = None
    drill_problem: str | None = None


class RecoveredReport(Message):
    """What the start did with the segment of a collection, given by its name."""

    collection: str
    action: str
    reason: str


class EventReport(Message):
    """An event, by its name, or a warning, without one."""

    time: str
    level: str
    event: str = ""
    text: str


class CollectionReport(Message):
    """name: with tenant and database where these are not the default. bytes: of the vector segment. checkpoint: when it was
    taken, None where there is none."""

    name: str
    records: Number
    dimension: Number | None = None
    bytes: Number = 0
    checkpoint: MomentOrNone | None = None


class GatewayReport(Message):
    """Of a gateway, as it says of itself. since: when it has begun to count. certificate_ends: when the one that clients see ends, empty
    before it knows. expiring: tokens that expire within two weeks or have expired, None before it has looked. refused: requests, by
    status. silent: seconds since it said so."""

    since: MomentOrNone = ""
    certificate_ends: MomentOrNone = ""
    expiring: Number | None = None
    refused: dict[str, Number] = {}
    silent: Seconds = 0.0


class CollectionsReport(Message):
    """largest: those with the most records."""

    collections: Number
    records: Number
    largest: list[CollectionReport] = []


class StatusReport(Message):
    """The service as it is. Of one that is stopped chromactl knows what has no default here.

    cold: collections that were not warmed, name to reason; cold_ids: their ids. fences: kind to what clients are told.
    quarantined: ids of collections. metrics: the address, None where that is switched off. log: None before it was counted.
    unprotected: collections without a checkpoint, name to reason. threads: name to what fails in it, empty when all is well.
    clock_step: by how much the clock was set since the start. gateway: None without one, or before it has said anything. largest: see `CollectionsReport`; chromactl asks for it apart.
    """

    state: str
    host: str
    port: Number
    backup: BackupReport
    last_stop: str
    data_dir: str
    since: MomentOrNone = ""
    metrics: str | None = None
    collections: Number = 0
    records: Number = 0
    largest: list[CollectionReport] = []
    cold: dict[str, str] = {}
    cold_ids: list[str] = []
    recovered: list[RecoveredReport] = []
    fences: dict[str, str] = {}
    quarantined: list[str] = []
    disk: DiskReport | None = None
    log: LogReport | None = None
    checkpoint: CheckpointReport = CheckpointReport()
    unprotected: dict[str, str] = {}
    threads: dict[str, str] = {}
    gateway: GatewayReport | None = None
    events: list[EventReport] = []
    pid: Number = 0
    engine_pid: Number = 0
    clock_step: FiniteFloat = 0.0
    environment: str = ""
    chromad_version: str = ""
    engine_version: str = ""
    supervised: bool = False


class CheckpointsReport(Message):
    """Of a cycle. taken, left: segments that got a checkpoint, and those that should have. purged: rows of the log."""

    taken: Number
    seconds: Seconds
    purged: Number
    left: Number


class CompactReport(Message):
    """Bytes of the database."""

    before: Number
    after: Number


class FencesReport(Message):
    """Those that stand: kind to what clients are told."""

    fences: dict[str, str]


class ErrorReport(Message):
    """Why there is no answer."""

    error: str
    hint: str = ""
    exit_code: int = 1
