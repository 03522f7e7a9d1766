"""chromactl restore."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from chromad.backup import collection, rehearsal, repository, restore, stage, timetravel
from chromad.backup.stage import Order
from chromad.cli import rights, ui
from chromad.config import Backup, Config
from chromad.errors import ChromadError, ConfigurationError, PermissionProblem, UsageProblem
from chromad.host import files
from chromad.logs import events
from chromad.logs.lines import human_bytes
from chromad.store import copies, leftovers

Name = Annotated[
    str,
    typer.Argument(metavar="ID|latest|oldest", help="The backup to restore; latest unless given.", show_default=False),
]
At = Annotated[
    str,
    typer.Option(
        "--at", metavar="TIME", help="To a second, as 2026-01-02T03:04:05Z; UTC without an offset. It finds the backup."
    ),
]
Target = Annotated[
    Path | None,
    typer.Option("--target", metavar="DIR", readable=False, help="Into a new directory; the service is not touched."),
]
Only = Annotated[str, typer.Option("--collection", metavar="NAME", help="One collection, into the running service.")]
Into = Annotated[str, typer.Option("--into", metavar="NEWNAME", help="The name that it gets there.")]
Stop = Annotated[bool, typer.Option("--stop", help="Permit it to stop the service and start it again.")]
Inexact = Annotated[bool, typer.Option("--inexact", help="Permit what cannot be exact to the second.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Location = Annotated[
    str, typer.Option("--repository", metavar="REPO", help="Not that of the configuration; with --target.")
]
Key = Annotated[
    Path | None, typer.Option("--password-file", metavar="FILE", readable=False, help="The key of --repository.")
]


@dataclass(frozen=True)
class _Way:
    """Where to, as the options say. within: where the copy for a target is made."""

    at: str
    target: Path | None
    within: Path | None
    only: str
    into: str
    stop: bool
    dry_run: bool


def run(
    context: typer.Context,
    name: Name = "",
    at: At = "",
    target: Target = None,
    only: Only = "",
    into: Into = "",
    stop: Stop = False,
    inexact: Inexact = False,
    dry_run: DryRun = False,
    location: Location = "",
    key: Key = None,
    json: ui.Json = False,
) -> None:
    """Put a backup in place of the data. The present data are moved aside, never deleted.

    The backup is fetched, compared and opened beside the data first; then the service is stopped for the exchange.

    Example: sudo chromactl restore latest --stop
    """
    settings = ui.settings(context)
    _refuse_together(
        {"--at": at, "an ID": name},
        {"--target": target, "--collection": only, "--stop": stop},
        {"--repository": location or key, "--collection": only},
    )
    if into and not only:
        raise UsageProblem("--into names a collection", "give --collection NAME as well")
    if inexact and not at:
        raise UsageProblem("--inexact is for --at", "what a backup itself holds is exact")
    moment = timetravel.parse(at) if at else None
    config = _elsewhere(location, key, target) if location or key else settings.config
    place = repository.connect(config, cached=target is None)
    within: Path | ChromadError | OSError | None = None
    if target:
        within = _work_beside(config, target, elsewhere=bool(location))
    else:
        _work_in_place(config, dry_run=dry_run)
    choice = stage.choose(place, name or "latest", moment)
    if isinstance(within, Exception):
        raise within
    with ui.progress() as report:
        show = _restore(
            Order(config, place, choice, inexact, report), _Way(at, target, within, only, into, stop, dry_run)
        )
    show(json or settings.json)


def _restore(order: Order, way: _Way) -> Callable[[bool], None]:
    """Does it, or says what it would do; gives what tells of it, as JSON or not."""
    if way.dry_run:
        plan = rehearsal.plan(order, target=way.target, within=way.within, only=way.only, into=way.into)
        return partial(_show_plan, order.config, plan, way)
    if way.only:
        return partial(_show_copied, collection.copy(order, way.only, way.into))
    if way.target and way.within:
        outcome = restore.run_aside(order, way.target, within=way.within)
    else:
        outcome = restore.run_in_place(order, may_stop=way.stop)
    return partial(_show, outcome, way.at)


def _work_in_place(config: Config, *, dry_run: bool) -> None:
    """Goes on as the owner of the data, and clears up after those who were killed."""
    tidy = dry_run and not copies.exists(config.data_dir)
    rights.become_owner(
        config, rights.RootPart(ended=partial(copies.tidy, config.data_dir)) if tidy else rights.RootPart()
    )
    if not dry_run:
        # First: it may put the data back.
        leftovers.sweep_beside(config.data_dir)


def _work_beside(config: Config, target: Path, *, elsewhere: bool) -> Path | ChromadError | OSError:
    """Where the copy for a target is made: beside it. Root makes a directory there for the one who works for it. Or why that
    cannot be, to be told when it is known that there is such a backup."""
    account = None if elsewhere else rights.owner(config, strict=False)
    if os.geteuid() != 0 or (config.allow_root and account is None):
        return target.parent
    account = account or rights.somebody(config.backup.local_path)
    try:
        restore.check_target(config, target)
        within = restore.make_within(target, account.uid, account.gid)
    except (ChromadError, OSError) as error:
        rights.become_owner(config, account=account)
        return error
    part = rights.RootPart(
        restore.steps(target, within, account.uid),
        ended=partial(files.remove_tree, within, ignore_errors=True),
        places=lambda: [copies.settled(within)],
    )
    rights.become_owner(config, part, account=account)
    if not os.access(within, os.W_OK):
        raise PermissionProblem(
            f"{target.parent} cannot be reached by uid {account.uid}, which works for root",
            "name a place such as /srv/look",
        )
    return within


def _refuse_together(*groups: dict[str, object]) -> None:
    """Raises UsageProblem when more than one of a group is given."""
    for group in groups:
        given = [name for name, value in group.items() if value]
        if len(given) > 1:
            raise UsageProblem(f"{' and '.join(given)} exclude each other", "give one of them")


def _elsewhere(location: str, key: Path | None, target: Path | None) -> Config:
    """What is needed to restore with nothing but a repository and its key."""
    if not (location and key and target):
        raise UsageProblem(
            "--repository needs --password-file and --target", "without them, restore takes the configuration's"
        )
    if not target.is_absolute():
        raise ConfigurationError(f"the path {target} is relative", "give an absolute one")
    try:
        backup = Backup.model_validate({"repository": location, "password_file": str(key)})
        return Config(data_dir=target, checkpoint_dir=target.parent / ".chromad-restore", backup=backup)
    except ValidationError as error:
        problems = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
        raise ConfigurationError(problems, "restic names a place as sftp:user@host:/path, for example") from None


def _show_plan(config: Config, plan: rehearsal.RestorePlan, way: _Way, as_json: bool) -> None:
    choice, restart = plan.choice, plan.restart
    snapshot = choice.snapshot
    document = {
        "id": snapshot.id,
        "created": snapshot.time,
        "bytes": choice.bytes,
        "at": choice.target.at.isoformat() if choice.target else None,
        "log_of": choice.target.joined.id if choice.target and choice.target.joined else None,
        "live_log": bool(choice.target and choice.target.live),
        "would_stop_the_service": restart,
        "notes": plan.notes,
    }
    if as_json:
        ui.print_json(document)
        return
    ui.out.print(f"would fetch {snapshot.id} of {snapshot.time}, {human_bytes(choice.bytes)}", markup=False)
    if choice.target:
        end = f", the log since then from {choice.target.joined.id}" if choice.target.joined else ""
        end = ", the log since then from the live database" if choice.target.live else end
        ui.out.print(f"and bring it to {choice.target.at:%Y-%m-%dT%H:%M:%SZ}{end}", markup=False)
    place = (
        f"the collection {way.only} into the running service" if way.only else f"it to {way.target or config.data_dir}"
    )
    ui.out.print(f"and restore {place}{', stopping the service for the exchange' if restart else ''}", markup=False)
    for note in plan.notes:
        ui.out.print(f"not exact: {note}", markup=False)


def _show(outcome: restore.Restored, at: str, as_json: bool) -> None:
    moment = f", as of {at}" if at else ""
    text = (
        f"restored {outcome.id}{moment}: {outcome.collections} collections, {outcome.records} records in "
        f"{outcome.directory}"
    )
    ui.tell(events.RESTORED, text, quiet=as_json)
    if as_json:
        ui.print_json({**asdict(outcome), "replaced": str(outcome.replaced) if outcome.replaced else None})
        return
    for note in outcome.notes:
        ui.out.print(f"not exact: {note}", markup=False)
    if not outcome.replaced:
        return
    ui.out.print(f"the former data are in {outcome.replaced}; remove them when you no longer need them", markup=False)
    for line in outcome.changed:
        ui.out.print(f"changed since the start: {line}", markup=False)
    if not outcome.restarted:
        ui.out.print("the service was not running; start it with systemctl start chromadb", markup=False)


def _show_copied(copied: collection.CopiedCollection, as_json: bool) -> None:
    """Raises Exit when records are not in the copy."""
    if as_json:
        ui.print_json(asdict(copied))
    else:
        ui.out.print(f"{copied.records} records of {copied.id} are in the collection {copied.name}", markup=False)
        for note in copied.notes:
            ui.out.print(f"not exact: {note}", markup=False)
    if copied.lost:
        raise typer.Exit(1)
