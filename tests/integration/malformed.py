"""What the tests of malformed inputs share: what to feed, and what a program has to say to it."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from chromad.chroma import sqlite
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.integration import records
from tests.integration.commands import Told
from tests.integration.records import Record
from tests.integration.site import Site

MEGABYTES = 45
# What errors end with; 2 is a wrong command line.
CLASSES = (1, 75, 77, 78)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        [
            10**400,
            "",
            "\0",
            "\x1b[31m",
            "\u202e",
            "../../etc/passwd",
            "a" * 5000,
            "9" * 5000,
            "10m",
            "-1",
            "%s%n",
            "'; --",
            "2026-13-45T99:99:99Z",
            "2026-01-01",
        ]
    )
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def many(count: int) -> settings:
    """So many examples, the same ones each time."""
    unhealthy = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=unhealthy)


def leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything in a JSON document, itself first; of lists the first item alone."""
    yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from leaves(value, (*path, key))
    elif isinstance(document, list) and document:
        yield from leaves(document[0], (*path, 0))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with one thing replaced."""
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = changed(copy[path[0]], path[1:], value)
    return copy


VALUES: list[Any] = [
    None,
    True,
    -1,
    1.5,
    1 << 63,
    10**400,
    "",
    "yesterday",
    "2026-01-01T00:00:00",
    "9" * 5000,
    "../../etc",
    "\x1b[31m\n",
    "\ud800",
    "\0",
    [],
    {},
    [[[]]],
]
NOT_JSON = [
    b"",
    b"{",
    b"\0" * 100,
    b"\xff\xfe",
    b"[" * 50_000,
    b"nul",
    b"{}{}",
    b"[NaN]",
    b"9" * 5000,
    b'{"format": 1}',
]


def tampered(content: bytes) -> Iterator[bytes]:
    """The content with each thing in it replaced by each value, cut off, or replaced altogether."""
    document = json.loads(content)
    yield from NOT_JSON
    yield content[: len(content) // 2]
    for path in leaves(document):
        for value in VALUES:
            yield json.dumps(changed(document, path, value)).encode()
    for key in document:
        yield json.dumps({name: value for name, value in document.items() if name != key}).encode()


def assert_told(told: Told, *codes: int) -> None:
    """It has ended by itself, with one of these codes, and said what is wrong and what to do."""
    assert told.code in codes, (told.code, told.output)
    assert "Traceback" not in told.output
    if told.code in CLASSES:
        assert "ERROR" in told.output
        assert "HINT: " in told.output, told.output
    elif told.code == 2:
        assert any(text in told.output for text in ("for help", "does not take a value", "HINT: ")), told.output


class Fed:
    """A served site with records, and how many malformed inputs it was fed."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.count = 0
        self._records: dict[str, Record] = records.fill(site.serve().client(), "some", 40, sync_threshold=10)

    def assert_unharmed(self) -> None:
        """It serves all that it had, within its memory, without a trace of a programming error."""
        daemon = self.site.daemon
        assert daemon.status()["state"] == "serving"
        assert not daemon.status()["fences"]
        records.assert_equal(daemon.client(), "some", self._records)
        assert [each.name for each in sqlite.collections(self.site.data)] == ["some"]
        assert "Traceback" not in daemon.log
        assert "xception" not in daemon.log
        assert int(daemon.proc_status().split("VmRSS:")[1].split()[0]) < MEGABYTES << 10


# What this process has run, by its id
ran: set[str] = set()


def need_whole_file(request: pytest.FixtureRequest) -> None:
    """Skips a test that looks back at the others of its file where they were not all run before it, in this process."""
    items = [item for item in request.session.items if item.path == request.node.path]
    chosen = {getattr(item, "originalname", "") for item in items}
    left_out = {name for name in vars(request.module) if name.startswith("test_")} - chosen
    if left_out or {item.nodeid for item in items} - ran - {request.node.nodeid}:
        pytest.skip("looks back at all tests of its file, which were not all run before it")


def get(site: Site, path: str) -> tuple[int, str]:
    """What the listener for metrics answers."""
    connection = http.client.HTTPConnection("127.0.0.1", site.metrics_port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()
