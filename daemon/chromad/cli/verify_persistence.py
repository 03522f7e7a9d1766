"""chromactl verify-persistence."""

import secrets
import time
from typing import Any

import typer

from chromad import service
from chromad.api import Api
from chromad.cli import ui
from chromad.control import ask
from chromad.errors import ChromadError, TryAgain

# Exact as 32-bit floats, so that they come back as they went in.
_EMBEDDING = [0.5, -0.25, 0.125]


def run(context: typer.Context, json: ui.Json = False) -> None:
    """Write a record, restart the service, read the record back, remove it. Clients see one restart.

    Example: sudo chromactl verify-persistence
    """
    settings = ui.settings(context)
    config = settings.config
    running = ask(config.control_socket, "status")
    if running is None or running["state"] != "serving":
        raise TryAgain("the service is not serving", "systemctl start chromadb")
    if not running["supervised"]:
        raise TryAgain(
            "chromad runs outside systemd, which is to restart it", "use this on a host where chromadb.service runs"
        )
    service.need_root("restart")
    api = Api(config.listen)
    name = f"chromad-verify-{secrets.token_hex(8)}"
    record: dict[str, Any] = {
        "id": "record",
        "embedding": _EMBEDDING,
        "document": f"written by {name}",
        "metadata": {"check": name},
    }
    collection = api.create_collection(name)
    api.add(collection, record)
    started = time.monotonic()
    service.control("restart")
    seconds = time.monotonic() - started
    found = api.get(collection, record["id"])
    if found != record:
        raise ChromadError(
            f"the record did not survive the restart: wrote {record}, read {found}",
            f"look at journalctl -u chromadb; the collection {name} is left for you to look at",
        )
    api.delete_collection(name)
    if json or settings.json:
        ui.print_json({"survived": True, "restart_seconds": round(seconds, 3)})
    else:
        ui.out.print(f"a record written before the restart was read back after it; the restart took {seconds:.1f} s")
