"""Too little memory is no fault of the data: nothing is moved aside, nothing is called unsound, and nothing is called proven."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromad.chroma import sqlite
from chromad.errors import TryAgain

from tests.integration import records
from tests.integration.account import BIN, current, until
from tests.integration.records import Record
from tests.integration.site import Result, Site

# MiB that a process may have of its own (RLIMIT_DATA): from what no Python starts with to what is almost enough.
LIMITS = (8, 16, 24, 32, 48, 64, 80, 96, 112, 128)
# Of the programs, and of a library in C or Rust, or Python itself, which end the process in words of their own
_SAID = ("ERROR: ", "OpenBLAS", "memory allocation of", "Cannot recover from MemoryErrors")
_EXAMINE = """
import json, sys
from pathlib import Path
from chromad.errors import ChromadError
from chromad.chroma import soundness
directories = [Path(word) for word in sys.argv[1:]]
try:
    found = soundness.examine(directories, lambda: None, reach=True)
except (ChromadError, OSError, MemoryError) as error:
    sys.exit(f"refused: {error}")
print(json.dumps([[each.sound, each.unread, each.problem] for each in found.values()]))
"""

Held = dict[str, dict[str, Record]]


@pytest.fixture(scope="module")
def _filled() -> Iterator[tuple[Site, Held]]:
    site = Site()
    daemon = site.serve()
    held = {name: records.fill(daemon.client(), name, 600, sync_threshold=100) for name in ("some", "other")}
    site.backup()
    daemon.stop()
    yield site, held
    site.remove()


@pytest.fixture
def filled(_filled: tuple[Site, Held]) -> Iterator[tuple[Site, Held]]:
    """Persisted segments, checkpoints and a backup, after a clean stop. A test that fails leaves no daemon to the next one."""
    yield _filled
    _filled[0].end()


def within(limit: int) -> list[str | Path]:
    """What a command begins with that is to have no more."""
    return ["prlimit", f"--data={limit << 20}", "--core=0"]


def ended(site: Site, argv: list[str | Path]) -> Result:
    process = site.spawn(argv, current())
    output, _ = process.communicate(timeout=300)
    return Result(process.returncode, output.decode())


@pytest.mark.parametrize("limit", LIMITS)
def test_examination(filled: tuple[Site, Held], limit: int) -> None:
    site, held = filled
    directories = [site.data / each.segment for each in sqlite.collections(site.data)]
    result = ended(site, [*within(limit), sys.executable, "-c", _EXAMINE, *directories])
    if result.code == 0:
        verdicts = json.loads(result.output.splitlines()[-1])
        assert len(verdicts) == len(held)
        assert all(sound or unread for sound, unread, _ in verdicts), verdicts


@pytest.mark.parametrize("limit", LIMITS)
def test_start(filled: tuple[Site, Held], limit: int) -> None:
    """After clean stops and kills in turn; it serves, or it ends, and the next start has all."""
    site, held = filled
    daemon = site.start(wrapper=[str(word) for word in within(limit)])
    until(lambda: "READY=1" in daemon.notify.lines or daemon.process.poll() is not None, "a start or an end", 120)
    daemon.clear()
    assert "Traceback" not in daemon.log, daemon.log
    # Or by a library in Rust, which aborts.
    ends = (TryAgain.exit_code, -signal.SIGABRT)
    assert "READY=1" in daemon.notify.lines or daemon.process.returncode in ends, daemon.log
    daemon = site.serve()
    assert daemon.status()["quarantined"] == [], daemon.log
    for name, expected in held.items():
        records.assert_equal(daemon.client(), name, expected)
    assert list(site.quarantine.iterdir()) == []
    if LIMITS.index(limit) % 2:
        daemon.stop()
    else:
        daemon.clear()


@pytest.mark.parametrize("limit", LIMITS)
def test_proof(filled: tuple[Site, Held], limit: int) -> None:
    site, held = filled
    daemon = site.serve()
    before = {each["id"] for each in site.listed()}
    result = ended(site, [*within(limit), BIN / "chromactl", "--config", site.config, "backup"])
    assert "Traceback" not in result.output
    after = [each for each in site.listed() if each["id"] not in before]
    if result.code:
        assert not any(each["proven"] for each in after), result.output
        assert any(said in result.output for said in _SAID), result.output
    for name, expected in held.items():
        records.assert_equal(daemon.client(), name, expected)
    daemon.stop()
