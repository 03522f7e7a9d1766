"""The backups in a repository: which there are, and finding one by what an operator says."""

from datetime import UTC, datetime

from chromad.backup import workspace
from chromad.backup.repository import Repository, Snapshot
from chromad.errors import BackupError, UsageProblem

__all__ = ["NAMES", "Snapshot", "among", "find", "proven", "time_of"]

NAMES = ("latest", "oldest")
# So many characters of an id are not there by a slip.
_PREFIX = 4


def proven(snapshot: Snapshot) -> bool:
    """Whether it was opened and compared before it was stored."""
    return workspace.PROVEN in snapshot.tags


def find(repository: Repository, name: str) -> Snapshot:
    """A backup by its id or the first characters of it, or by `latest` and `oldest`: of the proven ones, of this host where it
    has any.

    Raises BackupError when there is none, or when several hosts could be meant, UsageProblem when several ids begin so.
    """
    return among(repository, repository.snapshots(), name)


def among(repository: Repository, found: list[Snapshot], name: str) -> Snapshot:
    """As `find`, of what the repository was seen to hold."""
    if name in NAMES:
        good = of_one_host(repository, found)
        return good[-1] if name == "latest" else good[0]
    matching = [snapshot for snapshot in found if snapshot.id.startswith(name) and len(name) >= _PREFIX]
    if not matching:
        raise BackupError(
            f"no backup {name!r} in {repository.location}",
            "chromactl backups lists them" if found else "take one: chromactl backup",
        )
    if len({snapshot.id for snapshot in matching}) > 1:
        names = ", ".join(snapshot.id for snapshot in matching)
        raise UsageProblem(f"several backups have an id that begins with {name!r}: {names}", "name more of it")
    return matching[-1]


def of_one_host(repository: Repository, found: list[Snapshot]) -> list[Snapshot]:
    """The proven ones of this host, the oldest first, or of the only other one. Raises BackupError when there is none."""
    good = [snapshot for snapshot in found if proven(snapshot)]
    hosts = {snapshot.host for snapshot in good}
    if workspace.host() in hosts:
        return [snapshot for snapshot in good if snapshot.host == workspace.host()]
    if len(hosts) > 1:
        raise BackupError(
            f"{repository.location} has backups of {', '.join(sorted(hosts))}, none of {workspace.host()}",
            "name one by its id: chromactl backups",
        )
    if not good:
        raise BackupError(f"no proven backup in {repository.location}", "take one: chromactl backup")
    return good


def time_of(text: str) -> datetime:
    """An ISO 8601 time with an offset, or without one as UTC. Raises ValueError."""
    found = datetime.fromisoformat(text)
    try:
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError(f"{text} is out of range") from None
