"""chromactl compact."""

import typer

from chromad.cli import rights, ui
from chromad.logs.lines import human_bytes


def run(context: typer.Context, json: ui.Json = False) -> None:
    """Purge the log, then give the database's free pages back to the file system, deleted content with them.

    Writes wait meanwhile, reads do not. It needs free space of twice the database's size for a while.

    Example: sudo chromactl compact
    """
    settings = ui.settings(context)
    rights.become_owner(settings.config, strict=False)
    with ui.progress() as report:
        answer = ui.ask_daemon(settings, "compact", progress=report)
    if json or settings.json:
        ui.print_json(answer)
    else:
        ui.out.print(f"{human_bytes(answer['before'])} before, {human_bytes(answer['after'])} now")
