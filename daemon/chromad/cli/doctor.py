"""chromactl doctor."""

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from chromad import control
from chromad.checks import Result, Status, doctor
from chromad.cli import ui
from chromad.errors import TryAgain

_COLORS: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}
_WORDS = ("OK", "WARNING", "CRITICAL")


class Output(StrEnum):
    """How the results are shown."""

    text = "text"
    json = "json"
    nagios = "nagios"


def run(
    context: typer.Context,
    deep: Annotated[bool, typer.Option("--deep", help="Read all of the database and of the vector files.")] = False,
    output: Annotated[Output, typer.Option("--output", help="nagios: one line, as its plugins print.")] = Output.text,
    json: ui.Json = False,
) -> None:
    """Look at everything that goes wrong with a Chroma host, and say what to do. Changes nothing.

    Exits 0 when all is well, 1 with warnings, 2 when something is broken.

    Example: sudo chromactl doctor
    """
    settings = ui.settings(context)
    results = list(doctor.examine(_host(settings), deep=deep))
    code = max((2 if each.status == "fail" else int(each.status == "warn") for each in results), default=0)
    if json or settings.json or output is Output.json:
        fields = ("name", "status", "fact", "hint")
        ui.print_json([{key: value for key, value in asdict(each).items() if key in fields} for each in results])
    elif output is Output.nagios:
        typer.echo(_nagios(results, code))
    else:
        _show(results)
    raise typer.Exit(code)


def _host(settings: ui.Settings) -> doctor.Host:
    config = settings.config
    try:
        return doctor.Host(config, control.ask(config.control_socket, "status"))
    except TryAgain as error:
        return doctor.Host(config, None, error.message)


def _show(results: Sequence[Result]) -> None:
    for each in results:
        ui.out.print(f"[{_COLORS[each.status]}]{each.status:4}[/]", end=" ")
        ui.out.print(f"{each.name}: {each.fact}", markup=False, highlight=False)
        if each.hint:
            ui.out.print(f"     HINT: {each.hint}", markup=False, highlight=False)


def _nagios(results: Sequence[Result], code: int) -> str:
    """One line, https://nagios-plugins.org/doc/guidelines.html: what is wrong, then how many checks there were."""
    wrong = [f"{each.name}: {each.fact}" for each in results if each.status in ("fail", "warn")]
    counts = " ".join(f"{status}={sum(each.status == status for each in results)}" for status in _COLORS)
    return f"CHROMADB {_WORDS[code]} - {'; '.join(wrong) or 'all is well'} | {counts}".replace("\n", " ")
