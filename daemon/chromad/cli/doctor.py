"""chromactl doctor."""

import os
import select
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from chromad import control
from chromad.checks import Fix, Result, Status, doctor, fail, files
from chromad.checks.host import Host, loaded
from chromad.cli import rights, ui
from chromad.errors import ChromadError, ConfigurationError, PermissionProblem, TryAgain, UsageProblem, one_line
from chromad.host import privileges, signals

_COLORS: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}
_WORDS = ("OK", "WARNING", "CRITICAL")
_UNKNOWN = 3
# By which root's part is asked whether to go on
_GO_ON = "go on"
_TICK = 0.2  # seconds


class Output(StrEnum):
    """How the results are shown."""

    text = "text"
    json = "json"
    nagios = "nagios"


def run(
    context: typer.Context,
    deep: Annotated[bool, typer.Option("--deep", help="Read all of the database and of the vector files.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what is safe to mend, after showing it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before mending.")] = False,
    output: Annotated[Output, typer.Option("--output", help="nagios: one line, as its plugins print.")] = Output.text,
    json: ui.Json = False,
) -> None:
    """Look at everything that goes wrong with a Chroma host, and say what to do. Changes nothing without --fix.

    Exits 0 when all is well, 1 with warnings, 2 when something is broken. --fix sets owners and modes, makes missing
    directories, and moves segments of no collection to quarantine; it ends with a second look.

    Example: sudo chromactl doctor --fix
    """
    settings = ui.settings(context)
    if yes and not fix:
        raise UsageProblem("--yes answers what --fix asks", "give --fix as well")
    if output is Output.nagios and (json or settings.json):
        raise UsageProblem("--output nagios and --json exclude each other", "give one of them")
    output = Output.json if json or settings.json else output
    if problem := _become_owner(settings, fix):
        results, blind = [problem], ""
    else:
        results, blind = _examine(settings, deep)
    if fix and not problem:
        with signals.saying("what is mended stays so"):
            _mend(results, yes, quiet=output is not Output.text)
        results, blind = _examine(settings, deep)
    if blind and output is Output.nagios:
        typer.echo(f"CHROMADB UNKNOWN - {_line(blind)}")
        raise typer.Exit(_UNKNOWN)
    code = max((2 if each.status == "fail" else int(each.status == "warn") for each in results), default=0)
    if output is Output.json:
        ui.print_json([_document(each) for each in results])
    elif output is Output.nagios:
        typer.echo(_nagios(results, code))
    else:
        _show(results)
    raise typer.Exit(code)


def _ask_operator() -> bool:
    """Asks at root's terminal, which the part that works does not read. No, where a signal comes instead of an answer."""
    typer.echo("Go on? [y/N]: ", nl=False, err=True)
    while not select.select([sys.stdin], [], [], _TICK)[0]:
        if privileges.interrupted():
            return False
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _become_owner(settings: ui.Settings, fix: bool) -> Result | None:
    """Why it cannot be known whom to work as: then there is nothing that root should look at."""
    try:
        config = settings.config
    except ChromadError:
        return None  # It is told of among the results.
    try:
        steps = files.steps(Host(config, settings.path), fix=fix)
        rights.become_owner(config, rights.RootPart({**steps, _GO_ON: _ask_operator} if fix else steps), strict=False)
    except PermissionProblem as error:
        return fail("data_dir", PermissionProblem, error.message, error.hint)
    return None


def _examine(settings: ui.Settings, deep: bool) -> tuple[list[Result], str]:
    """The results, and what this user may not look at, so that they tell nothing; empty where all could be seen."""
    blind = ""
    try:
        config = settings.config
    except (ConfigurationError, PermissionProblem) as error:
        blind = error.message if isinstance(error, PermissionProblem) else ""
        return [fail("configuration", type(error), error.message, error.hint)], blind
    try:
        answer = control.ask_status(config.control_socket)
        host = Host(config, settings.path, answer, loaded(config) if answer else None)
    except (TryAgain, PermissionProblem) as error:
        blind = error.message if isinstance(error, PermissionProblem) else ""
        host = Host(config, settings.path, silent=error.message)
    return list(doctor.examine(host, deep=deep)), blind


def _mend(results: Sequence[Result], yes: bool, *, quiet: bool) -> None:
    fixes: list[Fix] = [each.fix for each in results if each.fix]
    if not fixes:
        ui.err.print("nothing that can be mended here", style="dim")
        return
    if os.geteuid() != 0 and not privileges.may("mend files"):
        raise PermissionProblem("only root may mend", "sudo chromactl doctor --fix")
    if not quiet:
        _show([each for each in results if each.fix])
    for each in fixes:
        ui.err.print(f"to do: {each.what}", markup=False, highlight=False)
    if not yes and not (privileges.ask(_GO_ON) if privileges.may(_GO_ON) else typer.confirm("Go on?", err=True)):
        raise typer.Abort
    for each in fixes:
        try:
            each.do()
        except (ChromadError, OSError) as error:
            ui.err.print(f"not done: {each.what}: {error}", style="red", markup=False, highlight=False)
        else:
            ui.err.print(f"done: {each.what}", style="green", markup=False, highlight=False)


def _document(result: Result) -> dict[str, object]:
    return {
        "name": result.name,
        "status": result.status,
        "fact": result.fact,
        "hint": result.hint,
        "data": dict(result.data),
        "fix": result.fix.what if result.fix else None,
    }


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
    return f"CHROMADB {_WORDS[code]} - {_line('; '.join(wrong) or 'all is well')} | {counts}"


def _line(text: str) -> str:
    # A bar would begin the performance data.
    return one_line(text.replace("|", "/").replace("\n", " "))
