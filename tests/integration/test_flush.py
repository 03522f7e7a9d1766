"""What a stop makes durable, seen through strace; and a client that never ends its request."""

import re
import shutil
import signal
import socket
import subprocess

import pytest

from tests.integration import raw_http, records
from tests.integration.account import BIN, until
from tests.integration.site import Site

IMPATIENT = """
import sys
from chromad.daemon import shutdown
from chromad.__main__ import main
sys.argv = sys.argv[1:]
shutdown.DRAIN_LIMIT = 2.0
main()
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_everything_is_synced_before_the_clean_mark(site: Site) -> None:
    daemon = site.serve()
    records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    trace = site.root / "trace"
    strace = subprocess.Popen(
        [
            "strace",
            "--decode-fds=path",
            "--trace=fsync,rename,renameat",
            f"--output={trace}",
            f"--attach={daemon.process.pid}",
        ],
        stderr=subprocess.DEVNULL,
    )
    until(trace.exists, "strace")
    until(lambda: strace.poll() is not None or "TracerPid:\t0" not in daemon.proc_status(), "strace to be attached")
    if strace.poll() is not None:
        pytest.skip("strace may not attach to processes here")
    daemon.stop()
    strace.wait()
    text = trace.read_text(encoding="utf-8")
    found = re.search(rf'renameat\(\d+<{site.data}>, "[^"]*", \d+<{site.data}>, "chromad.json"\)', text)
    assert found
    mark = found[0]
    synced = re.findall(r"fsync\(\d+<([^>]*)>\)", text.partition(mark)[0])
    unimportant = ("chromad.json", "chromad.lock", ".chromad-ballast")
    wanted = {str(path) for path in [site.data, *site.data.rglob("*")] if path.name not in unimportant}
    assert wanted <= set(synced)


def test_client_that_never_ends_its_request(site: Site) -> None:
    daemon = site.start(wrapper=[str(BIN / "python"), "-c", IMPATIENT]).ready()
    written = records.fill(daemon.client(), "kept", 150, sync_threshold=100)
    with socket.create_connection(("127.0.0.1", site.port)) as stalled:
        stalled.sendall(b"POST /api/v2/tenants HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        until(lambda: raw_http.has_read(stalled), "the engine to begin with the request")
        daemon.send(signal.SIGTERM)
        assert daemon.ended(30) == 0, daemon.log
    assert "requests are still in flight 2 s after SIGTERM; ending the engine between two writes" in daemon.log
    again = site.serve()
    assert "the last run stopped cleanly" in again.log
    records.assert_equal(again.client(), "kept", written)
