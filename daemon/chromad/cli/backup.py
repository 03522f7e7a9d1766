"""chromactl backup."""

import typer

from chromad.backup import snapshot
from chromad.cli import ui
from chromad.output import human_bytes


def run(context: typer.Context, json: ui.Json = False) -> None:
    """Take a backup, with the service up or down. As root it works as the owner of the data directory.

    Example: sudo chromactl backup
    """
    settings = ui.settings(context)
    config = settings.config
    ui.become_owner(config.data_dir)
    with ui.progress() as report:
        taken = snapshot.take(config.data_dir, config.backup.directory, report)
    path = config.backup.directory / taken.name
    if json or settings.json:
        ui.print_json(
            {
                "name": taken.name,
                "path": str(path),
                "bytes": taken.size,
                "collections": len(taken.collections),
                "records": taken.records,
            }
        )
    else:
        ui.out.print(
            f"{taken.name}: {len(taken.collections)} collections, {taken.records} records, {human_bytes(taken.size)} in {path}",
            markup=False,
        )
