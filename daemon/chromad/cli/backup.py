"""chromactl backup."""

from dataclasses import asdict
from typing import Annotated

import typer

from chromad.backup import repository, run
from chromad.backup.repository import Places
from chromad.cli import rights, ui
from chromad.config import Config
from chromad.errors import ChromadError
from chromad.logs import events
from chromad.logs.lines import human_bytes


def take(
    context: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="Begin with a new base, also where that is not due.")] = False,
    accept_empty: Annotated[
        bool, typer.Option("--accept-empty", help="Also when there is no collection, and there were some.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    json: ui.Json = False,
) -> None:
    """Take a backup, prove it with an engine of its own, store it. With the service up or down.

    As root it works as the owner of the data directory. The first backup holds everything, the next ones what was logged
    since, until that is 3 % of the records. One of nothing, after a good one of something, is refused. One with less than half
    of the records is taken, and the one before it is kept for 30 days, whatever backup.keep says.

    Example: sudo chromactl backup
    """
    settings = ui.settings(context)
    config = settings.config
    if dry_run:
        ui.need(config.data_dir)
        repository.connect_copy(config)
        place = repository.connect(config)
        rights.become_owner(config)
        plan = run.plan(config, place, full=full, accept_empty=accept_empty)
        _show_plan(plan, json=json or settings.json)
        return
    ui.need(config.data_dir)
    with ui.failure(events.BACKUP_FAILED):
        try:
            places = Places(repository.connect(config), repository.connect_copy(config))
        except ChromadError as error:
            rights.become_owner(config)
            run.failed(config, error)
            raise
        rights.become_owner(config)
        with ui.progress() as report:
            taken = run.run(config, places, full=full, accept_empty=accept_empty, progress=report)
    _show(taken, config, json=json or settings.json)


def _show(taken: run.StoredBackup, config: Config, *, json: bool) -> None:
    text = (
        f"{taken.id}: {taken.collections} collections, {taken.records} records, {human_bytes(taken.bytes)}, of which "
        f"{human_bytes(taken.added)} are new in {config.backup.repository}; proven, {taken.seconds:.1f} s"
    )
    ui.tell(events.BACKUP_TAKEN, text, quiet=json)
    if json:
        ui.print_json(asdict(taken))
        return
    if taken.base:
        ui.out.print(f"it has a base of its own: {taken.base}", markup=False)
    if taken.shrunk:
        ui.out.print(
            f"the good one before it, of {taken.shrunk.created}, has {taken.shrunk.records} records: it is kept until "
            f"{taken.shrunk.until}, whatever backup.keep says",
            markup=False,
        )
    if taken.copied and config.backup.copy_to:
        ui.out.print(f"copied to {config.backup.copy_to.repository}", markup=False)
    if taken.forgotten:
        ui.out.print(f"{taken.forgotten} backups that backup.keep does not keep are forgotten")


def _show_plan(plan: run.BackupPlan, *, json: bool) -> None:
    if json:
        ui.print_json(asdict(plan))
        return
    what = f"a backup with a new base ({plan.base})" if plan.base else "a backup that adds to the base before"
    ui.out.print(f"would take {what}, read {human_bytes(plan.bytes)}, store it in {plan.repository}", markup=False)
