"""What all verbs share: options, output for people and machines, progress."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from chromad import config, control
from chromad.errors import ChromadError, ConfigurationError, TryAgain, one_line, printable
from chromad.host import notify, signals
from chromad.logs import lines
from chromad.logs.events import Event

_WIDTH = 200


class _Console(Console):
    """Prints control characters as escapes: names, ids and paths that others chose are in much of what is shown."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """What is printed, piece by piece."""
        for text, style, codes in super().render(renderable, options):
            yield Segment(text if codes else printable(text), style, codes)


# Without a terminal, tables are not cut to the width that one would have.
out = _Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDTH)
err = _Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]

Report = Callable[[str, int, int], None]

# Seconds that systemd is asked to go on waiting, each time there is progress
_EXTENSION = 600.0


@dataclass
class Settings:
    """The global options. The configuration is read when a verb first asks for it."""

    path: Path
    json: bool

    @cached_property
    def config(self) -> config.Config:
        return config.load(self.path)


def settings(context: typer.Context) -> Settings:
    """The global options of this call."""
    found = context.obj
    assert isinstance(found, Settings)
    return found


def ask_daemon(
    settings: Settings, verb: str, arguments: dict[str, Any] | None = None, progress: Report | None = None
) -> Any:
    """The daemon's answer. Raises TryAgain when none runs, and what the daemon raises."""
    with signals.saying("the service goes on with what it was asked for"):
        answer = control.ask(settings.config.control_socket, verb, arguments, progress)
    if answer is None:
        raise TryAgain("the service is not running", "systemctl start chromadb")
    signals.finished()
    return answer


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(document, indent=2, default=str))


def need(path: Path) -> None:
    """Raises ConfigurationError when a directory is not there."""
    if not path.is_dir():
        raise ConfigurationError(f"{path} does not exist", "is a volume not mounted? Or correct data_dir")


def age(time: str) -> str:
    """How long ago a time (ISO 8601) was, for people: 90 s -> '1m'."""
    seconds = max((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds(), 0)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:.0f}s"


def tell(event: Event, text: str, *, quiet: bool) -> None:
    """Tells the journal of what was done, and prints it unless `quiet`; under systemd that is one line."""
    told = lines.send(event, logging.INFO, text, "chromactl")
    if not quiet and not (told and notify.supervised()):
        out.print(text, markup=False)


@contextmanager
def failure(event: Event) -> Iterator[None]:
    """Tells the journal of an error that ends the work within."""
    try:
        yield
    except ChromadError as error:
        lines.send(event, logging.ERROR, error.message, "chromactl")
        raise


@contextmanager
def progress() -> Iterator[Report]:
    """How far something long is: a bar on a terminal, systemd's STATUS under systemd, nothing elsewhere."""
    if notify.supervised():
        yield _tell_systemd()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(one_line(phase), total=total or None)
            bar.update(tasks[phase], completed=done, total=total or None)

        yield report


def _tell_systemd() -> Report:
    told, when = "", 0.0

    def report(phase: str, done: int, total: int) -> None:
        nonlocal told, when
        text = f"{phase} {100 * done // total} %" if total else phase
        if text != told or time.monotonic() - when > _EXTENSION / 10:
            told, when = text, time.monotonic()
            notify.status(text)
            notify.extend_timeout(_EXTENSION)

    return report
