"""What Prometheus scrapes: names, units and meanings in one table, values from what the daemon says of itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chromad.control.messages import GatewayReport, StatusReport
from chromad.gateway.heard import SILENCE
from chromad.store import fence

STATES = ("starting", "recovering", "warming", "serving", "stopping")
ACTIONS = ("restored", "rebuilt", "kept", "quarantined")

# Name: labels and meaning. By https://prometheus.io/docs/practices/naming: base units, seconds and bytes.
TABLE: dict[str, tuple[tuple[str, ...], str]] = {
    "chromad_build_info": (
        ("version", "engine_version", "sqlite_version"),
        "Always 1; the versions are in the labels.",
    ),
    "chromad_state": (("state",), "1 for the state that the daemon is in."),
    "chromad_ready": ((), "1 when clients are served."),
    "chromad_start_time_seconds": (
        (),
        "When the daemon started; a change is a restart, also one after the engine died.",
    ),
    "chromad_last_stop_unclean": ((), "1 when the run before this one was cut off."),
    "chromad_engine_up": ((), "1 when the engine's process runs."),
    "chromad_engine_silent_seconds": ((), "Time since the engine answered a read."),
    "chromad_engine_resident_memory_bytes": ((), "Memory of the engine."),
    "chromad_engine_open_fds": ((), "Files that the engine has open."),
    "chromad_engine_max_fds": ((), "Files that it may open."),
    "chromad_collections": ((), "Collections."),
    "chromad_records": ((), "Records of all collections."),
    "chromad_cold_collections": ((), "Collections that were not warmed at the start."),
    "chromad_quarantined_collections": ((), "Collections that refuse writes until they are repaired."),
    "chromad_recovered_collections": (("action",), "What the last start did to segments that were not sound."),
    "chromad_fence": (("kind",), "1 while writes are refused, by the operator or for want of disk."),
    "chromad_disk_size_bytes": (("place",), "Size of the file system of data, checkpoints and backups."),
    "chromad_disk_free_bytes": (("place",), "Space that is free there."),
    "chromad_disk_used_ratio": (("place",), "Space that is used, as df counts it."),
    "chromad_disk_inodes_used_ratio": (("place",), "Inodes that are used."),
    "chromad_disk_warn_ratio": ((), "From here on the disk guard warns."),
    "chromad_disk_fence_ratio": ((), "From here on it refuses writes."),
    "chromad_disk_unreachable": (("place",), "1 while a file system cannot be looked at, or does not answer."),
    "chromad_log_bytes": ((), "What the log in SQLite holds; for a long one by its newest rows."),
    "chromad_log_rows": ((), "Rows of the log."),
    "chromad_database_bytes": ((), "Size of the SQLite database."),
    "chromad_database_free_bytes": ((), "Pages in it that are free; chromactl compact gives them back."),
    "chromad_checkpoint_newest_timestamp_seconds": ((), "When the newest checkpoint was taken."),
    "chromad_checkpoint_failed": ((), "1 when the last try failed."),
    "chromad_checkpoint_interval_seconds": ((), "The longest time between two checkpoints of what changed."),
    "chromad_segments_without_checkpoint": ((), "Segments that get no checkpoint, so that their log is kept for good."),
    "chromad_thread_failing": (("thread",), "1 while what a thread of the daemon does fails."),
    "chromad_backup_last_good_timestamp_seconds": ((), "When the last proven backup was taken."),
    "chromad_backup_failed": ((), "1 when the last backup failed."),
    "chromad_backup_shrunk": ((), "1 while a backup is kept because the next one had less than half of its records."),
    "chromad_drill_last_good_timestamp_seconds": ((), "When a backup was last restored on trial, and was good."),
    "chromad_drill_failed": ((), "1 when the last drill failed."),
    "chromad_gateway_up": ((), "1 while the gateway says something of itself; only where it is to ask the daemon."),
    "chromad_gateway_start_time_seconds": (
        (),
        "When the gateway began to count what it refuses; a reload begins anew.",
    ),
    "chromad_gateway_certificate_end_timestamp_seconds": (
        (),
        "When the certificate ends that the gateway shows to clients.",
    ),
    "chromad_gateway_tokens_expiring": ((), "Tokens that expire within two weeks, or have expired."),
    "chromad_gateway_refused_requests_total": (("status",), "Requests that the gateway has refused, by status."),
}


@dataclass(frozen=True)
class View:
    """What the daemon knows at one moment. disks: by place, as `disks.usage`
    counts. gateway_expected: whether one is to ask the daemon. silent: seconds since the engine answered. started: seconds since the epoch."""

    status: StatusReport
    disks: dict[str, dict[str, float]]
    warn_percent: int
    fence_percent: int
    checkpoint_interval: float
    database: dict[str, int]
    silent: float
    started: float
    sqlite_version: str
    gateway_expected: bool


class Exporter:
    """Renders what `look` gives in the text format."""

    def __init__(self, look: Callable[[], View]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Daemon(look))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _Daemon(Collector):
    def __init__(self, look: Callable[[], View]) -> None:
        self._look = look

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        values: dict[str, list[tuple[tuple[str, ...], float]]] = {name: [] for name in TABLE}
        for name, labels, value in _samples(self._look()):
            values[name].append((labels, value))
        for name, (labels, meaning) in TABLE.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, meaning, labels=labels)
            for found, value in values[name]:
                family.add_metric(found, value)
            yield family


Sample = tuple[str, tuple[str, ...], float]


def _samples(view: View) -> Iterator[Sample]:
    status = view.status
    versions = (status.chromad_version, status.engine_version, view.sqlite_version)
    yield "chromad_build_info", versions, 1
    for state in STATES:
        yield "chromad_state", (state,), status.state == state
    yield "chromad_ready", (), status.state == "serving"
    yield "chromad_start_time_seconds", (), view.started
    yield "chromad_last_stop_unclean", (), status.last_stop == "unclean"
    yield from _engine(status.engine_pid, view.silent)
    yield "chromad_collections", (), status.collections
    yield "chromad_records", (), status.records
    yield "chromad_cold_collections", (), len(status.cold)
    yield "chromad_quarantined_collections", (), len(status.quarantined)
    for action in ACTIONS:
        count = sum(each.action == action for each in status.recovered)
        yield "chromad_recovered_collections", (action,), count
    for kind in (fence.OPERATOR, fence.DISK):
        yield "chromad_fence", (kind,), kind in status.fences
    for place, found in view.disks.items():
        for name, value in found.items():
            yield f"chromad_disk_{name}", (place,), value
    for place in ("checkpoints", "backups"):
        yield "chromad_disk_unreachable", (place,), bool(status.disk and place in status.disk.unreachable)
    yield "chromad_disk_warn_ratio", (), view.warn_percent / 100
    yield "chromad_disk_fence_ratio", (), view.fence_percent / 100
    for name, count in view.database.items():
        yield f"chromad_{name}", (), count
    yield from _timestamp("chromad_checkpoint_newest_timestamp_seconds", status.checkpoint.newest)
    yield "chromad_checkpoint_failed", (), bool(status.checkpoint.error)
    yield "chromad_checkpoint_interval_seconds", (), view.checkpoint_interval
    yield "chromad_segments_without_checkpoint", (), len(status.unprotected)
    for name, problem in status.threads.items():
        yield "chromad_thread_failing", (name,), bool(problem)
    backup = status.backup
    yield from _timestamp("chromad_backup_last_good_timestamp_seconds", backup.last_good)
    yield "chromad_backup_failed", (), bool(backup.problem)
    yield "chromad_backup_shrunk", (), bool(backup.shrunk)
    yield from _timestamp("chromad_drill_last_good_timestamp_seconds", backup.drill_good)
    yield "chromad_drill_failed", (), bool(backup.drill_problem)
    if view.gateway_expected:
        yield from _gateway(status.gateway)


def _gateway(found: GatewayReport | None) -> Iterator[Sample]:
    yield "chromad_gateway_up", (), found is not None and found.silent <= SILENCE
    if found is None:
        return
    yield from _timestamp("chromad_gateway_start_time_seconds", found.since)
    yield from _timestamp("chromad_gateway_certificate_end_timestamp_seconds", found.certificate_ends)
    if found.expiring is not None:
        yield "chromad_gateway_tokens_expiring", (), found.expiring
    for status, count in found.refused.items():
        yield "chromad_gateway_refused_requests_total", (status,), count


def _engine(pid: int, silent: float) -> Iterator[Sample]:
    yield "chromad_engine_silent_seconds", (), silent
    home = Path(f"/proc/{pid}")
    try:
        status = (home / "status").read_text(encoding="utf-8")
        memory = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        limits = (home / "limits").read_text(encoding="utf-8")
        limit = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3]
        count = sum(1 for _ in (home / "fd").iterdir())
    except (OSError, StopIteration):
        yield "chromad_engine_up", (), 0
        return
    yield "chromad_engine_up", (), 1
    yield "chromad_engine_resident_memory_bytes", (), int(memory.split()[1]) * 1024
    yield "chromad_engine_open_fds", (), count
    yield "chromad_engine_max_fds", (), float("inf") if limit == "unlimited" else int(limit)


def _timestamp(name: str, moment: str | None) -> Iterator[Sample]:
    try:
        seconds = datetime.fromisoformat(moment or "").timestamp()
    except (ValueError, OverflowError):
        return  # There is none, or somebody has edited the ledger: the other figures do not depend on it.
    yield name, (), seconds
