"""chromactl upgrade."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer

from chromad.backup import repository
from chromad.backup.repository import Repository
from chromad.cli import rights, ui
from chromad.config import Config
from chromad.errors import ChromadError
from chromad.logs import events
from chromad.logs.lines import human_bytes
from chromad.maintenance import environment, upgrade, upgrade_end
from chromad.maintenance.upgrade_steps import RootSteps


def run(
    context: typer.Context,
    undo: Annotated[bool, typer.Option("--undo", help="Only take back an upgrade that was interrupted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    json: ui.Json = False,
) -> None:
    """Let the service run from this environment, with data of its version; playbooks/upgrade.yml makes one and calls this.

    Takes a backup, opens it with the new version on trial, then refuses changes while a copy of the data is migrated and takes
    their place. The new service has to answer as the old one did, else data and environment are put back. What an interrupted
    upgrade has left is put right first. A downgrade is refused.

    Example: sudo /opt/chromadb/venvs/1a2b3c4d5e6f/bin/chromactl upgrade
    """
    settings = ui.settings(context)
    as_json = json or settings.json
    config = settings.config
    ui.need(config.data_dir)
    place = _repository(config)
    root = RootSteps(config, settings.path)
    rights.become_owner(config, rights.RootPart(root.known, places=root.copies, resumes=True))
    with ui.failure(events.UPGRADE_FAILED), ui.progress() as progress:
        undone = upgrade_end.unfinished() if dry_run else upgrade_end.put_right(config, root)
        if undone and not as_json:
            ui.out.print(undone, markup=False)
        work = upgrade.Upgrade(config, root, place, progress)
        plan = None if undo else work.plan()
        if plan and not dry_run:
            backup = work.back_up()
            work.try_out(backup)
            outcome = work.switch_over(backup)
    if not plan or dry_run:
        _show_plan(plan, undone, as_json=as_json)
        return
    text = (
        f"{outcome.new} has taken over from {outcome.old}: {outcome.collections} collections, {outcome.records} records"
    )
    ui.tell(events.UPGRADED, text, quiet=as_json)
    if as_json:
        ui.print_json({"undone": undone, "upgraded": asdict(outcome)})
        return
    ui.out.print(f"{outcome.down:.1f} s without service, changes were refused for {outcome.held:.1f} s", markup=False)
    ui.out.print(
        f"the former data are in {outcome.replaced}, and in backup {outcome.backup}; remove the former when you no longer "
        "need them",
        markup=False,
    )


def _repository(config: Config) -> Callable[[], Repository]:
    """Reads what is needed of it now, and raises what is wrong when it is asked for: the backup comes first."""
    try:
        found = repository.connect(config)
    except (ChromadError, OSError) as error:
        wrong = error
    else:
        return lambda: found

    def fail() -> Repository:
        raise wrong

    return fail


def _show_plan(plan: upgrade.UpgradePlan | None, undone: str, *, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = {"undone": undone, "upgraded": None}
        ui.print_json({**document, "plan": asdict(plan)} if plan else document)
    elif plan:
        ui.out.print(f"would take a backup with {plan.old}, open it with {plan.new} on trial,", markup=False)
        ui.out.print(
            f"and bring a copy of the data ({human_bytes(plan.bytes)}; {human_bytes(plan.free)} are free) to it, stopping the "
            "service for the exchange",
            markup=False,
        )
    elif not undone:
        ui.out.print(f"{environment.own()} is what the service runs; there is nothing to do", markup=False)
