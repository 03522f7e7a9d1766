"""A backup while the engine stands still in the middle of writing a segment, as on a slow disk."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tests.integration.account import BIN, current, until
from tests.integration.site import Site
from tests.integration.writers import Writers

PICKLE = "index_metadata.pickle"


def within_persist(segment: Path) -> bool:
    """Whether some file of the segment is newer than the one that the engine writes last."""
    changed = {path.name: path.stat().st_mtime_ns for path in segment.iterdir()}
    return PICKLE in changed and max(changed.values()) > changed[PICKLE]


def state(task: Path) -> str:
    """The state of a thread, a letter, see proc_pid_stat(5)."""
    return (task / "stat").read_text().rpartition(") ")[2][0]


def stop_within_persist(engine: int, segment: Path) -> None:
    """Stops the engine while it persists the segment."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if within_persist(segment):
            os.kill(engine, signal.SIGSTOP)
            # A thread within a call stops at its end.
            until(
                lambda: all(state(task) == "T" for task in Path(f"/proc/{engine}/task").iterdir()),
                "all threads stopped",
            )
            if within_persist(segment):
                return
            os.kill(engine, signal.SIGCONT)
    raise AssertionError("the engine was never seen persisting")


def test_backup_is_sound(site: Site) -> None:
    daemon = site.serve()
    writers = Writers(daemon, {"stalled": 300}, each=2, dimension=64)
    writers.start()
    segment = site.first_segment()
    stop_within_persist(daemon.engine_pid, segment)
    since = writers.acknowledged()
    site.make_repository()
    backup = site.spawn([BIN / "chromactl", "--config", site.config, "backup"], current())
    with suppress(subprocess.TimeoutExpired):
        backup.wait(2)
    os.kill(daemon.engine_pid, signal.SIGCONT)
    assert backup.wait(60) == 0
    writers.stop()
    daemon.stop()
    assert site.chromactl("restore", "latest").code == 0
    writers.assert_kept(site.serve(), since)
