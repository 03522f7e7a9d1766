"""The `root` marker: tests that need root say so, and are skipped elsewhere. The `one_a_day` marker: of the cases of a test on hosts,
which take minutes and differ in a value, each day has another one; `make test-long` runs all of them. What failed is left in a file for
`make test`."""

import datetime
import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

_FAILED = Path(__file__).parents[1] / ".pytest_cache/failed"
# Characters of a failure, and of all of them together, about
_LONGEST, _SHORTEST, _ALL = 2000, 500, 9000

# The day whose cases are run: of the calendar, or all
_DAY, _ALL_DAYS = "CHROMAD_TESTS_DAY", "all"

# Their asserts tell the values, too.
pytest.register_assert_rewrite(
    *(f"tests.integration.{name}" for name in ("daemon", "malformed", "records", "site", "writers"))
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root: needs root (other users, mounts, file attributes)")
    config.addinivalue_line("markers", "one_a_day: of the cases of a test, one each day; make test-long runs all")
    # Those that share the work may begin on another day.
    os.environ.setdefault(_DAY, str(datetime.datetime.now(datetime.UTC).toordinal()))
    # A shell ignores the one for jobs in the background, nohup the other, and what the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _leave_to_other_days(config, items)
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: other users, mounts or file attributes"))


def _leave_to_other_days(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ[_DAY] == _ALL_DAYS:
        return
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("one_a_day"):
            cases[item.nodeid.partition("[")[0]].append(item)
    others = {
        item
        for found in cases.values()
        for number, item in enumerate(found)
        if number != int(os.environ[_DAY]) % len(found)
    }
    items[:] = [item for item in items if item not in others]
    config.hook.pytest_deselected(items=list(others))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    reports = [*terminalreporter.stats.get("failed", []), *terminalreporter.stats.get("error", [])]
    if reports:
        _FAILED.parent.mkdir(exist_ok=True)
        longest = max(_SHORTEST, min(_LONGEST, _ALL // len(reports)))
        _FAILED.write_text("".join(f"FAILED {each.nodeid}\n{each.longreprtext[-longest:]}\n" for each in reports))
