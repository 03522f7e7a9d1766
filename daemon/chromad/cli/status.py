"""chromactl status."""

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from types import MappingProxyType
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from chromad.backup import ledger
from chromad.checks import gateway, tokens
from chromad.checks.host import Host
from chromad.cli import rights, ui
from chromad.control import ask_collections, ask_status
from chromad.control.messages import (
    BackupReport,
    CheckpointReport,
    CollectionReport,
    EventReport,
    GatewayReport,
    ShrunkReport,
    StatusReport,
)
from chromad.errors import ChromadError, UsageProblem
from chromad.gateway.heard import SILENCE
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
    if watch and (json or settings.json):
        raise UsageProblem("--watch is for people, --json for programs", "give one of them")
    seen = {} if watch else _seen_by_root(settings)
    rights.become_owner(settings.config, strict=False)
    if watch:
        _watch(settings)
        return
    answer = _ask(settings)
    if json or settings.json:
        document = answer.document()
        # What the gateway says of itself, and what root sees of it
        told = {**(document.get("gateway") or {}), **seen}
        ui.print_json({**document, **({"gateway": told} if told else {})})
    else:
        ui.out.print(_screen(answer, seen))
    if answer.state != "serving":
        raise typer.Exit(NOT_SERVING)
    if answer.quarantined:
        raise typer.Exit(QUARANTINED)


def _seen_by_root(settings: ui.Settings) -> dict[str, str]:
    """What root alone can see of a gateway: by `certificate`, `gateway` and `tokens`, as doctor says it; nothing where there is none."""
    if os.geteuid() != 0:
        return {}
    host = Host(settings.config, settings.path)
    return {each.name: each.fact for each in (*gateway.check(host), *tokens.check(host)) if each.status != "skip"}


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


def _ask(settings: ui.Settings) -> StatusReport:
    socket = settings.config.control_socket
    report = ask_status(socket)
    if report is None:
        return _stopped(settings)
    if report.state == "serving":
        # It may stop just now, or be of an earlier version.
        with suppress(ChromadError):
            if found := ask_collections(socket):
                return report.model_copy(update=dict(found))
    return report


def _stopped(settings: ui.Settings) -> StatusReport:
    config = settings.config
    try:
        last = state.read(config.data_dir)
    except OSError:
        last = None
    return StatusReport(
        state="stopped",
        host=config.listen.host,
        port=config.listen.port,
        last_stop="none" if last is None else "clean" if last.clean else "unclean",
        backup=BackupReport.model_validate(ledger.summary(config.backup_dir)),
        data_dir=str(config.data_dir),
    )


def _screen(answer: StatusReport, seen: Mapping[str, str] = MappingProxyType({})) -> RenderableType:
    address = f"[{answer.host}]" if ":" in answer.host else answer.host
    style = "green" if answer.state == "serving" else "yellow"
    head = Text.assemble("chromadb ", (answer.state, style), f" on {address}:{answer.port}")
    parts: list[RenderableType] = [head, _facts(answer, seen)]
    if answer.largest:
        parts += ["", _collections(answer.largest, answer.collections)]
    if answer.events:
        parts += ["", _events(answer.events[-_EVENTS:])]
    return Group(*parts)


def _facts(answer: StatusReport, seen: Mapping[str, str]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    runs, disk, log, since = answer.pid > 0, answer.disk, answer.log, answer.since
    rows = {
        "since": f"{since} ({ui.age(since)})" if since else "",
        "collections": answer.collections if runs else "",
        "records": answer.records if runs else "",
        "left cold": ", ".join(answer.cold),
        "recovered": "; ".join(f"{each.collection} ({each.action}): {each.reason}" for each in answer.recovered),
        "in quarantine": ", ".join(answer.quarantined),
        "fenced": "; ".join(answer.fences.values()),
        "disk": "; ".join(filter(None, [disk.text, *disk.unreachable.values()])) if disk else "",
        "log": f"{human_bytes(log.bytes)} in {log.rows} rows" if log else "",
        "checkpoint": _checkpoint(answer.checkpoint) if runs else "",
        "without a checkpoint": "; ".join(f"{name}: {why}" for name, why in answer.unprotected.items()),
        "failing": "; ".join(f"{name}: {why}" for name, why in answer.threads.items() if why),
        "backup": _event(answer.backup.last_good, answer.backup.problem),
        "shrunk": _shrunk(answer.backup.shrunk),
        "drill": _event(answer.backup.drill, answer.backup.drill_problem),
        **_gateway(answer.gateway),
        **seen,
        "last stop": answer.last_stop,
        "data": answer.data_dir,
        "versions": f"chromad {answer.chromad_version}, Chroma {answer.engine_version}" if runs else "",
        "pids": f"daemon {answer.pid}, engine {answer.engine_pid}" if runs else "",
    }
    for name, value in rows.items():
        if value not in (None, ""):
            table.add_row(f"  {name}", Text(str(value)))
    return table


def _gateway(found: GatewayReport | None) -> dict[str, str]:
    """What it says of itself, for everybody."""
    if found is None:
        return {}
    silent = found.silent > SILENCE
    rows = {"gateway": f"it has told nothing of itself for {found.silent:.0f} s" if silent else "it runs"}
    if found.certificate_ends:
        rows["certificate"] = gateway.certificate(datetime.fromisoformat(found.certificate_ends)).fact
    if found.expiring:
        rows["tokens"] = (
            f"{found.expiring} of them {'expires' if found.expiring == 1 else 'expire'} soon or have expired"
        )
    return {**rows, "refused": gateway.refusals(found)}


def _collections(largest: list[CollectionReport], total: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("  collection", "records", "dimension", "vectors", "checkpoint"):
        table.add_column(title, justify="left" if title in ("  collection", "checkpoint") else "right")
    for each in largest:
        taken = f"{ui.age(each.checkpoint)} ago" if each.checkpoint else "none yet"
        size = human_bytes(each.bytes) if each.bytes else "in the log"
        table.add_row(Text(f"  {each.name}"), str(each.records), str(each.dimension or ""), size, taken)
    if total > len(largest):
        table.add_row(Text(f"  and {total - len(largest)} more", style="dim"))
    return table


def _events(events: list[EventReport]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for each in events:
        style = _STYLES.get(each.level, "")
        table.add_row(Text(f"  {each.time}", style="dim"), Text(each.text.partition("\n")[0], style=style))
    return table


def _checkpoint(found: CheckpointReport) -> str:
    newest = found.newest
    text = f"{newest} ({ui.age(newest)} ago)" if newest else "none"
    return f"{text}; FAILED: {found.error}" if found.error else text


def _shrunk(found: ShrunkReport | None) -> str:
    if not found:
        return ""
    return f"a backup has {found.to} records, the one before it, kept until {found.kept_until}, {found.before}"


def _event(last: str | None, wrong: str | None) -> str:
    """When something was done last, and what went wrong; empty before the first time."""
    parts = (f"{last} ({ui.age(last)} ago)" if last else "", f"FAILED: {wrong}" if wrong else "")
    return "; ".join(part for part in parts if part)
