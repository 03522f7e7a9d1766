"""chromactl config validate, chromactl config show, chromactl config pending."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from chromad import config, control
from chromad.checks.host import loaded
from chromad.cli import rights, ui
from chromad.host import service

app = typer.Typer(help="Check or show the configuration.", no_args_is_help=True, add_completion=False)


@app.command()
def validate(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", readable=False, help="The file to check; default: the one of --config."),
    ] = None,
    json: ui.Json = False,
) -> None:
    """Check a configuration file. Exits 78 and names every problem when it is wrong.

    Example: chromactl config validate /etc/chromadb/chromad.yml
    """
    settings = ui.settings(context)
    path = file or settings.path
    config.load(path)
    if json or settings.json:
        ui.print_json({"file": str(path), "valid": True})
    else:
        ui.out.print(f"{path}: valid", markup=False)


@app.command()
def show(context: typer.Context, json: ui.Json = False) -> None:
    """Print every key with its value, defaults included. Durations are in seconds, sizes in bytes.

    Example: chromactl config show --json | jq .listen.port
    """
    settings = ui.settings(context)
    document = settings.config.model_dump(mode="json")
    if json or settings.json:
        ui.print_json(document)
    else:
        typer.echo(yaml.safe_dump(document, sort_keys=False), nl=False)


@app.command()
def pending(context: typer.Context, json: ui.Json = False) -> None:
    """Say what it takes for the running service to have the file's values: none, reload or restart, and for which keys.

    Example: chromactl config pending --json | jq -r .action
    """
    settings = ui.settings(context)
    wanted = settings.config
    rights.become_owner(wanted, strict=False)
    running = control.ask_status(wanted.control_socket) is not None
    if running:
        now = loaded(wanted)
        # One that does not say is of another version than the file is for.
        action, keys = config.pending(now, wanted) if now else ("restart", [])
    elif service.available() and service.active():
        action, keys = "restart", ["control_socket"]
    else:
        action, keys = "none", []
    if json or settings.json:
        ui.print_json({"action": action, "keys": keys, "running": running})
    elif not running and not keys:
        ui.out.print(f"none: the service does not run, and reads {settings.path} when it starts", markup=False)
    else:
        ui.out.print(f"{action}: {', '.join(keys)}" if keys else action, markup=False, highlight=False)
