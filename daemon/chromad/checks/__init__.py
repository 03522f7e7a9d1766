"""Named checks: each looks at one thing and gives a result with a fact and a hint."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from chromad.errors import ChromadError, ConfigurationError, PermissionProblem, TryAgain

Status = Literal["ok", "warn", "fail", "skip"]
Data = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Fix:
    """what: it does, as a command where there is one. do: does it; raises ChromadError or OSError."""

    what: str
    do: Callable[[], None]


@dataclass(frozen=True)
class Result:
    """name: of the check. status: `skip` where it could not look. fact and hint: for people. data: what was measured, for
    programs. error: the class that a failure raises. fix: what mends it safely, None where that takes a person."""

    name: str
    status: Status
    fact: str
    hint: str = ""
    error: type[ChromadError] = ChromadError
    data: Data = field(default_factory=dict)
    fix: Fix | None = None

    def with_fix(self, fix: Fix | None) -> "Result":
        """As it is, and can be mended by `doctor --fix`."""
        return replace(self, fix=fix)


def ok(name: str, fact: str, data: Data | None = None) -> Result:
    return Result(name, "ok", fact, data=data or {})


def fail(name: str, error: type[ChromadError], fact: str, hint: str, data: Data | None = None) -> Result:
    return Result(name, "fail", fact, hint, error, data or {})


def warn(name: str, fact: str, hint: str, data: Data | None = None, fix: Fix | None = None) -> Result:
    return Result(name, "warn", fact, hint, data=data or {}, fix=fix)


def skip(name: str, fact: str) -> Result:
    return Result(name, "skip", fact)


def raise_failures(results: Iterable[Result]) -> None:
    """Raises one error for all failed results, of the gravest class: configuration, permission, then the rest."""
    failed = [result for result in results if result.status == "fail"]
    if not failed:
        return
    gravity = [ConfigurationError, PermissionProblem, ChromadError, TryAgain]
    failed.sort(key=lambda result: gravity.index(result.error))
    message = "\n".join(f"{result.name}: {result.fact}" for result in failed)
    hint = "\n".join(dict.fromkeys(result.hint for result in failed if result.hint))
    raise failed[0].error(message, hint)
