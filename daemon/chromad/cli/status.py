"""chromactl status."""

from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from chromad.backup import ledger
from chromad.cli import ui
from chromad.control import ask
from chromad.store import state

NOT_SERVING = 3  # as systemctl status
QUARANTINED = 4


def run(context: typer.Context, json: ui.Json = False) -> None:
    """Show what the service does. Exits 0 when it serves, 3 when it does not, 4 when collections are in quarantine.

    Example: chromactl status --json | jq .records
    """
    settings = ui.settings(context)
    config = settings.config
    answer = ask(config.control_socket, "status") or _stopped(settings)
    if json or settings.json:
        ui.print_json(answer)
    else:
        _show(answer)
    if answer["state"] != "serving":
        raise typer.Exit(NOT_SERVING)
    if answer["quarantined"]:
        raise typer.Exit(QUARANTINED)


def _stopped(settings: ui.Settings) -> dict[str, Any]:
    config = settings.config
    try:
        last = state.read(config.data_dir)
    except OSError:
        last = None
    return {
        "state": "stopped",
        "host": config.listen.host,
        "port": config.listen.port,
        "last_stop": "none" if last is None else "clean" if last.clean else "unclean",
        "backup": ledger.summary(config.backup_dir),
        "data_dir": str(config.data_dir),
    }


def _show(answer: dict[str, Any]) -> None:
    address = f"[{answer['host']}]" if ":" in str(answer["host"]) else str(answer["host"])
    address = escape(f"{address}:{answer['port']}")
    style = "green" if answer["state"] == "serving" else "yellow"
    ui.out.print(f"chromadb [{style}]{answer['state']}[/] on {address}")
    table = Table(show_header=False, box=None, pad_edge=False)
    cold, fences, disk, checkpoint = (answer.get(key) or {} for key in ("cold", "fences", "disk", "checkpoint"))
    recovered = answer.get("recovered") or []
    rows = {
        "since": answer.get("since"),
        "collections": answer.get("collections"),
        "records": answer.get("records"),
        "left cold": ", ".join(cold),
        "recovered": "; ".join(f"{each['collection']} ({each['action']}): {each['reason']}" for each in recovered),
        "in quarantine": ", ".join(answer.get("quarantined") or []),
        "fenced": "; ".join(fences.values()),
        "disk": disk.get("text"),
        "checkpoint": f"{checkpoint['newest'] or 'none'} {checkpoint['error']}".strip() if checkpoint else None,
        "backup": _event("last_good", "problem", answer["backup"]),
        "drill": _event("drill", "drill_problem", answer["backup"]),
        "last stop": answer["last_stop"],
        "data": answer["data_dir"],
        "versions": f"chromad {answer['chromad_version']}, Chroma {answer['engine_version']}"
        if "pid" in answer
        else None,
        "pids": f"daemon {answer['pid']}, engine {answer['engine_pid']}" if "pid" in answer else None,
    }
    for name, value in rows.items():
        if value not in (None, ""):
            table.add_row(f"  {name}", escape(str(value)))
    ui.out.print(table)


def _event(when: str, problem: str, backup: dict[str, str | None]) -> str:
    """When something was done last, and what went wrong; empty before the first time."""
    time, wrong = backup[when], backup[problem]
    return "; ".join(
        part for part in (f"{time} ({ui.age(time)} ago)" if time else "", f"FAILED: {wrong}" if wrong else "") if part
    )
