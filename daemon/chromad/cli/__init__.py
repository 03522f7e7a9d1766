"""`chromactl`: one module per verb."""

import os
import sqlite3
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from chromad import versions
from chromad.cli import ui
from chromad.config import DEFAULT_PATH
from chromad.errors import ChromadError, UsageProblem, contained, from_system, unforeseen
from chromad.host import signals, streams

# The module of each verb in this package, and its function or group
VERBS = {
    "status": "status:run",
    "doctor": "doctor:run",
    "config": "config:app",
    "verify-persistence": "verify_persistence:run",
    "backup": "backup:take",
    "backups": "backups:app",
    "verify": "verify:run",
    "restore": "restore:run",
    "checkpoint": "checkpoint:run",
    "compact": "compact:run",
    "fence": "fence:put",
    "unfence": "fence:lift",
    "repair": "repair:run",
    "adopt": "adopt:run",
    "upgrade": "upgrade:run",
    "token": "token:app",
}


class _Verbs(TyperGroup):
    """Imports a verb when it is asked for: imports are most of what a start takes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        names: dict[str, Any] = dict.fromkeys(VERBS)
        self.commands = names

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a verb, None when there is none of that name."""
        if cmd_name in VERBS and self.commands[cmd_name] is None:
            self.commands[cmd_name] = _verb(cmd_name)
        return self.commands.get(cmd_name)


def _verb(name: str) -> Any:
    module, place = VERBS[name].split(":")
    found = getattr(import_module(f"chromad.cli.{module}"), place)
    if isinstance(found, typer.Typer):
        group = found
    else:
        group = typer.Typer(add_completion=False)
        group.command()(found)
    command = typer.main.get_command(group)
    command.name = name
    return command


app = typer.Typer(
    name="chromactl",
    cls=_Verbs,
    help="Look at, check, back up and restore a ChromaDB service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not serving (status), 4 collections in quarantine (status), 75 try again, 77 permission, 78 configuration; 129, 130 and 143: ended by SIGHUP, SIGINT, SIGTERM.",
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


def main() -> None:
    """Runs a verb; errors are a fact, a hint and the exit code of their class, a signal ends it with one line."""
    # Backups hold all data: nobody else reads them.
    os.umask(os.umask(0) | 0o027)
    signals.raise_on_end()
    with signals.ending():
        try:
            _refuse_empty_words(sys.argv[1:])
            _run()
        except SystemExit as end:
            if lost := streams.lost():
                _tell_unheard(lost)
            sys.exit(end.code or int(bool(lost)))
        except ChromadError as error:
            _fail(error)
        except (OSError, sqlite3.Error) as error:
            _fail(from_system(error))
        except MemoryError:
            raise
        except Exception as error:
            _fail(unforeseen(error))


def _run() -> None:
    if "--json" not in sys.argv:
        app()
        return
    try:
        sys.exit(app(standalone_mode=False))
    except TyperException as error:
        _fail(UsageProblem(error.format_message(), "--help tells how it is used"))
    except typer.Abort:
        _fail(ChromadError("aborted"))


def _refuse_empty_words(words: list[str]) -> None:
    """No verb has an option or an argument that may be empty: it would be taken for one that was not given."""
    before = ""
    for word in words:
        name, equals, value = word.partition("=")
        if not word.strip() or (name.startswith("--") and equals and not value.strip()):
            what = f"the value of {name}" if equals else f"what follows {before}" if before else "the first word"
            raise UsageProblem(f"{what} is empty", "is a variable of a script not set?")
        before = name


def _tell_unheard(lost: OSError) -> None:
    """What a verb printed is gone; a reader who has left knows that."""
    if not isinstance(lost, BrokenPipeError):
        _tell(ChromadError(f"it was done, but the output could not be written: {lost.strerror}"))


def _fail(error: ChromadError) -> None:
    if "--json" in sys.argv:
        ui.print_json({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})
        lost = streams.lost()
        if lost and not isinstance(lost, BrokenPipeError):
            _tell(error)
    else:
        _tell(error)
    sys.exit(error.exit_code)


def _tell(error: ChromadError) -> None:
    """For people."""
    # Nobody can be told where that fails as well.
    with suppress(OSError):
        ui.err.print(contained(f"ERROR: {error.message}"), style="red", markup=False)
        if error.hint:
            ui.err.print(contained(f"HINT: {error.hint}"), markup=False)
