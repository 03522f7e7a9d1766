"""chromactl backups."""

import typer
from rich.markup import escape
from rich.table import Table

from chromad.backup import catalog
from chromad.cli import ui
from chromad.output import human_bytes


def run(context: typer.Context, json: ui.Json = False) -> None:
    """List the backups, the oldest first.

    Example: chromactl backups --json | jq -r '.backups[-1].name'
    """
    settings = ui.settings(context)
    found = catalog.backups(settings.config.backup.directory)
    if json or settings.json:
        ui.print_json({"backups": [_document(backup) for backup in found]})
        return
    if not found:
        ui.out.print(f"no backups in {settings.config.backup.directory}", markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for title, side in (
        ("NAME", "left"),
        ("SIZE", "right"),
        ("COLLECTIONS", "right"),
        ("RECORDS", "right"),
        ("PROBLEM", "left"),
    ):
        table.add_column(title, justify="right" if side == "right" else "left")
    for backup in found:
        held = backup.manifest
        facts = (human_bytes(held.size), str(len(held.collections)), str(held.records)) if held else ("", "", "")
        table.add_row(backup.name, *facts, escape(backup.problem))
    ui.out.print(table)


def _document(backup: catalog.Backup) -> dict[str, object]:
    held = backup.manifest
    return {
        "name": backup.name,
        "path": str(backup.path),
        "created": held.created if held else None,
        "bytes": held.size if held else None,
        "collections": len(held.collections) if held else None,
        "records": held.records if held else None,
        "engine_version": held.engine_version if held else None,
        "problem": backup.problem or None,
    }
