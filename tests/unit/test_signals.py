"""Signals of verbs, in a process of their own: one exception, at a moment that suits, and one line."""

import signal
import subprocess
import sys

import pytest

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HEAD = """
import os, signal, sys
from chromad.host import signals

def send(number):
    os.kill(os.getpid(), number)

signals.raise_on_end()
with signals.ending():
"""


def run(*lines: str, words: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    text = _HEAD + "".join(f"    {line}\n" for line in lines)
    return subprocess.run([sys.executable, "-c", text, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", _SIGNALS)
def test_one_line_and_the_exit_code_of_a_shell(number: int) -> None:
    told = run(f"send({number})", "print('not reached')")
    name = signal.Signals(number).name
    assert (told.returncode, told.stdout) == (128 + number, "")
    assert told.stderr == f"interrupted by {name}: nothing was changed\n"


def test_deferred() -> None:
    told = run(
        "with signals.deferred():",
        "    with signals.deferred():",
        "        send(15)",
        "        print('inner')",
        "    print('outer', signals.pending(), flush=True)",
        "print('not reached')",
    )
    assert (told.returncode, told.stdout) == (143, "inner\nouter True\n")


def test_place_to_go_back() -> None:
    told = run("with signals.deferred():", "    send(2)", "    signals.raise_pending()", "    print('not reached')")
    assert (told.returncode, told.stdout) == (130, "")


def test_only_the_first_one_counts() -> None:
    told = run(
        "try:",
        "    send(15)",
        "finally:",
        "    send(2); send(1); send(15)",
        "    print('cleared up', flush=True)",
    )
    assert (told.returncode, told.stdout) == (143, "cleared up\n")
    assert "interrupted by SIGTERM" in told.stderr


def test_what_was_done() -> None:
    assert "SIGTERM: inner" in run("with signals.saying('outer'), signals.saying('inner'): send(15)").stderr
    assert "SIGTERM: it was done all the same" in run("signals.finished()", "with signals.saying('x'): send(15)").stderr


def test_none_is_heard_at_the_end() -> None:
    """Python takes a moment to end: what was done has been told."""
    told = run("import atexit", "atexit.register(lambda: [send(n) for n in (1, 2, 15)])", "print('done')")
    assert (told.returncode, told.stdout, told.stderr) == (0, "done\n", "")


def test_ignored_ones_stay_so() -> None:
    text = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{_HEAD}    send(1); print('goes on')\n"
    told = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "goes on\n")


def test_for_machines() -> None:
    told = run("send(15)", words=("--json",))
    assert told.returncode == 143
    assert '"exit_code": 143' in told.stdout
