"""The daemon's threads: none ends in silence."""

import ast
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import chromad
import pytest
from chromad.errors import ChromadError
from chromad.host import threads

from tests.integration.account import until


class Lines(logging.Handler):
    """What goes to the journal as warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logging.getLogger("chromad").addHandler(handler)
    yield handler
    logging.getLogger("chromad").removeHandler(handler)


@pytest.mark.parametrize("error", [TypeError("'NoneType' object is not iterable"), OSError(5, "Input/output error")])
def test_loop_goes_on_and_says_so(error: Exception, lines: Lines) -> None:
    turns = 0
    well = threading.Event()

    def turn() -> float:
        nonlocal turns
        turns += 1
        if not well.is_set():
            raise error
        return 0.001

    loop = threads.Loop("a loop", turn, again=0.001)
    loop.start()
    until(lambda: turns > 3, "it is called again")
    assert str(error) in threads.problems()["a loop"]
    assert lines.told == [f"a loop failed: {threads.describe(error)}"], "once, not at each turn"
    well.set()
    until(lambda: not threads.problems()["a loop"], "it goes well")
    loop.stop()
    assert not loop.is_alive()
    threads.raise_if_dead()


def test_what_passes_by_itself_is_not_told(lines: Lines) -> None:
    turns = []

    def turn() -> float:
        turns.append(1)
        if len(turns) % 2:
            raise sqlite3.OperationalError("database is locked")
        return 0.001

    loop = threads.Loop("a loop beside others", turn, again=0.001)
    loop.start()
    until(lambda: len(turns) > 9, "it is called again")
    loop.stop()
    assert lines.told == []
    assert not threads.problems().get("a loop beside others")


def test_task_that_must_not_end_begins_again() -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise KeyError("x")

    task = threads.Task("a task", work, again=0.001)
    task.start()
    task.join(10)
    assert len(calls) == 3
    assert not task.problem
    threads.raise_if_dead()


def test_task_that_is_done_once_keeps_its_problem() -> None:
    def work() -> None:
        raise IndexError("beyond the end")

    task = threads.Task("once", work)
    task.start()
    task.join(10)
    assert task.problem == "IndexError('beyond the end')"
    assert threads.problems()["once"] == task.problem
    threads.went_well("once")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_that_nothing_can_hold_ends_the_service() -> None:
    class Beyond(BaseException):
        """No Exception."""

    def turn() -> float:
        raise Beyond

    loop = threads.Loop("a loop beyond", turn)
    loop.start()
    loop.join(10)
    with pytest.raises(ChromadError, match="the thread a loop beyond has ended") as caught:
        threads.raise_if_dead()
    assert caught.value.hint
    loop.stop()
    threads.raise_if_dead()


def test_all_threads_are_made_there() -> None:
    package = Path(chromad.__file__).parent
    makers = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("threading.Thread", "threading.Timer"):
                makers.add(path.name)
    assert makers == {"threads.py"}
