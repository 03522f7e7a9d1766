"""Other processes that are in the daemon's way."""

import socket
import subprocess
from pathlib import Path

from tests.integration.account import BIN, Account, until
from tests.integration.site import Site

_HOLD_DATABASE = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
print("open", flush=True)
time.sleep(3600)
"""

_HOLD_PORT = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("open", flush=True)
time.sleep(3600)
"""


def sqlite_connection(site: Site, *statements: str, account: Account | None = None) -> subprocess.Popen[bytes]:
    """A process with the database open, after running these statements."""
    return _announced(site, _HOLD_DATABASE, [site.data / "chroma.sqlite3", *statements], account)


def port(site: Site, account: Account | None = None) -> subprocess.Popen[bytes]:
    """A process that listens on the site's port."""
    return _announced(site, _HOLD_PORT, [str(site.port)], account)


def stock_server(site: Site, port: int) -> subprocess.Popen[bytes]:
    """`chroma run` on the same data, serving."""
    process = site.spawn(
        [BIN / "chroma", "run", "--path", site.data, "--port", str(port)], environment={"HOME": str(site.run)}
    )
    until(lambda: _listens(port), "chroma run")
    return process


def _announced(site: Site, script: str, words: list[str | Path], account: Account | None) -> subprocess.Popen[bytes]:
    process = site.spawn([BIN / "python", "-c", script, *words], account)
    assert process.stdout
    assert process.stdout.readline() == b"open\n"
    return process


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
