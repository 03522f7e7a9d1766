"""chromactl repair."""

from dataclasses import asdict

import typer

from chromad.cli import rights, ui
from chromad.host import signals
from chromad.maintenance import repair

LOST = 1


def run(context: typer.Context, json: ui.Json = False) -> None:
    """Rebuild collections in quarantine, and segments that are not sound, from what their files still hold.

    The service must be stopped. Nothing is deleted: the broken segment stays in quarantine. Exits 1 when vectors
    could not be had; their ids are listed in a file there; and when a collection could not be repaired.

    Example: sudo systemctl stop chromadb && sudo chromactl repair && sudo systemctl start chromadb
    """
    settings = ui.settings(context)
    # Its engine serves nobody, but works on the data themselves.
    rights.become_owner(settings.config, rights.RootPart(places=lambda: [settings.config.data_dir]))
    with (
        signals.saying("the repair was not ended; run it again before the service is started"),
        ui.progress() as report,
    ):
        done = repair.run(settings.config, report)
    signals.finished()
    if json or settings.json:
        ui.print_json([asdict(each) for each in done])
    else:
        _show(done)
    if any(each.lost or each.problem for each in done):
        raise typer.Exit(LOST)


def _show(done: list[repair.Repaired]) -> None:
    if not done:
        ui.out.print("nothing to repair")
    for each in done:
        if each.problem:
            ui.err.print(f"{each.collection} is not repaired: {each.problem}", style="red", markup=False)
            continue
        if each.from_checkpoint:
            ui.out.print(f"{each.collection}: its checkpoint is back, the log brings the rest", markup=False)
            continue
        ui.out.print(
            f"{each.collection}: of {each.records} vectors {each.from_log} come from the log, {each.salvaged} from {each.broken}",
            markup=False,
        )
        if each.lost:
            ui.out.print(f"  {len(each.lost)} cannot be had, their ids are in {each.lost_file}", markup=False)
        if each.unscaled:
            ui.out.print(f"  {len(each.unscaled)} have lost their length, which cosine distance does not need")
