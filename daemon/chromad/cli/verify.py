"""chromactl verify."""

from dataclasses import asdict
from typing import Annotated

import typer

from chromad.backup import drill, repository
from chromad.cli import rights, ui
from chromad.host import signals
from chromad.logs import events


def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID|latest|oldest", help="The backup to try.")] = "latest",
    json: ui.Json = False,
) -> None:
    """Drill a restore: fetch a backup into a scratch place, check every file, open it, compare counts and answers.

    Then check the repository, and read a tenth of it, another one each time. The service is not touched.

    Example: sudo chromactl verify
    """
    settings = ui.settings(context)
    config = settings.config
    ui.need(config.data_dir)
    with ui.failure(events.DRILL_FAILED), signals.saying("the drill was not ended, and is not counted"):
        primary = repository.connect(config)
        rights.become_owner(config)
        with ui.progress() as report:
            outcome = drill.drill(config, primary, name, report)
    text = (
        f"{outcome.id} of {outcome.created} can be restored: {outcome.collections} collections, {outcome.records} records; "
        f"part {outcome.part} of the repository was read; {outcome.seconds:.1f} s"
    )
    ui.tell(events.DRILL_PASSED, text, quiet=json or settings.json)
    if json or settings.json:
        ui.print_json(asdict(outcome))
