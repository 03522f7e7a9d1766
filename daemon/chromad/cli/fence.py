"""chromactl fence and unfence."""

from typing import Annotated

import typer

from chromad.cli import rights, ui


def put(
    context: typer.Context,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="What clients are told.")],
    json: ui.Json = False,
) -> None:
    """Refuse writes until `unfence`, also after a restart. Reads and deletes go on.

    Example: sudo chromactl fence --reason 'moving to another host until 14:00'
    """
    settings = ui.settings(context)
    rights.become_owner(settings.config, strict=False)
    answer = ui.ask_daemon(settings, "fence", {"reason": reason})
    if json or settings.json:
        ui.print_json(answer)
    else:
        ui.out.print(f"clients are told: {answer['fences'].get('operator', reason)}", markup=False)


def lift(context: typer.Context, json: ui.Json = False) -> None:
    """Let writes through again. The disk guard lifts its own fence by itself.

    Example: sudo chromactl unfence
    """
    settings = ui.settings(context)
    rights.become_owner(settings.config, strict=False)
    answer = ui.ask_daemon(settings, "unfence")
    if json or settings.json:
        ui.print_json(answer)
    elif answer["fences"]:
        ui.out.print(f"writes are still refused: {'; '.join(answer['fences'].values())}", markup=False)
    else:
        ui.out.print("writes are let through")
