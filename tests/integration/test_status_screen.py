"""chromactl status for people: one screen, which --watch shows anew; the events that it tells of are the journal's."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration import records
from tests.integration.account import BIN, until
from tests.integration.site import Site


@pytest.fixture(scope="module")
def serving() -> Iterator[Site]:
    """A site that serves two collections, one of them with a checkpoint."""
    site = Site()
    client = site.serve().client()
    records.fill(client, "large", 30, sync_threshold=10)
    records.fill(client, "small", 3)
    site.first_segment()
    until(lambda: site.chromactl("checkpoint", "--json").json()["taken"], "a checkpoint")
    yield site
    site.remove()


def test_one_screen(serving: Site) -> None:
    result = serving.chromactl("status")
    assert result.code == 0
    lines = result.output.splitlines()
    assert lines[0] == f"chromadb serving on 127.0.0.1:{serving.port}"
    assert len(lines) < 40
    assert re.search(r"^  large +30 +\d+ +[\d.]+ KiB +\d+[sm] ago *$", result.output, re.MULTILINE)
    assert re.search(r"^  small +3 +\d+ +[\d.]+ KiB +none yet *$", result.output, re.MULTILINE)
    assert re.search(r"^  since +\d{4}-.* \(\d+[sm]\) *$", result.output, re.MULTILINE)


def test_largest_come_first(serving: Site) -> None:
    found = serving.chromactl("status", "--json").json()
    assert [each["name"] for each in found["largest"]] == ["large", "small"]
    assert [each["records"] for each in found["largest"]] == [30, 3]
    assert found["collections"] == 2


def test_events(serving: Site) -> None:
    serving.chromactl("fence", "--reason", "a [bold]reason[/bold]")
    serving.chromactl("unfence")
    found = serving.chromactl("status", "--json").json()["events"]
    assert [each["event"] for each in found][-3:] == ["ready", "fenced", "unfenced"]
    assert [each["level"] for each in found][-3:] == ["info", "warning", "info"]
    screen = serving.chromactl("status").output
    assert "writes are fenced by the operator: a [bold]reason[/bold]" in screen
    assert "the operator has lifted the fence" in screen


def test_many_collections_are_not_all_listed(site: Site) -> None:
    client = site.serve().client()
    for number in range(25):
        client.create_collection(f"collection-{number}")
    answer = site.chromactl("status", "--json").json()
    assert answer["collections"] == 25
    assert len(answer["largest"]) == 20


def test_watch(serving: Site) -> None:
    main, other = pty.openpty()
    argv: list[str | Path] = [BIN / "chromactl", "--config", serving.config, "status", "--watch"]
    process = subprocess.Popen(argv, stdin=other, stdout=other, stderr=other, env={**os.environ, "TERM": "xterm"})
    os.close(other)
    try:
        shown = _read(main, lambda text: text.count("serving") >= 2)
        assert "large" in shown
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        os.close(main)
    assert "Traceback" not in shown


def test_watch_without_a_terminal(serving: Site) -> None:
    result = serving.chromactl("status", "--watch")
    assert result.code == 2
    assert "needs a terminal" in result.output


def _read(fd: int, enough: Callable[[str], bool]) -> str:
    text = ""
    deadline = time.monotonic() + 30
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while time.monotonic() < deadline and not enough(text):
        if poll.poll(1000):
            text += os.read(fd, 65536).decode(errors="replace")
    return text
