"""What chromad makes of Chroma's database, and keeps true."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from chromad.chroma import sqlite
from chromad.config import Listen
from chromad.engine.api import Api
from chromadb.errors import InternalError

from tests.integration import holders, records
from tests.integration.account import BIN, until
from tests.integration.site import Site, free_port

KEEPS_ALL_THE_TIME = """
import sys
from chromad.daemon import lifecycle
from chromad.__main__ import main
sys.argv = sys.argv[1:]
lifecycle.KEEP_INTERVAL = 0.0
main()
"""


def ask(site: Site, statement: str) -> list[Any]:
    connection = sqlite3.connect(site.data / sqlite.FILE)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def keeps_log(site: Site) -> bool:
    [(text,)] = ask(site, "SELECT config_json_str FROM embeddings_queue_config")
    return json.loads(text)["automatically_purge"] is False


def has_log_index(site: Site) -> bool:
    indexes = [row[1] for row in ask(site, "PRAGMA index_list(embeddings_queue)")]
    columns = [[row[2] for row in ask(site, f"PRAGMA index_info({name})")] for name in indexes]
    return ["topic", "seq_id"] in columns


def test_first_start(site: Site) -> None:
    site.serve()
    assert keeps_log(site)
    assert has_log_index(site)
    assert ask(site, "PRAGMA journal_mode") == [("wal",)]


def test_log_is_kept_beyond_a_persist(site: Site) -> None:
    records.fill(site.serve().client(), "some", 300, sync_threshold=100)
    assert ask(site, "SELECT count(*) FROM embeddings_queue") == [(300,)]


def test_directory_of_a_stock_server_is_taken_over(site: Site) -> None:
    port = free_port()
    server = holders.stock_server(site, port)
    api = Api(Listen(port=port))
    record = {"id": "a", "embedding": [0.5, 0.25], "document": "text", "metadata": {"key": "value"}}
    collection = api.create_collection("stock")
    api.add(collection, record)
    server.terminate()
    server.wait()
    assert not keeps_log(site)
    site.serve()
    assert keeps_log(site)
    assert has_log_index(site)
    assert ask(site, "PRAGMA journal_mode") == [("wal",)]
    assert Api(Listen(port=site.port)).get(collection, "a") == record


def test_reset_by_a_client_does_not_undo_it(site: Site) -> None:
    site.configure({"engine.allow_reset": True})
    daemon = site.serve()
    daemon.client().reset()
    until(lambda: keeps_log(site) and has_log_index(site), "the log to be kept again", 10)
    assert daemon.process.poll() is None


def test_service_lives_through_many_resets(site: Site) -> None:
    site.configure({"engine.allow_reset": True})
    wrapper = [str(BIN / "python"), "-c", KEEPS_ALL_THE_TIME]
    daemon = site.start({"WATCHDOG_USEC": "3000000"}, wrapper=wrapper).ready()
    client = daemon.client()
    for _ in range(150):
        try:
            client.reset()
        except InternalError as error:
            # The engine answers so at once when it wants to write after it has read, and another writer is at work.
            assert "database is locked" in str(error)
    daemon.stop()


def test_migrations_are_those_we_know(site: Site) -> None:
    """Fails when an engine upgrade brings migrations that MIGRATIONS does not list."""
    site.serve()
    assert dict(ask(site, "SELECT dir, max(version) FROM migrations GROUP BY dir")) == sqlite.MIGRATIONS


def test_tables_are_those_we_know(site: Site) -> None:
    site.serve()
    sqlite.check_schema(site.data)


@pytest.mark.parametrize("statement", ["ALTER TABLE max_seq_id RENAME COLUMN seq_id TO sequence"])
def test_unknown_schema_is_refused(used: Site, statement: str) -> None:
    ask(used, statement)
    result = used.refused()
    assert result.code == 78
    assert "the table max_seq_id has no seq_id" in result.output
    assert "Traceback" not in result.output


def test_environment_does_not_reach_the_engine(site: Site) -> None:
    daemon = site.serve({"CHROMA_PORT": str(free_port()), "CHROMA_PERSIST_PATH": str(site.root / "elsewhere")})
    environment = Path(f"/proc/{daemon.engine_pid}/environ").read_bytes()
    assert b"CHROMA" not in environment
    assert b"NOTIFY_SOCKET" not in environment
    assert daemon.client().heartbeat() > 0
    assert not (site.root / "elsewhere").exists()


def test_service_lives_without_the_default_database(site: Site) -> None:
    daemon = site.serve({"WATCHDOG_USEC": "3000000"})
    Api(Listen(port=site.port)).request("DELETE", "tenants/default_tenant/databases/default_database")
    daemon.wait_until_fed(8)
    # A busy machine may be late; it must not be told that there is nothing to read.
    assert not [line for line in daemon.log.splitlines() if "did not answer" in line and "timed out" not in line]
    daemon.stop()
    site.serve().stop()


def test_files_are_private(site: Site) -> None:
    records.fill(site.serve().client(), "some", 20, sync_threshold=10)
    modes = {path.name: path.stat().st_mode & 0o777 for path in site.data.rglob("*")}
    assert not [name for name, mode in modes.items() if mode & 0o007]
