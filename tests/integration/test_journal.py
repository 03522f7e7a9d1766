"""What reaches the journal: each line with its priority, the engine's troubles, no banner."""

import re
import sqlite3

import pytest
from chromadb.errors import InternalError

from tests.integration import records
from tests.integration.site import Site

UNDER_SYSTEMD = {"JOURNAL_STREAM": "8:12345"}


def test_every_line_has_a_priority(site: Site) -> None:
    daemon = site.serve(UNDER_SYSTEMD)
    daemon.stop()
    assert daemon.log
    assert not [line for line in daemon.log.splitlines() if not re.match(r"<[3-7]>\S", line)]


def test_banner_is_kept_out(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "some", 10)
    daemon.stop()
    assert not re.search(r"\(\(\(|####|Connect to Chroma|Saving data|docs.trychroma.com|persist_path|====", daemon.log)


@pytest.mark.parametrize(("environment", "beginning"), [(UNDER_SYSTEMD, "<3>engine: "), ({}, "ERROR   engine: ")])
def test_error_of_the_engine_is_told(site: Site, environment: dict[str, str], beginning: str) -> None:
    daemon = site.serve(environment)
    collection = records.create(daemon.client(), "fenced")
    connection = sqlite3.connect(site.data / "chroma.sqlite3")
    connection.execute(
        "CREATE TRIGGER fence BEFORE INSERT ON embeddings_queue BEGIN SELECT RAISE(ABORT, 'fenced off'); END"
    )
    connection.close()
    with pytest.raises(InternalError, match="fenced off"):
        records.upsert(collection, {"a": records.make("a")})
    daemon.wait_for_log("fenced off")
    assert [line for line in daemon.log.splitlines() if beginning in line and "fenced off" in line]


def test_refusal_has_priorities_too(site: Site) -> None:
    site.configure({"colour": "blue", "shape": "round"})
    daemon = site.start(UNDER_SYSTEMD)
    assert daemon.ended() == 78
    assert len(daemon.log.splitlines()) == 4
    assert all(line.startswith("<3>") for line in daemon.log.splitlines())
