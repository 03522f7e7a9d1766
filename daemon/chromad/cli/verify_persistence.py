"""chromactl verify-persistence."""

import re
import secrets
import sqlite3
import time
from contextlib import suppress
from typing import Any

import typer

from chromad.backup import workspace
from chromad.chroma import sqlite
from chromad.cli import rights, ui
from chromad.config import Config
from chromad.control import ask, ask_status
from chromad.control.messages import StatusReport
from chromad.engine import ways
from chromad.engine.api import DEFAULT_DATABASE, DEFAULT_TENANT, Api
from chromad.errors import ChromadError, EngineError, NotFound, TryAgain
from chromad.host import service, signals
from chromad.logs.lines import log as journal
from chromad.store import fence, lock

# Exact as 32-bit floats, so that they come back as they went in.
_EMBEDDING = [0.5, -0.25, 0.125]
_RECORD = "record"
_NAME = re.compile(r"chromad-verify-[0-9a-f]{16}")


def run(context: typer.Context, json: ui.Json = False) -> None:
    """Write a record, restart the service, read the record back, remove it. Clients see one restart.

    Example: sudo chromactl verify-persistence
    """
    settings = ui.settings(context)
    rights.become_owner(settings.config, strict=False)
    config = settings.config
    fence.need_none(_serving(config).fences, "nothing can be tried")
    service.need_root("restart")
    workspace.prepare(config)
    # No backup is to have the record, and two of us would take away each other's.
    with lock.backup_lock(config.backup_dir):
        api = Api(ways.of_service(config))
        _take_away_older(config, api)
        seconds = _try(config, api)
    signals.finished()
    if json or settings.json:
        ui.print_json({"survived": True, "restart_seconds": round(seconds, 3)})
    else:
        ui.out.print(f"a record written before the restart was read back after it; the restart took {seconds:.1f} s")


def _serving(config: Config) -> StatusReport:
    """The status of a service that can be tried. Raises TryAgain when it cannot."""
    running = ask_status(config.control_socket)
    if running is None or running.state != "serving":
        raise TryAgain("the service is not serving", "systemctl start chromadb")
    if not running.supervised:
        raise TryAgain(
            "chromad runs outside systemd, which is to restart it", "use this on a host where chromadb.service runs"
        )
    return running


def _try(config: Config, api: Api) -> float:
    """Writes a record, restarts the service, reads it back; gives the seconds of the restart. Nothing is left of it."""
    name = f"chromad-verify-{secrets.token_hex(8)}"
    record = _record(name)
    try:
        collection = api.create_collection(name)
        api.add(collection, record)
        started = time.monotonic()
        service.control("restart")
        seconds = time.monotonic() - started
        if (found := api.get(collection, _RECORD)) != record:
            raise ChromadError(
                f"the record did not survive the restart: wrote {record}, read {found}", "journalctl -u chromadb"
            )
    except signals.Interrupted as interrupted:
        interrupted.done = _take_away(config, api, name) or "what it had written is removed"
        raise
    except (EngineError, OSError) as error:
        left = _take_away(config, api, name)
        try:
            fence.need_none(_serving(config).fences, "nothing can be tried")
        except TryAgain as why:
            raise TryAgain(_with(why.message, left), why.hint) from error
        raise ChromadError(_with(f"the record could not be tried: {error}", left), "journalctl -u chromadb") from error
    except ChromadError as error:
        left = _take_away(config, api, name)
        raise ChromadError(_with(error.message, left), error.hint) from error
    if left := _take_away(config, api, name):
        raise ChromadError(f"the record survived the restart, but {left}", "journalctl -u chromadb")
    return seconds


def _with(message: str, left: str) -> str:
    return f"{message}; and {left}" if left else message


def _record(name: str) -> dict[str, Any]:
    return {
        "id": _RECORD,
        "embedding": _EMBEDDING,
        "document": f"written by {name}",
        "metadata": {"check": name},
    }


def _take_away(config: Config, api: Api, name: str) -> str:
    """Deletes a collection, and has the service clear its files away; says why that could not be done."""
    with signals.deferred():
        try:
            api.delete_collection(name)
        except NotFound:
            return ""
        except (EngineError, OSError) as error:
            return f"its collection {name} could not be removed ({error}); the next run removes it"
        with suppress(ChromadError):
            # It goes on with that when it takes longer; nobody can interrupt us here.
            ask(config.control_socket, "checkpoint")
    return ""


def _take_away_older(config: Config, api: Api) -> None:
    """Removes what was left by runs that were killed: collections of that name, with our record or none."""
    try:
        found = sqlite.collections(config.data_dir, counted=False)
    except sqlite3.Error:
        return
    for each in found:
        place = (each.tenant, each.database)
        if place != (DEFAULT_TENANT, DEFAULT_DATABASE) or not _NAME.fullmatch(each.name):
            continue
        try:
            held = api.count(*place, each.id)
            ours = held == 0 or (held == 1 and api.get(each.id, _RECORD) == _record(each.name))
        except (EngineError, OSError):
            ours = False
        if ours:
            _take_away(config, api, each.name)
        else:
            journal.warning("the collection %s has a name of ours, but not our record; it stays", each.name)
