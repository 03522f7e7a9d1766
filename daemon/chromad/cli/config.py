"""chromactl config validate, chromactl config show."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from chromad import config
from chromad.cli import ui

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
