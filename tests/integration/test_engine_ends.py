"""An engine that dies, hangs, or loses its daemon."""

import os
import signal
import sqlite3

import pytest

from tests.integration import records
from tests.integration.account import alive, until
from tests.integration.site import Site


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "the engine was ended by signal 9 (SIGKILL)"),
        (signal.SIGTERM, "the engine exited with status 0"),
        (signal.SIGRTMIN + 1, f"the engine was ended by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_engine_that_dies_brings_the_daemon_down(site: Site, number: int, said: str) -> None:
    daemon = site.serve()
    os.kill(daemon.engine_pid, number)
    assert daemon.ended() == 1
    assert f"ERROR   {said}" in daemon.log
    assert "HINT: " in daemon.log
    assert "Traceback" not in daemon.log


def test_data_after_the_engine_was_killed(site: Site) -> None:
    daemon = site.serve()
    written = records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    os.kill(daemon.engine_pid, signal.SIGKILL)
    assert daemon.ended() == 1
    again = site.serve()
    assert "WARNING" in again.log
    assert "the last run did not stop cleanly, in this boot" in again.log
    assert again.status()["last_stop"] == "unclean"
    records.assert_equal(again.client(), "kept", written)


def test_unclean_stop_in_another_boot(site: Site) -> None:
    daemon = site.serve({"CHROMAD_BOOT_ID": "aaaa"})
    daemon.process.kill()
    daemon.process.wait()
    again = site.serve({"CHROMAD_BOOT_ID": "bbbb"})
    assert "the last run did not stop cleanly, in another boot" in again.log


def test_engine_that_hangs_brings_the_daemon_down_within_the_watchdog_time(site: Site) -> None:
    daemon = site.serve({"WATCHDOG_USEC": "4000000"})
    engine = daemon.engine_pid
    os.kill(engine, signal.SIGSTOP)
    assert daemon.ended(4) == 1
    assert "ERROR   the engine has not answered a read for" in daemon.log
    assert not alive(engine)
    assert "Traceback" not in daemon.log


def test_engine_that_pauses_for_a_moment_does_not(site: Site) -> None:
    daemon = site.serve({"WATCHDOG_USEC": "6000000"})
    engine = daemon.engine_pid
    os.kill(engine, signal.SIGSTOP)
    daemon.wait_for_log("the engine did not answer a read")
    os.kill(engine, signal.SIGCONT)
    # More than half of the time, which is the silence that it permits.
    daemon.wait_until_fed(6)
    daemon.stop()


def test_engine_ends_with_its_daemon(site: Site) -> None:
    daemon = site.serve()
    written = records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    engine = daemon.engine_pid
    daemon.process.kill()
    daemon.process.wait()
    until(lambda: not alive(engine), "the end of the engine", 10)
    again = site.serve()
    assert "the last run did not stop cleanly, in this boot" in again.log
    records.assert_equal(again.client(), "kept", written)


def test_engine_that_cannot_start(used: Site) -> None:
    connection = sqlite3.connect(used.data / "chroma.sqlite3")
    connection.execute("UPDATE migrations SET hash = 'x' WHERE version = 1")
    connection.commit()
    connection.close()
    daemon = used.start()
    assert daemon.ended(20) == 1
    assert "ERROR   engine: " in daemon.log
    assert "ERROR   the engine exited with status" in daemon.log
    assert "Traceback" not in daemon.log
