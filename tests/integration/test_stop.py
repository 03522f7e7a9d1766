"""SIGTERM and SIGINT: what is in flight finishes, all is flushed, the stop is marked clean."""

import http.client
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from chromad import versions

from tests.integration import raw_http, records
from tests.integration.account import until
from tests.integration.site import Site

STARTING = "STATUS=starting "
WARMING = "STATUS=warming "


def mark(site: Site) -> dict[str, Any]:
    """What chromad.json says."""
    found: dict[str, Any] = json.loads((site.data / "chromad.json").read_text(encoding="utf-8"))
    return found


def kernel_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clean_stop(site: Site, number: int) -> None:
    daemon = site.serve()
    written = records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    assert mark(site)["clean"] is False
    daemon.stop(number)
    found = mark(site)
    assert (found["clean"], found["boot_id"], found["engine_version"]) == (True, kernel_boot_id(), versions.engine())
    wal = site.data / "chroma.sqlite3-wal"
    assert not wal.exists() or wal.stat().st_size == 0
    assert not site.control.exists()
    again = site.serve()
    assert "the last run stopped cleanly" in again.log
    assert again.status()["last_stop"] == "clean"
    records.assert_equal(again.client(), "kept", written)


def test_supervisor_is_told(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "kept", 10)
    daemon.stop()
    lines = daemon.notify.lines
    stopping = lines.index("STOPPING=1")
    assert "EXTEND_TIMEOUT_USEC=60000000" in lines[stopping:]
    assert "STATUS=stopping: flushing to disk" in lines[stopping:]
    assert lines[-1] == "STATUS=stopped cleanly"
    assert "WATCHDOG=1" not in lines[stopping:]


def test_boot_id_given_by_the_unit(site: Site) -> None:
    site.serve({"CHROMAD_BOOT_ID": "0123-4567"}).stop()
    assert mark(site)["boot_id"] == "01234567"


def test_request_in_flight_finishes_whatever_signals_come(site: Site) -> None:
    daemon = site.serve()
    collection = records.create(daemon.client(), "kept")
    record = records.make("late")
    path = f"/api/v2/tenants/default_tenant/databases/default_database/collections/{collection.id}/add"
    body = json.dumps(
        {
            "ids": ["late"],
            "embeddings": [record.vector],
            "documents": [record.document],
            "metadatas": [{"version": record.version}],
        }
    ).encode()
    connection = http.client.HTTPConnection("127.0.0.1", site.port)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:10])
    until(lambda: raw_http.has_read(connection.sock), "the engine to begin with the request")
    daemon.send(signal.SIGTERM)
    daemon.notify.wait_for("STOPPING=1")
    daemon.send(signal.SIGTERM)
    daemon.send(signal.SIGINT)
    daemon.send(signal.SIGHUP)
    # Ticks go on, so it waits for us.
    ticks = daemon.notify.lines.count("EXTEND_TIMEOUT_USEC=60000000")
    until(lambda: daemon.notify.lines.count("EXTEND_TIMEOUT_USEC=60000000") > ticks + 2, "progress of the stop")
    assert daemon.process.poll() is None
    connection.send(body[10:])
    assert connection.getresponse().status == 201
    assert daemon.ended() == 0
    assert mark(site)["clean"] is True
    records.assert_equal(site.serve().client(), "kept", {"late": record})


def test_engine_that_is_killed_while_it_drains(site: Site) -> None:
    """What was acknowledged is in the log; but this stop tells nobody to trust the files."""
    daemon = site.serve()
    written = records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    collection = daemon.client().get_collection("kept", embedding_function=None)
    path = f"/api/v2/tenants/default_tenant/databases/default_database/collections/{collection.id}/add"
    connection = http.client.HTTPConnection("127.0.0.1", site.port)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"{")
    until(lambda: raw_http.has_read(connection.sock), "the engine to begin with the request")
    engine = daemon.engine_pid
    daemon.send(signal.SIGTERM)
    daemon.notify.wait_for("STOPPING=1")
    os.kill(engine, signal.SIGKILL)
    assert daemon.ended() == 1
    connection.close()
    assert mark(site)["clean"] is False
    daemon = site.serve()
    assert daemon.status()["last_stop"] == "unclean"
    records.assert_equal(daemon.client(), "kept", written)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_while_starting(site: Site, number: int) -> None:
    daemon = site.start()
    daemon.notify.wait_for(STARTING)
    daemon.stop(number)
    assert mark(site)["clean"] is True
    assert "READY=1" not in daemon.notify.lines


@pytest.mark.parametrize("moment", [STARTING, WARMING])
def test_stop_of_a_start_on_data(site: Site, moment: str) -> None:
    daemon = site.serve()
    written = records.fill(daemon.client(), "kept", 900)
    daemon.stop()
    daemon = site.start()
    daemon.notify.wait_for(moment)
    daemon.stop()
    assert mark(site)["clean"] is True
    records.assert_equal(site.serve().client(), "kept", written)


def test_no_traceback_when_interrupted_at_once(site: Site) -> None:
    daemon = site.start()
    # The configuration's module is loaded, signal handlers are still to come.
    until(lambda: "_pydantic_core" in Path(f"/proc/{daemon.process.pid}/maps").read_text(), "the first imports")
    daemon.send(signal.SIGINT)
    daemon.ended()
    assert "Traceback" not in daemon.log


def test_idle_connections_do_not_delay_the_stop(site: Site) -> None:
    daemon = site.serve()
    silent = http.client.HTTPConnection("127.0.0.1", site.port)
    silent.connect()
    kept = http.client.HTTPConnection("127.0.0.1", site.port)
    kept.request("GET", "/api/v2/heartbeat")
    kept.getresponse().read()
    daemon.send(signal.SIGTERM)
    assert daemon.ended(20) == 0
