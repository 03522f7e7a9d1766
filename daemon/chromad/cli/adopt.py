"""chromactl adopt."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from chromad.backup import repository
from chromad.backup import run as backup
from chromad.backup.repository import Places
from chromad.cli import rights, ui
from chromad.config import Config
from chromad.errors import ChromadError, from_system, one_line
from chromad.host import signals
from chromad.logs.lines import human_bytes
from chromad.maintenance.adopt import Adoption
from chromad.maintenance.adopt_report import Adopted, Report
from chromad.maintenance.adopt_source import Source, belongs_to
from chromad.store import copies

LOST = 1
_STATES = {
    "sound": "sound, stays as it is",
    "logged": "in the log alone; the engine makes its index",
    "empty": "has no records yet",
    "rebuild": "is rebuilt",
}


def run(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="DIR", readable=False, help="The directory that Chroma was run with (--path).")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what there is, and do nothing.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Permit it to stop the service and start it again.")] = False,
    json: ui.Json = False,
) -> None:
    """Take over a directory that stock Chroma (0.4.15 or later) wrote. It is only read: a copy becomes the data directory.

    The copy is brought to the installed engine's schema, segments that are torn or of an older layout are rebuilt, an engine
    opens it, every record is compared with what DIR holds, and a backup is taken where there is a repository. DIR may be the
    data directory itself; then what was there is moved aside. What is wrong in DIR and can be put right is, on the copy. Exits 1
    when vectors (listed in a file in quarantine) or other things could not be had.

    Example: sudo chromactl adopt /srv/old-chroma --stop
    """
    settings = ui.settings(context)
    as_json = json or settings.json
    config = settings.config
    ui.need(config.data_dir)
    place = _repositories(config)
    account = rights.owner(config)
    foreign = account is not None and not belongs_to(source, account.uid)
    steps = Source(source).steps(lambda: copies.settled(copies.place(config.data_dir))) if foreign else {}
    rights.become_owner(config, rights.RootPart(steps))
    with ui.progress() as progress, Adoption(config, source, progress) as adoption:
        if not dry_run:
            adoption.check(may_stop=stop)
        report = adoption.examine()
        if not as_json:
            _show_report(report, config)
        if dry_run:
            _end_dry_run(adoption, report, as_json=as_json)
            return
        outcome = adoption.adopt(may_stop=stop)
        if not as_json:
            _show_outcome(outcome, source)
    signals.finished(f"{source} is adopted, but no backup of it was taken: sudo chromactl backup")
    saved = _back_up(config, place)
    if as_json:
        ui.print_json({"report": asdict(report), "outcome": asdict(outcome), "backup": saved.text, "hint": saved.hint})
    else:
        _show_backup(saved)
        if not outcome.restarted:
            ui.out.print("start the service: systemctl start chromadb", markup=False)
    if outcome.lost or any(each.lost for each in outcome.repaired) or any(each.loses for each in report.mended):
        raise typer.Exit(LOST)


def _end_dry_run(adoption: Adoption, report: Report, *, as_json: bool) -> None:
    """Says whether the adoption itself would be refused, and then ends as it would."""
    try:
        restart = adoption.check(may_stop=True)
    except ChromadError as error:
        if not as_json:
            raise
        refused = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
        ui.print_json({"report": asdict(report), "refused": refused})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        ui.print_json({"report": asdict(report), "would_stop_the_service": restart})
    elif restart:
        ui.out.print("the service would be stopped for the exchange, and started again")


@dataclass(frozen=True)
class _Saved:
    """text: a backup's id, or why there is none, with what to do about it."""

    text: str
    hint: str = ""


def _repositories(config: Config) -> Places | Exception:
    """Where the first backup goes; or why that cannot be told, which keeps nobody from an adoption."""
    try:
        return Places(repository.connect(config), repository.connect_copy(config))
    except (ChromadError, OSError) as error:
        return error


def _back_up(config: Config, found: Places | Exception) -> _Saved:
    """Takes a first backup. Whatever goes wrong with it, what was adopted stays."""
    try:
        if isinstance(found, Exception):
            raise found
        with ui.progress() as progress:
            return _Saved(backup.run(config, found, full=True, accept_empty=False, progress=progress).id)
    except Exception as error:
        # Whatever it is: the adoption is done, and has to be told of.
        known = error if isinstance(error, ChromadError) else from_system(error)
        return _Saved(f"none: {known.message}", f"{known.hint}; then sudo chromactl backup".removeprefix("; then "))


def _show_report(report: Report, config: Config) -> None:
    origin = report.origin
    ui.out.print(f"{report.directory}: {human_bytes(report.bytes)}, {report.log_rows} rows in the log", markup=False)
    newest = ", ".join(f"{kind} {version}" for kind, version in sorted(origin.schema.items()))
    change = f"is brought to that of Chroma {report.engine_version}" if report.migrated else "is up to date"
    ui.out.print(f"written by Chroma {origin.release}, by its schema ({newest}), which {change}", markup=False)
    if origin.older:
        ui.out.print(f"{origin.older} segments are as Chroma before 1.0 wrote them", markup=False)
    ui.out.print("layout: one node; a client in a program and a server write the same", markup=False)
    names = ", ".join(f"{one_line(name)} ({count} collections)" for name, count in origin.databases.items())
    ui.out.print(f"tenants and databases: {names}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("  collection", "database", "records", "dimension", "vectors"):
        table.add_column(title, justify="right" if title in ("records", "dimension") else "left")
    for each in report.collections:
        state = f"{_STATES[each.state]}{f' ({each.reason})' if each.reason else ''}"
        table.add_row(
            Text(f"  {each.name}"),
            Text(one_line(each.database)),
            str(each.records),
            str(each.dimension or ""),
            Text(state),
        )
    ui.out.print(table)
    for finding in report.mended:
        done = "left out of the copy" if finding.deletes else "put right on the copy"
        ui.out.print(f"{done}: {finding.fact}", markup=False)
    for uuid in report.orphans:
        ui.out.print(f"{uuid} belongs to no collection, and is left out", markup=False)
    if report.left_out:
        ui.out.print(f"not Chroma's, and left out: {', '.join(report.left_out)}", markup=False)
    place = "a copy takes its place" if report.in_place else f"a copy becomes {config.data_dir}"
    ui.out.print(f"{place}; {human_bytes(report.free)} are free for it", markup=False)


def _show_outcome(outcome: Adopted, source: Path) -> None:
    ui.out.print(
        f"adopted {outcome.collections} collections, {outcome.records} records in {outcome.directory}", markup=False
    )
    ui.out.print(
        f"all {outcome.compared} records are served as {source} held them (compared in {outcome.seconds:.1f} s)",
        markup=False,
    )
    if outcome.unknown:
        names = ", ".join(map(one_line, outcome.named)) + (", …" if outcome.unknown > len(outcome.named) else "")
        ui.out.print(
            f"  but for the vectors of {outcome.unknown}, which are lost there, or all zero: {names}", markup=False
        )
    for each in outcome.repaired:
        ui.out.print(
            f"{each.collection}: {each.from_log} vectors come from the log, {each.salvaged} from {each.broken}",
            markup=False,
        )
        if each.lost:
            ui.out.print(f"  {len(each.lost)} cannot be had, their ids are in {each.lost_file}", markup=False)
    for lost in outcome.lost:
        ui.out.print(
            f"{lost.collection}: {lost.records} records have no vector any more, their ids are in {lost.lost_file}",
            markup=False,
        )
    if outcome.replaced:
        ui.out.print(
            f"the former data are in {outcome.replaced}; remove them when you no longer need them", markup=False
        )


def _show_backup(saved: _Saved) -> None:
    if saved.hint:
        ui.out.print(f"no backup was taken ({saved.text}); what was adopted stays\n  HINT: {saved.hint}", markup=False)
    else:
        ui.out.print(f"backup {saved.text} holds it, proven", markup=False)
