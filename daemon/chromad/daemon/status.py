"""What the daemon says of itself, to systemd and to chromactl."""

from dataclasses import dataclass, field

from chromad.config import Listen
from chromad.control.messages import RecoveredReport
from chromad.daemon.fences import Fences
from chromad.daemon.guard import Guard
from chromad.store import fence


@dataclass
class Status:
    """What of a `StatusReport` only the main thread knows; it writes, the control socket reads."""

    state: str = "starting"
    since: str = ""
    last_stop: str = ""
    collections: int = 0
    records: int = 0
    cold: dict[str, str] = field(default_factory=dict)
    cold_ids: list[str] = field(default_factory=list)
    recovered: list[RecoveredReport] = field(default_factory=list)


def serving(status: Status, listen: Listen, fences: Fences, guard: Guard) -> str:
    """The line of a service that serves."""
    text = f"serving {status.collections} collections, {status.records} records on {listen}"
    if status.cold:
        text += f", {len(status.cold)} left cold"
    if quarantined := len(fences.quarantined):
        text += f", {quarantined} in quarantine"
    for kind in (fence.OPERATOR, fence.DISK):
        if reason := fences.standing.get(kind):
            text += f"; {reason}"
    if guard.level == "warn":
        text += f"; {guard.text}"
    for problem in guard.unreachable.values():
        text += f"; {problem}"
    return text
