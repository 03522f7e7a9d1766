"""Somebody else on the directory or on the port is named, and nothing is touched."""

import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.integration import holders
from tests.integration.account import current
from tests.integration.site import Site, free_port

STOP_IT = "stop it"


def test_second_daemon(site: Site) -> None:
    first = site.serve()
    site.configure(
        {"listen.port": free_port(), "metrics.port": free_port(), "control_socket": f"{site.run}/second.sock"}
    )
    fact = f"{site.data} is in use for writing by pid {first.process.pid} ("
    site.assert_refused(75, fact, STOP_IT)
    assert "chromad --config" in site.refused().output
    assert first.status()["state"] == "serving"
    first.stop()


def test_second_daemon_with_the_same_configuration(site: Site) -> None:
    first = site.serve()
    site.assert_refused(75, f"in use for writing by pid {first.process.pid} (", STOP_IT)
    assert first.status()["state"] == "serving"


def test_second_daemon_on_the_same_control_socket(site: Site) -> None:
    first = site.serve()
    other = site.root / "other"
    shutil.copytree(site.data, other, ignore=shutil.ignore_patterns("*"))
    os.chown(other, site.account.uid, site.account.gid)
    site.configure({"data_dir": str(other), "listen.port": free_port(), "metrics.port": free_port()})
    site.configure({"checkpoint_dir": str(other.with_name("checkpoints-of-other"))})
    site.assert_refused(75, str(site.control), "control_socket")
    assert first.status()["pid"] == first.process.pid


def test_engine_that_outlived_its_daemon(site: Site) -> None:
    first = site.serve()
    engine = first.engine_pid
    os.kill(engine, signal.SIGSTOP)
    first.process.kill()
    first.process.wait()
    try:
        site.assert_refused(75, f"pid {engine} (", STOP_IT)
    finally:
        os.kill(engine, signal.SIGKILL)


def test_stock_server(site: Site) -> None:
    server = holders.stock_server(site, free_port())
    site.assert_refused(75, f"chroma.sqlite3 is open in pid {server.pid} (", STOP_IT)
    assert "chroma run --path" in site.refused().output


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_connection_of_the_same_user(used: Site, mode: str) -> None:
    holder = holders.sqlite_connection(used, f"PRAGMA journal_mode={mode}", "SELECT 1 FROM collections")
    used.assert_refused(75, f"chroma.sqlite3 is open in pid {holder.pid} (", STOP_IT)


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_connection_that_keeps_the_database_locked(used: Site, mode: str) -> None:
    holder = holders.sqlite_connection(
        used, f"PRAGMA journal_mode={mode}", "PRAGMA locking_mode=EXCLUSIVE", "BEGIN EXCLUSIVE"
    )
    used.assert_refused(75, f"chroma.sqlite3 is open in pid {holder.pid} (", STOP_IT)


@pytest.mark.root
def test_hidden_connection_of_another_user(used: Site) -> None:
    holder = holders.sqlite_connection(used, "SELECT 1 FROM collections", account=current())
    used.assert_refused(75, f"chroma.sqlite3 is open in pid {holder.pid} (", STOP_IT)


@pytest.mark.root
def test_connection_from_another_container(site: Site) -> None:
    """The lock says that somebody has the file open; the process has no pid in our namespace."""
    os.chown(site.data, 0, 0)
    site.configure({"allow_root": True})
    site.start(account=current()).ready().stop()
    holders.sqlite_connection(site, "SELECT 1 FROM collections", account=current())
    daemon = site.start(account=current(), wrapper=["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
    assert daemon.ended(20) == 75
    assert "chroma.sqlite3 is open in" in daemon.log


def test_port_of_the_same_user(site: Site) -> None:
    holder = holders.port(site)
    site.assert_refused(75, f"127.0.0.1:{site.port} is taken by pid {holder.pid} (", "choose another listen.port")


@pytest.mark.root
def test_port_of_another_user(site: Site) -> None:
    holders.port(site, account=current())
    site.assert_refused(75, f"127.0.0.1:{site.port} is taken by a process of uid 0", "choose another listen.port")


@pytest.mark.root
def test_privileged_port(site: Site) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="ascii")) <= 987:
        pytest.skip("ports below 1024 are not privileged here")
    site.configure({"listen.port": 987})
    site.assert_refused(77, f"{site.account.name} may not listen on 127.0.0.1:987", "1024 or above")


def test_data_of_a_newer_engine(used: Site) -> None:
    state = used.data / "chromad.json"
    state.write_text(state.read_text(encoding="utf-8").replace('"1.5.9"', '"99.0.0"'), encoding="utf-8")
    used.assert_refused(78, "was last written by Chroma 99.0.0; the installed engine is 1.5.9", "install Chroma 99.0.0")


@pytest.mark.parametrize("kind", ["metadb", "newdb"])
def test_migration_of_a_newer_engine(used: Site, kind: str) -> None:
    connection = sqlite3.connect(used.data / "chroma.sqlite3")
    connection.execute("INSERT INTO migrations VALUES (?, 99, '00099-future.sqlite.sql', '', '')", (kind,))
    connection.commit()
    connection.close()
    used.assert_refused(78, f"does not know: {kind}/00099-future.sqlite.sql", "install Chroma")


@pytest.mark.parametrize("content", ["", "{}", '{"format": "1", "engine_version": 5}'])
def test_damaged_state(used: Site, content: str) -> None:
    (used.data / "chromad.json").write_text(content, encoding="utf-8")
    used.assert_refused(78, "chromad.json is damaged", "move it aside")


def test_not_a_database(site: Site) -> None:
    (site.data / "chroma.sqlite3").write_bytes(b"not a database" * 1000)
    os.chown(site.data / "chroma.sqlite3", site.account.uid, site.account.gid)
    site.assert_refused(1, "chroma.sqlite3: file is not a database", "is it a Chroma database")
