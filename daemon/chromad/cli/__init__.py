"""`chromactl`: one module per verb."""

import os
import sqlite3
import sys
from pathlib import Path
from typing import Annotated

import typer

from chromad import versions
from chromad.cli import (
    adopt,
    backup,
    backups,
    checkpoint,
    compact,
    config,
    doctor,
    fence,
    repair,
    restore,
    status,
    ui,
    upgrade,
    verify,
    verify_persistence,
)
from chromad.config import DEFAULT_PATH
from chromad.errors import ChromadError, from_system, printable

app = typer.Typer(
    name="chromactl",
    help="Look at, check, back up and restore a ChromaDB service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not serving (status), 4 collections in quarantine (status), 75 try again, 77 permission, 78 configuration.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chromactl {versions.chromad()} (Chroma {versions.engine()})")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    path: Annotated[
        Path, typer.Option("--config", metavar="FILE", readable=False, help="The daemon's configuration file.")
    ] = DEFAULT_PATH,
    json: ui.Json = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    """Options that come before the verb."""
    context.obj = ui.Settings(path, json)


app.command("status")(status.run)
app.command("doctor")(doctor.run)
app.add_typer(config.app, name="config")
app.command("verify-persistence")(verify_persistence.run)
app.command("backup")(backup.take)
app.add_typer(backups.app, name="backups")
app.command("verify")(verify.run)
app.command("restore")(restore.run)
app.command("checkpoint")(checkpoint.run)
app.command("compact")(compact.run)
app.command("fence")(fence.put)
app.command("unfence")(fence.lift)
app.command("repair")(repair.run)
app.command("adopt")(adopt.run)
app.command("upgrade")(upgrade.run)


def main() -> None:
    """Runs a verb; errors are a fact, a hint and the exit code of their class."""
    # Backups hold all data: nobody else reads them.
    os.umask(os.umask(0) | 0o027)
    try:
        app()
    except ChromadError as error:
        _fail(error)
    except (OSError, sqlite3.Error) as error:
        _fail(from_system(error))


def _fail(error: ChromadError) -> None:
    if "--json" in sys.argv:
        ui.print_json({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})
    else:
        ui.err.print(printable(f"ERROR: {error.message}"), style="red", markup=False)
        if error.hint:
            ui.err.print(printable(f"HINT: {error.hint}"), markup=False)
    sys.exit(error.exit_code)
