"""chromactl status."""

import signal
import time
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chromad.backup import ledger
from chromad.cli import rights, ui
from chromad.control import ask
from chromad.errors import ChromadError, UsageProblem
from chromad.host import signals, streams
from chromad.logs.lines import human_bytes
from chromad.store import state

NOT_SERVING = 3  # as systemctl status
QUARANTINED = 4
_INTERVAL = 2.0  # seconds
_EVENTS = 8
_STYLES = {"error": "red", "warning": "yellow"}


def run(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every two seconds, until Ctrl-C.")] = False,
    json: ui.Json = False,
) -> None:
    """Show what the service does. Exits 0 when it serves, 3 when it does not, 4 when collections are in quarantine.

    Example: chromactl status --json | jq .records
    """
    settings = ui.settings(context)
    rights.become_owner(settings.config, strict=False)
    if watch and (json or settings.json):
        raise UsageProblem("--watch is for people, --json for programs", "give one of them")
    if watch:
        _watch(settings)
        return
    answer = _ask(settings)
    if json or settings.json:
        ui.print_json(answer)
    else:
        ui.out.print(_screen(answer))
    if answer["state"] != "serving":
        raise typer.Exit(NOT_SERVING)
    if answer["quarantined"]:
        raise typer.Exit(QUARANTINED)


def _watch(settings: ui.Settings) -> None:
    if not ui.out.is_terminal:
        raise UsageProblem("--watch needs a terminal", "chromactl status --json suits programs")
    try:
        with Live(_screen(_ask(settings)), console=ui.out, auto_refresh=False) as live:
            while not streams.lost():
                time.sleep(_INTERVAL)
                live.update(_screen(_ask(settings)), refresh=True)
    except signals.Interrupted as interrupted:
        if interrupted.number != signal.SIGINT:
            raise


def _ask(settings: ui.Settings) -> dict[str, Any]:
    socket = settings.config.control_socket
    answer: dict[str, Any] | None = ask(socket, "status")
    if answer is None:
        return _stopped(settings)
    if answer["state"] == "serving":
        try:
            answer |= ask(socket, "collections") or {}
        except ChromadError:
            # It stops just now, or is of an earlier version.
            return answer
    return answer


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


def _screen(answer: dict[str, Any]) -> RenderableType:
    address = f"[{answer['host']}]" if ":" in str(answer["host"]) else str(answer["host"])
    style = "green" if answer["state"] == "serving" else "yellow"
    head = Text.assemble("chromadb ", (answer["state"], style), f" on {address}:{answer['port']}")
    parts: list[RenderableType] = [head, _facts(answer)]
    if answer.get("largest"):
        parts += ["", _collections(answer["largest"], answer["collections"])]
    if answer.get("events"):
        parts += ["", _events(answer["events"][-_EVENTS:])]
    return Group(*parts)


def _facts(answer: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    cold, fences, disk, checkpoint = (answer.get(key) or {} for key in ("cold", "fences", "disk", "checkpoint"))
    recovered, log, since = answer.get("recovered") or [], answer.get("log"), answer.get("since")
    rows = {
        "since": f"{since} ({ui.age(since)})" if since else "",
        "collections": answer.get("collections"),
        "records": answer.get("records"),
        "left cold": ", ".join(cold),
        "recovered": "; ".join(f"{each['collection']} ({each['action']}): {each['reason']}" for each in recovered),
        "in quarantine": ", ".join(answer.get("quarantined") or []),
        "fenced": "; ".join(fences.values()),
        "disk": "; ".join(filter(None, [disk.get("text"), *(disk.get("unreachable") or {}).values()])),
        "log": f"{human_bytes(log['bytes'])} in {log['rows']} rows" if log else "",
        "checkpoint": _checkpoint(checkpoint) if checkpoint else "",
        "without a checkpoint": "; ".join(f"{name}: {why}" for name, why in (answer.get("unprotected") or {}).items()),
        "failing": "; ".join(f"{name}: {why}" for name, why in (answer.get("threads") or {}).items() if why),
        "backup": _event("last_good", "problem", answer["backup"]),
        "shrunk": _shrunk(answer["backup"].get("shrunk")),
        "drill": _event("drill", "drill_problem", answer["backup"]),
        "last stop": answer["last_stop"],
        "data": answer["data_dir"],
        "versions": f"chromad {answer['chromad_version']}, Chroma {answer['engine_version']}"
        if "pid" in answer
        else "",
        "pids": f"daemon {answer['pid']}, engine {answer['engine_pid']}" if "pid" in answer else "",
    }
    for name, value in rows.items():
        if value not in (None, ""):
            table.add_row(f"  {name}", Text(str(value)))
    return table


def _collections(largest: list[dict[str, Any]], total: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("  collection", "records", "dimension", "vectors", "checkpoint"):
        table.add_column(title, justify="left" if title in ("  collection", "checkpoint") else "right")
    for each in largest:
        taken = f"{ui.age(each['checkpoint'])} ago" if each["checkpoint"] else "none yet"
        size = human_bytes(each["bytes"]) if each["bytes"] else "in the log"
        table.add_row(Text(f"  {each['name']}"), str(each["records"]), str(each["dimension"] or ""), size, taken)
    if total > len(largest):
        table.add_row(Text(f"  and {total - len(largest)} more", style="dim"))
    return table


def _events(events: list[dict[str, str]]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for each in events:
        style = _STYLES.get(each["level"], "")
        table.add_row(Text(f"  {each['time']}", style="dim"), Text(each["text"].partition("\n")[0], style=style))
    return table


def _checkpoint(found: dict[str, str]) -> str:
    newest = found["newest"]
    text = f"{newest} ({ui.age(newest)} ago)" if newest else "none"
    return f"{text}; FAILED: {found['error']}" if found["error"] else text


def _shrunk(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    return f"a backup has {found['to']} records, the one before it, kept until {found['kept_until']}, {found['from']}"


def _event(when: str, problem: str, backup: dict[str, Any]) -> str:
    """When something was done last, and what went wrong; empty before the first time."""
    last, wrong = backup[when], backup[problem]
    parts = (f"{last} ({ui.age(last)} ago)" if last else "", f"FAILED: {wrong}" if wrong else "")
    return "; ".join(part for part in parts if part)
