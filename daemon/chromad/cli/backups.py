"""chromactl backups: list, show, init, forget."""

import os
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from chromad.backup import catalog, ledger, manifest, repository, run, workspace
from chromad.backup.repository import Snapshot
from chromad.cli import rights, ui
from chromad.config import Config
from chromad.errors import BackupError, ChromadError, one_line
from chromad.host import files, privileges, signals, trees
from chromad.logs.lines import human_bytes
from chromad.store import lock

app = typer.Typer(invoke_without_command=True, add_completion=False)

_KEY_BYTES = 32
_COLUMNS = ("ID", "CREATED", "AGE", "SIZE", "ADDED", "COLLECTIONS", "RECORDS", "PROVEN", "DRILLED")


@app.callback()
def everything(context: typer.Context, json: ui.Json = False) -> None:
    """List the backups, the oldest first.

    Example: sudo chromactl backups --json | jq -r '.backups[-1].id'
    """
    if context.invoked_subcommand:
        return
    settings = ui.settings(context)
    config = settings.config
    place = repository.connect(config)
    rights.become_owner(config, strict=False)
    found = place.snapshots()
    known = ledger.read(config.backup_dir)
    documents = [_document(snapshot, known) for snapshot in found]
    if json or settings.json:
        ui.print_json({"repository": config.backup.repository, "backups": documents})
    elif not found:
        ui.out.print(f"no backups in {config.backup.repository}", markup=False)
    else:
        _show(documents)


@app.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID|latest|oldest")],
    json: ui.Json = False,
) -> None:
    """Show what a backup holds.

    Example: sudo chromactl backups show latest
    """
    settings = ui.settings(context)
    config = settings.config
    place = repository.connect(config)
    rights.become_owner(config, strict=False)
    snapshot = catalog.find(place, name)
    held = manifest.parse(place.read_file(snapshot, manifest.FILE), f"the manifest of {snapshot.id}")
    document = {**_document(snapshot, ledger.read(config.backup_dir)), "manifest": asdict(held)}
    if json or settings.json:
        ui.print_json(document)
        return
    ui.out.print(f"{snapshot.id} of {held.created}, on {snapshot.host}, by Chroma {held.engine_version}", markup=False)
    ui.out.print(f"base of {held.base_created}, log up to {held.last_seq_id}, {human_bytes(held.size)}", markup=False)
    table = Table("COLLECTION", "TENANT", "DATABASE", "DIMENSION", "RECORDS", box=None, pad_edge=False)
    for each in held.collections:
        table.add_row(
            *map(
                escape, (each.name, one_line(each.tenant), each.database, str(each.dimension or ""), str(each.records))
            )
        )
    ui.out.print(table)


@app.command()
def init(context: typer.Context, json: ui.Json = False) -> None:
    """Make the key and the repository, where they are missing. Does nothing where they are there.

    Example: sudo chromactl backups init
    """
    settings = ui.settings(context)
    config = settings.config
    ui.need(config.data_dir)
    with signals.saying("what was made until then stays; run it again"):
        made_key, made = _make(config)
    signals.finished()
    if json or settings.json:
        ui.print_json({"key": made_key, "repository": made})
        return
    ui.out.print(f"{config.backup.repository} {'is made' if made else 'was there'}", markup=False)
    if made_key:
        ui.out.print(
            f"its key is in {config.backup.password_file}. Keep a copy of it on another machine: without the key, nobody "
            "can read the backups",
            markup=False,
        )


@app.command()
def forget(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="ID|latest|oldest…")],
    confirm: Annotated[bool, typer.Option("--confirm", help="Do it; without, it is only said.")] = False,
    json: ui.Json = False,
) -> None:
    """Remove backups and give back the space that only they took. The last proven one of a host always stays.

    Example: sudo chromactl backups forget 1a2b3c4d --confirm
    """
    settings = ui.settings(context)
    config = settings.config
    place = repository.connect(config)
    rights.become_owner(config, strict=False)
    ids, found = _choose(place, names)
    if confirm:
        workspace.prepare(config)
        done = "it may have forgotten some of them: chromactl backups"
        with lock.backup_lock(config.backup_dir) as held, signals.saying(done), ui.progress() as report:
            place.lock_fd = held.fd
            # Once more, since others may have forgotten some until the lock was ours
            ids, found = _choose(place, names)
            place.forget(ids)
            run.release(config, [found[each].time for each in ids])
            place.prune(lambda: report("pruning", 0, 0))
        signals.finished()
    if json or settings.json:
        ui.print_json({"forgotten": ids if confirm else [], "would_forget": [] if confirm else ids})
    elif confirm:
        ui.out.print("1 backup is forgotten" if len(ids) == 1 else f"{len(ids)} backups are forgotten")
    else:
        for each in ids:
            ui.out.print(f"would forget {each} of {found[each].time}", markup=False)
        ui.out.print("--confirm does it")


def _choose(place: repository.Repository, names: list[str]) -> tuple[list[str], dict[str, Snapshot]]:
    """The ids of the backups that are named, and what there is. Raises BackupError when no proven one of a host would be left."""
    snapshots = place.snapshots()
    found = {snapshot.id: snapshot for snapshot in snapshots}
    ids = list(dict.fromkeys(catalog.among(place, snapshots, each).id for each in names))
    for host in {found[each].host for each in ids}:
        good = {snapshot.id for snapshot in found.values() if snapshot.host == host and catalog.proven(snapshot)}
        if good and good <= set(ids):
            raise BackupError(f"no proven backup of {host} would be left", "take another one first: chromactl backup")
    return ids, found


def _make(config: Config) -> tuple[bool, bool]:
    """Makes key and repository where they are missing; says which."""
    made_key = _make_key(config.backup.password_file)
    local = config.backup.local_path
    # One that is empty may be of a run that was killed before it gave it away.
    if local and (not local.exists() or not any(local.iterdir())):
        owner = config.data_dir.stat()
        for missing in [each for each in reversed(local.parents) if not each.exists()]:
            files.make_directory(missing, 0o755)
        if not local.exists():
            files.make_directory(local, 0o750, (owner.st_uid, owner.st_gid))
        elif os.geteuid() == 0:
            trees.take_tree(local, owner.st_uid, owner.st_gid)
    place = repository.connect(config)

    def withdraw_key() -> None:
        # It is not that of the repository that is there.
        if made_key:
            files.remove(config.backup.password_file)

    rights.become_owner(config, rights.RootPart({"withdraw key": withdraw_key}), strict=False)
    try:
        made = not place.exists()
    except ChromadError:
        if privileges.may("withdraw key"):
            privileges.ask("withdraw key")
        else:
            withdraw_key()
        raise
    if made:
        place.init()
    return made_key, made


def _make_key(path: Path) -> bool:
    """Makes a key where there is none; says whether it did."""
    files.remove_drafts(path.parent)
    if path.exists():
        return False
    # Under its name it is whole or not there: with half a key a repository would be made that nobody opens again.
    with signals.deferred():
        files.write_atomically(path, f"{secrets.token_urlsafe(_KEY_BYTES)}\n", 0o400, new=True)
    return True


def _document(snapshot: Snapshot, known: ledger.Ledger) -> dict[str, Any]:
    drill = known.drill(snapshot.id)
    return {
        "id": snapshot.id,
        "created": snapshot.time,
        "host": snapshot.host,
        "base": snapshot.facts.get("base"),
        "bytes": snapshot.number("bytes"),
        "added": known.added(snapshot.id),
        "collections": snapshot.number("collections"),
        "records": snapshot.number("records"),
        "proven": catalog.proven(snapshot),
        "drilled": drill.ended if drill and not drill.problem else None,
        "drill_problem": drill.problem or None if drill else None,
    }


def _show(documents: list[dict[str, Any]]) -> None:
    hosts = {document["host"] for document in documents}
    table = Table(box=None, pad_edge=False)
    for name in (*_COLUMNS, *(("HOST",) if len(hosts) > 1 else ())):
        table.add_column(
            name, justify="right" if name in ("AGE", "SIZE", "ADDED", "COLLECTIONS", "RECORDS") else "left"
        )
    for document in documents:
        cells = [
            document["id"],
            document["created"],
            ui.age(document["created"]),
            _size(document["bytes"]),
            _size(document["added"]),
            _text(document["collections"]),
            _text(document["records"]),
            "yes" if document["proven"] else "no",
            "FAILED" if document["drill_problem"] else document["drilled"] or "",
        ]
        table.add_row(*map(escape, [*cells, *([document["host"]] if len(hosts) > 1 else [])]))
    ui.out.print(table)


def _size(count: int | None) -> str:
    return "" if count is None else human_bytes(count)


def _text(count: int | None) -> str:
    return "" if count is None else str(count)
