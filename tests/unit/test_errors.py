"""Results of checks become one error, of the gravest class."""

import pytest
from chromad.checks import fail, ok, raise_failures
from chromad.errors import (
    BackupError,
    ChromadError,
    ConfigurationError,
    EngineError,
    PermissionProblem,
    TryAgain,
    printable,
)


def test_no_failure() -> None:
    raise_failures([ok("one", "fine"), ok("two", "fine")])


def test_all_facts_and_hints_once() -> None:
    with pytest.raises(TryAgain) as caught:
        raise_failures([fail("a", TryAgain, "one", "wait"), ok("b", "fine"), fail("c", TryAgain, "two", "wait")])
    assert caught.value.message == "a: one\nc: two"
    assert caught.value.hint == "wait"


@pytest.mark.parametrize(
    ("kinds", "gravest"),
    [
        ([TryAgain, ChromadError], ChromadError),
        ([ChromadError, PermissionProblem, TryAgain], PermissionProblem),
        ([TryAgain, PermissionProblem, ConfigurationError], ConfigurationError),
    ],
)
def test_gravest_class_wins(kinds: list[type[ChromadError]], gravest: type[ChromadError]) -> None:
    with pytest.raises(ChromadError) as caught:
        raise_failures([fail(kind.__name__, kind, "fact", "hint") for kind in kinds])
    assert type(caught.value) is gravest


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ChromadError, 1),
        (EngineError, 1),
        (BackupError, 1),
        (TryAgain, 75),
        (PermissionProblem, 77),
        (ConfigurationError, 78),
    ],
)
def test_exit_codes(kind: type[ChromadError], code: int) -> None:
    assert kind("fact").exit_code == code


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert printable("a\x1b[31m\nb\u202e\udcff é") == "a\\x1b[31m\nb\\u202e\\udcff é"
