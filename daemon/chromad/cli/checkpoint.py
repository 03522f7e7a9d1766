"""chromactl checkpoint."""

from typing import Any

import typer

from chromad.cli import rights, ui


def run(context: typer.Context, json: ui.Json = False) -> None:
    """Take the checkpoints that are due now, and purge the log that they cover.

    Example: sudo chromactl checkpoint
    """
    settings = ui.settings(context)
    rights.become_owner(settings.config, strict=False)
    with ui.progress() as report:
        answer: dict[str, Any] = ui.ask_daemon(settings, "checkpoint", progress=report)
    if json or settings.json:
        ui.print_json(answer)
    else:
        ui.out.print(
            f"{answer['taken']} segments in {answer['seconds']:.1f} s, {answer['purged']} rows of the log purged"
        )
        if answer["left"]:
            ui.out.print(f"{answer['left']} segments have no new checkpoint; journalctl -u chromadb says why")
