"""One collection out of a backup into the running service, through the service's own API: nothing is stopped."""

import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chromad.backup import between, proof, restore, stage, workspace
from chromad.backup.collection_copy import CollectionCopy
from chromad.backup.stage import Order
from chromad.config import Config
from chromad.control import ask_status
from chromad.engine import ways
from chromad.engine.api import Api
from chromad.errors import (
    BackupError,
    ConfigurationError,
    EngineError,
    NotFound,
    TryAgain,
    UsageProblem,
)
from chromad.store import copies, fence, lock
from chromad.store.copies import Staging

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")

# What a copy is called until it is whole, with a number of 16 hexadecimal digits
_FILLED = "chromad-restore-"
_LEFT = re.compile(rf"{_FILLED}[0-9a-f]{{16}}")

# Tenant, database and name of a collection
Place = tuple[str, str, str]


@dataclass(frozen=True)
class CopiedCollection:
    """What was copied, from which backup, and under which name. notes: what is not exact. lost: ids of records that are not
    in the copy, since the API does not take them; the notes say why."""

    id: str
    created: str
    name: str
    records: int
    notes: list[str]
    lost: list[str]


def copy(order: Order, name: str, into: str) -> CopiedCollection:
    """Copies the collection `name` (or TENANT/DATABASE/NAME) into a new one of the running service, named `into`.

    Raises TryAgain when the service does not run, ConfigurationError when the name is taken, BackupError when the backup has
    no such collection. A copy that fails is removed again; a record that the API does not take is left out and named.
    """
    config, repository, choice, progress = order.config, order.repository, order.choice, order.progress
    api = connect(config)
    workspace.prepare(config)
    with lock.backup_lock(config.backup_dir) as held, Staging(copies.place(config.data_dir)) as staging:
        repository.lock_fd = held.fd
        staged = stage.stage(config, repository, choice, staging, progress)
        number, target = find(api, [(each.tenant, each.database, each.name) for each in staged.entries], name, into)
        entry = staged.entries[number]
        staged = replace(staged, notes=between.concerning(staged.notes, entry.id))
        restore.need_exact(staged.notes, order.inexact)
        # Clients that wait for the collection are to find it when it is whole: what they write to it before would be written
        # over, and would make it look as if the copying had failed.
        filled = f"{_FILLED}{secrets.token_hex(8)}"
        _sweep(api, entry.tenant, entry.database)
        staging.will_fill(f"{entry.tenant}/{entry.database}/{filled}")
        with proof.scratch(config, staged.directory, lambda: progress("opening", 0, 0)) as source:
            copied = CollectionCopy(config, source, api, entry, staged.directory).run(filled, target, progress)
    notes = [*staged.notes, *copied.notes()]
    records = entry.records - len(copied.lost)
    return CopiedCollection(choice.snapshot.id, staged.manifest.created, target, records, notes, copied.lost)


def connect(config: Config) -> Api:
    """The running service. Raises TryAgain when there is none, or when it refuses writes."""
    api = Api(ways.of_service(config))
    try:
        api.heartbeat()
    except (OSError, EngineError):
        raise TryAgain("the service does not answer", "systemctl start chromadb") from None
    if running := ask_status(config.control_socket):
        fence.need_none(running.fences, "nothing can be restored into the service")
    return api


def find(api: Api, held: Sequence[Place], name: str, into: str) -> tuple[int, str]:
    """Which of the collections of a backup is meant, and the name that its copy gets. Raises BackupError when there is none
    such, UsageProblem when several could be meant, ConfigurationError when the service has one of that name."""
    found = [number for number, place in enumerate(held) if name in (place[-1], "/".join(place))]
    if not found:
        raise BackupError(f"the backup has no collection {name!r}", "chromactl backups show ID lists them")
    if len(found) > 1:
        places = ", ".join("/".join(held[number]) for number in found)
        raise UsageProblem(f"several collections have the name {name!r}", f"name one of {places}")
    tenant, database, former = held[found[0]]
    target = into or former
    if not _is_name(target):
        raise ConfigurationError(
            f"the service does not make the collection {target!r}: a name has 3 to 512 of a-z, A-Z, 0-9, '.', '_' and '-', "
            "begins and ends with a letter or a digit, has no '..', and is no IPv4 address",
            "another name may do: --into",
        )
    try:
        api.find_database(tenant, database)
    except NotFound:
        raise BackupError(
            f"the service has no database {database!r} of the tenant {tenant!r}", "make it first, then try again"
        ) from None
    if api.collection(tenant, database, target) is not None:
        raise ConfigurationError(
            f"the service has a collection {target!r} already", "choose another name: --into NEWNAME"
        )
    return found[0], target


def _is_name(name: str) -> bool:
    """Whether the engine makes a collection of that name."""
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return bool(_NAME.fullmatch(name)) and ".." not in name
    return False


def _sweep(api: Api, tenant: str, database: str) -> None:
    """Removes the incomplete copies of runs that were killed; the caller holds the backup lock, so nobody fills one."""
    try:
        for name in filter(_LEFT.fullmatch, api.collection_names(tenant, database)):
            api.delete_collection(name, tenant, database)
    except NotFound:
        return  # somebody else has deleted it, or the database
    except (EngineError, OSError) as error:
        raise BackupError(f"what an interrupted restore left cannot be removed: {error}", "try again") from None
