"""The `root` marker: tests that need root say so, and are skipped elsewhere. What failed is left in a file for `make test`."""

import os
import signal
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

_FAILED = Path(__file__).parents[1] / ".pytest_cache/failed"
# Characters of a failure, and of all of them together, about
_LONGEST, _SHORTEST, _ALL = 2000, 500, 9000

# Their asserts tell the values, too.
pytest.register_assert_rewrite(
    *(f"tests.integration.{name}" for name in ("daemon", "malformed", "records", "site", "writers"))
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root: needs root (other users, mounts, file attributes)")
    # A shell ignores the one for jobs in the background, nohup the other, and what the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: other users, mounts or file attributes"))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    reports = [*terminalreporter.stats.get("failed", []), *terminalreporter.stats.get("error", [])]
    if reports:
        _FAILED.parent.mkdir(exist_ok=True)
        longest = max(_SHORTEST, min(_LONGEST, _ALL // len(reports)))
        _FAILED.write_text("".join(f"FAILED {each.nodeid}\n{each.longreprtext[-longest:]}\n" for each in reports))
