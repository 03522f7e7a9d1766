"""Named checks: each looks at one thing and gives a result with a fact and a hint."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from chromad.errors import ChromadError, ConfigurationError, PermissionProblem, TryAgain

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Result:
    """name: of the check. status: `skip` where it could not look. fact and hint: for people. error: the class that a failure
    raises."""

    name: str
    status: Status
    fact: str
    hint: str = ""
    error: type[ChromadError] = ChromadError


def ok(name: str, fact: str) -> Result:
    return Result(name, "ok", fact)


def fail(name: str, error: type[ChromadError], fact: str, hint: str) -> Result:
    return Result(name, "fail", fact, hint, error)


def warn(name: str, fact: str, hint: str) -> Result:
    return Result(name, "warn", fact, hint)


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
