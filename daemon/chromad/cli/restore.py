"""chromactl restore."""

from typing import Annotated

import typer

from chromad.backup import restore
from chromad.cli import ui


def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME|latest", help="The backup to put in place.")],
    stop: Annotated[bool, typer.Option("--stop", help="Permit it to stop the service and start it again.")] = False,
    json: ui.Json = False,
) -> None:
    """Put a backup in place of the data. The present data are moved aside, never deleted.

    Example: sudo chromactl restore latest --stop
    """
    settings = ui.settings(context)
    with ui.progress() as report:
        outcome = restore.run(settings.config, name, may_stop=stop, progress=report)
    held = outcome.manifest
    if json or settings.json:
        ui.print_json(
            {
                "name": held.name,
                "collections": len(held.collections),
                "records": held.records,
                "replaced": str(outcome.replaced),
                "restarted": outcome.restarted,
                "changed": outcome.changed,
            }
        )
        return
    ui.out.print(f"restored {held.name}: {len(held.collections)} collections, {held.records} records", markup=False)
    ui.out.print(f"the former data are in {outcome.replaced}; remove them when you no longer need them", markup=False)
    for line in outcome.changed:
        ui.out.print(f"written since the start: {line}", markup=False)
    if not outcome.restarted:
        ui.out.print("the service was not running; start it with systemctl start chromadb", markup=False)
