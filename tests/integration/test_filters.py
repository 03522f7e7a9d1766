"""Filters begin with their matches: the plans of the engine's own statements, after all that is done to a directory."""

import re
import sqlite3
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from time import sleep

import numpy as np
import pytest
from chromad import config as configuration
from chromad.backup import proof
from chromad.chroma import planner
from chromad.chroma.sqlite import FILE
from chromad.daemon.lifecycle import KEEP_INTERVAL
from chromad.engine.api import Api

from tests import statements
from tests.bench.servers import Stock
from tests.integration import holders, records
from tests.integration.account import until
from tests.integration.clients import connected
from tests.integration.daemon import Daemon
from tests.integration.plans import FAST, assert_fast, assert_indexed, filtering, is_fast, lacks, plan
from tests.integration.site import Site, free_port

GROWING = re.compile(
    r"SCAN (embeddings|embedding_metadata|embedding_metadata_array|embeddings_queue|segments|max_seq_id)\b"
)
RECORDS = 20_000


def stock(site: Site) -> None:
    """The directory of a stock server, with some records."""
    port = free_port()
    server = holders.stock_server(site, port)
    try:
        with connected(port) as client:
            records.fill(client, "stock", 20)
    finally:
        server.terminate()
        server.wait()


def test_stock_walks_all_records(site: Site, told: Mapping[str, list[str]]) -> None:
    """Else nothing below would show anything."""
    stock(site)
    for each, statement in filtering(told):
        assert FAST not in plan(site.data, statement), each


def test_no_statement_reads_all_there_is(site: Site, told: Mapping[str, list[str]]) -> None:
    """Of no route. LIKE with ESCAPE, as the engine writes it, makes no use of the full-text index."""
    site.serve().stop()
    for name, found in told.items():
        for statement in found:
            if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
                assert not GROWING.search(plan(site.data, statement)), f"{name}: {statement}"


def test_values_are_found_in_an_index_alone(site: Site, told: Mapping[str, list[str]]) -> None:
    site.serve().stop()
    for kind in sorted(statements.FILTERS):
        [statement] = [text for text in told[f"get {kind}"] if "SELECT DISTINCT" in text]
        found = plan(site.data, statement)
        searches = re.findall(r"SEARCH embedding_metadata\w* USING (\w+ INDEX|INDEX) \w+ \(key=\?", found)
        assert searches and set(searches) == {"COVERING INDEX"}, f"{kind}: {found}"


def test_pages_of_a_collection_come_in_order(site: Site, told: Mapping[str, list[str]]) -> None:
    """Without a walk over the whole collection to sort it."""
    site.serve().stop()
    for name in ("get some", "get not", "get contains not"):
        [statement] = [text for text in told[name] if "LIMIT" in text and '"segment_id" = ?' in text]
        found = plan(site.data, statement)
        assert "USING INDEX chromad_embeddings_segment (segment_id=?)" in found, name
        assert "FOR ORDER BY" not in found, name


@pytest.mark.parametrize("count", [1, 100, 10_000])
def test_records_are_found_by_their_ids(site: Site, told: Mapping[str, list[str]], count: int) -> None:
    site.serve().stop()
    [statement] = [text for text in told["get ids"] if "embedding_id" in text and "IN" in text]
    marks = ", ".join("?" * count)
    found = plan(site.data, re.sub(r'("embedding_id" IN) \([?, ]+\)', rf"\1 ({marks})", statement))
    assert "sqlite_autoindex_embeddings_1 (segment_id=? AND embedding_id=?)" in found


def test_first_start_restart_and_kill(site: Site, told: Mapping[str, list[str]]) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 20)
    assert_fast(site.data, told)
    assert_indexed(site.data)
    daemon.stop()
    assert_fast(site.data, told)
    daemon = site.serve()
    assert_fast(site.data, told)
    daemon.process.kill()
    daemon.process.wait()
    daemon.clear()
    site.serve()
    assert_fast(site.data, told)
    assert_indexed(site.data)


def test_what_somebody_did_is_put_right_by_a_restart(site: Site, told: Mapping[str, list[str]]) -> None:
    site.serve().stop()
    with closing(sqlite3.connect(site.data / FILE)) as connection:
        connection.execute("DROP INDEX embedding_metadata_int_value")
        connection.execute("CREATE INDEX embedding_metadata_int_value ON embedding_metadata (key, int_value)")
        connection.execute("ANALYZE")
        connection.execute("UPDATE sqlite_stat1 SET stat = '10 1 1' WHERE idx = 'sqlite_autoindex_embeddings_1'")
        connection.commit()
    site.serve().stop()
    assert_fast(site.data, told)
    assert_indexed(site.data)


def test_directory_of_a_stock_server(site: Site, told: Mapping[str, list[str]]) -> None:
    stock(site)
    site.serve().stop()
    assert_fast(site.data, told)
    assert_indexed(site.data)


def test_reset_by_a_client(site: Site, told: Mapping[str, list[str]]) -> None:
    site.configure({"engine.allow_reset": True})
    daemon = site.serve()
    daemon.client().reset()
    until(partial(is_fast, site.data, told), "the planner to be informed again", 15)
    records.fill(daemon.client(), "some", 20)
    assert_fast(site.data, told)


def test_reset_by_a_client_that_writes_at_once(site: Site, told: Mapping[str, list[str]]) -> None:
    site.configure({"engine.allow_reset": True})
    client = site.serve().client()
    client.reset()
    records.fill(client, "some", 100)
    until(partial(is_fast, site.data, told), "the planner to be informed again", 15)


def test_indexes_of_many_records_are_left_to_the_next_start(site: Site, told: Mapping[str, list[str]]) -> None:
    """Clients that write would wait for them, and systemd for a sign of life."""
    site.configure({"engine.allow_reset": True})
    daemon = site.serve()
    fill_many(daemon)
    with closing(sqlite3.connect(site.data / FILE, timeout=30)) as connection:
        connection.execute("DROP INDEX embedding_metadata_int_value")
    sleep(2 * KEEP_INTERVAL + 1)
    assert lacks(site.data) == ["embedding_metadata_int_value"]
    daemon.stop()
    site.serve()
    assert_indexed(site.data)
    assert_fast(site.data, told)


def test_compact(site: Site, told: Mapping[str, list[str]]) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 20)
    assert site.chromactl("compact").code == 0
    assert_fast(site.data, told)
    assert_indexed(site.data)


def test_adopted_copy(site: Site, told: Mapping[str, list[str]]) -> None:
    other = Site()
    try:
        stock(other)
        site.give_all(other.root)
        result = site.chromactl("adopt", str(other.data))
        assert result.code == 0, result.output
        assert_fast(site.data, told)
        assert_indexed(site.data)
        site.serve().stop()
        assert_fast(site.data, told)
    finally:
        other.remove()


def test_restored_directory_serves_fast_and_stock_can_have_it(site: Site, told: Mapping[str, list[str]]) -> None:
    site.make_repository()
    daemon = site.serve()
    held = records.fill(daemon.client(), "some", 20)
    site.backup()
    daemon.stop()
    target = site.root / "opened" / "data"
    target.parent.mkdir()
    site.give(target.parent)
    result = site.chromactl("restore", "--target", str(target))
    assert result.code == 0, result.output
    assert_fast(target, told)
    assert_indexed(target)
    with Stock(target.parent) as server, connected(server.port) as client:
        records.assert_equal(client, "some", held)
        collection = client.get_collection("some", embedding_function=None)
        assert len(collection.get(where={"version": 0})["ids"]) == len(held)
        client.delete_collection("some")
        records.fill(client, "other", 20)
    assert_fast(target, told)


def engine_aside(site: Site) -> AbstractContextManager[Api]:
    permitted = configuration.load(site.config).model_copy(update={"allow_root": True})
    return proof.scratch(permitted, site.data, lambda: None)


def test_engine_aside_is_informed_before_it_opens_the_file(site: Site, told: Mapping[str, list[str]]) -> None:
    """As for a proof, a drill and the trial of an upgrade. Statistics without indexes would make small collections slower."""
    site.serve().stop()
    with closing(sqlite3.connect(site.data / FILE)) as connection:
        connection.execute("DROP TABLE sqlite_stat1")
    with engine_aside(site):
        assert_fast(site.data, told)


def test_engine_aside_leaves_a_stock_directory_as_it_is(site: Site) -> None:
    stock(site)
    with (
        engine_aside(site),
        closing(sqlite3.connect(site.data / FILE)) as connection,
    ):
        assert not planner.is_informed(connection)


def test_doctor_tells_of_slow_filters(used: Site) -> None:
    with closing(sqlite3.connect(used.data / FILE)) as connection:
        connection.execute("DROP INDEX chromad_embedding_metadata_bool")
        connection.execute("DROP TABLE sqlite_stat1")
        connection.commit()
    found = {each["name"]: each for each in used.chromactl("doctor", "--json").json()}
    assert found["filters"]["status"] == "warn"
    assert "statistics and the indexes chromad_embedding_metadata_bool" in found["filters"]["fact"]


def fill_many(daemon: Daemon) -> None:
    """A collection of many records."""
    collection = records.create(daemon.client(), "many")
    for start in range(0, RECORDS, 1000):
        keys = range(start, start + 1000)
        collection.upsert(
            ids=[f"many-{key}" for key in keys],
            embeddings=np.array([[key, 1] for key in keys], dtype=np.float32),
            metadatas=[{"version": key} for key in keys],
        )


def bytes_read(pid: int) -> int:
    """What a process has read from files, from the page cache too."""
    text = Path(f"/proc/{pid}/io").read_text(encoding="ascii")
    return int(text.split("rchar:")[1].split()[0])


def cost(site: Site, pid: int, daemon: Daemon) -> int:
    """Bytes that the engine reads for one record of many, its cache being empty: another writer has seen to that."""
    collection = daemon.client().get_collection("many", embedding_function=None)
    collection.get(where={"version": 7})
    with closing(sqlite3.connect(site.data / FILE)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS stir (number INTEGER)")
        connection.execute("INSERT INTO stir VALUES (1)")
        connection.commit()
    before = bytes_read(pid)
    assert collection.get(where={"version": 7})["ids"] == ["many-7"]
    return bytes_read(pid) - before


def test_engine_does_as_planned(site: Site) -> None:
    """Its own SQLite, in what it reads, without a clock. What it has open takes notice when the planner is informed later."""
    daemon = site.serve()
    fill_many(daemon)
    fast = cost(site, daemon.engine_pid, daemon)
    daemon.stop()
    daemon = site.serve()
    again = cost(site, daemon.engine_pid, daemon)
    with closing(sqlite3.connect(site.data / FILE)) as connection:
        connection.execute("DELETE FROM sqlite_stat1")
        connection.execute("DROP INDEX chromad_embeddings_segment")
        connection.commit()
    slow = cost(site, daemon.engine_pid, daemon)
    assert max(fast, again) * 3 < slow, (fast, again, slow)
