"""The `root` marker: tests that need root say so, and are skipped elsewhere."""

import os

import pytest

# Their asserts tell the values, too.
pytest.register_assert_rewrite(
    *(f"tests.integration.{name}" for name in ("daemon", "malformed", "records", "site", "writers"))
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root: needs root (other users, mounts, file attributes)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: other users, mounts or file attributes"))
