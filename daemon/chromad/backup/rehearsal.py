"""What `restore --dry-run` looks at: everything that the restore itself would stumble over, without fetching the backup."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chromad.backup import assemble, between, collection, manifest, restore, stage, workspace
from chromad.backup.manifest import Manifest
from chromad.backup.stage import Choice, Order
from chromad.backup.timetravel import Join, Target
from chromad.chroma import catalogs
from chromad.errors import PermissionProblem, TryAgain
from chromad.store import archive, copies, lock, swap
from chromad.store.copies import Staging

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RestorePlan:
    """What a restore would do, when nothing is in its way. restart: whether it would stop and start the service. notes: what
    would not be exact, with permission."""

    choice: Choice
    restart: bool
    notes: list[str]


def plan(order: Order, *, target: Path | None, within: Path | None, only: str, into: str) -> RestorePlan:
    """Looks at all that `restore.run_aside` (target), `collection.copy` (only, into) or else `restore.run_in_place` would
    stumble over, and raises what they would. For a time the logs are fetched that lead to it; nothing is left of them."""
    config, choice = order.config, order.choice
    restart, api = False, None
    if target:
        restore.check_target(config, target)
    else:
        workspace.check_prepared(config)
        if only:
            api = collection.connect(config)
        else:
            restore.check_place(config)
            restart = restore.check_service(config, may_stop=True)
            if not restart:
                _check_free(config.data_dir)
    parent = within or copies.place_to_look(config.data_dir)
    if not os.access(parent, os.W_OK):
        raise PermissionProblem(f"{parent} is not writable for this user", "run as root")
    stage.check_room(parent, choice)
    found = manifest.parse(
        order.repository.read_file(choice.snapshot, manifest.FILE), f"the manifest of {choice.snapshot.id}"
    )
    assemble.check_engine(found)
    held = {each.id: (each.tenant, each.database, each.name) for each in found.collections}
    notes: list[str] = []
    if choice.target:
        held, notes = _at(order, choice.target, found, parent)
    if api:
        number, _ = collection.find(api, list(held.values()), only, into)
        notes = between.concerning(notes, list(held)[number])
    restore.need_exact(notes, order.inexact)
    return RestorePlan(choice, restart, notes)


def _at(order: Order, target: Target, found: Manifest, parent: Path) -> tuple[dict[str, collection.Place], list[str]]:
    """Which collections there were at a time, and what would not be exact."""
    with Staging(parent) as staging:
        staging.directory.mkdir(mode=0o700)
        path = staging.directory / archive.FILE
        tick = partial(order.progress, "looking at the log", 0, 0)
        order.repository.fetch_file(target.snapshot, archive.FILE, path, tick)
        _, wanted, notes = Join(order.config, order.repository, target, tick).settle(staging.directory, found)
    return catalogs.places(wanted), notes


def _check_free(data_dir: Path) -> None:
    """Raises TryAgain when somebody writes the data although no service tells of itself."""
    swap.check_alone(data_dir)
    if lock.is_held(data_dir / lock.DIRECTORY_LOCK):
        raise TryAgain(f"{data_dir} is in use", "wait for it, or stop it, then try again")
