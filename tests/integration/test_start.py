"""READY means warm; what was left cold is said."""

import os
import re
import signal
import sqlite3
from collections.abc import Iterator

import pytest
from chromad.chroma import sqlite

from tests.integration import records
from tests.integration.daemon import Daemon
from tests.integration.site import Site


@pytest.fixture(scope="module")
def _prepared() -> Iterator[Site]:
    site = Site()
    daemon = site.serve()
    client = daemon.client()
    for name, count in (("one", 30), ("two", 20), ("three", 10)):
        records.fill(client, name, count)
    records.create(client, "empty")
    daemon.stop()
    yield site
    site.remove()


@pytest.fixture
def filled(site: Site, _prepared: Site) -> Site:
    """Three collections with 30, 20 and 10 records, and an empty one; stopped."""
    site.copy_from(_prepared)
    return site


def cold(daemon: Daemon) -> dict[str, str]:
    found: dict[str, str] = daemon.status()["cold"]
    return found


def warmed(daemon: Daemon) -> list[str]:
    """The collections named in STATUS while they were warmed, in order."""
    named = (re.fullmatch(r"warming \d+/\d+: (.*)", text) for text in daemon.notify.statuses())
    return list(dict.fromkeys(match[1] for match in named if match))


def test_empty_directory(site: Site) -> None:
    daemon = site.serve()
    statuses = daemon.notify.statuses()
    assert statuses[0].startswith("starting Chroma ")
    assert statuses[-1] == f"serving 0 collections, 0 records on 127.0.0.1:{site.port}"
    assert not [text for text in statuses if "warming" in text]


def test_ready_after_warming(filled: Site) -> None:
    daemon = filled.serve()
    lines = daemon.notify.lines
    serving = f"STATUS=serving 4 collections, 60 records on 127.0.0.1:{filled.port}"
    assert lines.index("STATUS=warming 3 collections") < lines.index(serving) < lines.index("READY=1")
    assert not [line for line in lines[lines.index("READY=1") :] if "warming" in line]
    assert cold(daemon) == {}
    assert "left cold" not in daemon.log


def test_start_is_given_time(filled: Site) -> None:
    lines = filled.serve().notify.lines
    assert "EXTEND_TIMEOUT_USEC=60000000" in lines[: lines.index("READY=1")]


def test_last_written_collection_is_warmed_first(filled: Site) -> None:
    order = [collection.name for collection in sqlite.collections(filled.data)]
    assert order == ["three", "two", "one", "empty"]
    seen = warmed(filled.serve())
    assert seen == [name for name in order if name in seen]
    assert seen[0] == "three"


def test_warm_none(filled: Site) -> None:
    filled.configure({"warm.collections": "none"})
    daemon = filled.serve()
    assert cold(daemon) == dict.fromkeys(("one", "two", "three"), "not in warm.collections")
    assert not [text for text in daemon.notify.statuses() if "warming" in text]
    assert daemon.notify.statuses()[-1].endswith(", 3 left cold")
    assert re.search(r"WARNING left cold: .*two \(not in warm.collections\)", daemon.log)


def test_warm_names(filled: Site) -> None:
    filled.configure({"warm.collections": ["two"]})
    daemon = filled.serve()
    assert set(cold(daemon)) == {"one", "three"}
    assert "STATUS=warming 1 collections" in daemon.notify.lines


def test_name_of_no_collection_is_told(filled: Site) -> None:
    filled.configure({"warm.collections": ["two", "tow"]})
    assert "tow" in filled.serve().log


def test_warm_within_the_memory_budget(filled: Site) -> None:
    # A collection that no machine can hold: the plan looks at its dimension, and must not touch it.
    connection = sqlite3.connect(filled.data / sqlite.FILE)
    connection.execute("UPDATE collections SET dimension = 2000000000000 WHERE name = 'two'")
    connection.commit()
    connection.close()
    filled.configure({"warm.memory_percent": 1})
    daemon = filled.serve()
    assert list(cold(daemon)) == ["two"]
    assert re.search(
        r"left cold: two \(needs 145\.5 TiB of memory, [0-9.]+ [KMG]iB of the budget are left\)", daemon.log
    )
    assert "STATUS=warming 2 collections" in daemon.notify.lines


def test_warming_ends_with_its_time(site: Site) -> None:
    daemon = site.serve()
    # Never persisted, so that warming it means to build the whole index.
    records.fill(daemon.client(), "large", 3000, dimension=128, sync_threshold=100_000)
    daemon.stop()
    site.configure({"warm.timeout": "1s"})
    daemon = site.start()
    daemon.notify.wait_for("STATUS=warming ")
    engine = daemon.engine_pid
    os.kill(engine, signal.SIGSTOP)
    daemon.wait_for_log("warm.timeout was over")
    os.kill(engine, signal.SIGCONT)
    assert cold(daemon.ready()) == {"large": "warm.timeout was over"}
    daemon.stop()


def test_watchdog_is_fed(site: Site) -> None:
    daemon = site.serve({"WATCHDOG_USEC": "3000000"})
    daemon.wait_until_fed(5)
