"""Root's terminal: the part of a verb that works as the service user writes to it, and reads nothing that is typed there."""

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.account import AS_ROOT, BIN, current
from tests.integration.site import Site

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="is about what root does")

_LONGEST = 60.0
# What each descriptor of the part that works is, of one that it has started as well
_LOOK = """
import fcntl, os, subprocess, sys
from chromad.host import privileges as p
p.part(p.Account({uid}, {gid}), {{}}, lambda: None, print)
look = "import fcntl, os\\nfor fd in map(int, sorted(os.listdir('/proc/self/fd'))):\\n" \\
    "    try: print(fd, os.ttyname(fd), fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE)\\n" \\
    "    except OSError: pass\\n"
exec(look)
sys.stdout.flush()
subprocess.run([sys.executable, "-c", look.replace("print(", "print('child', ")])
"""


class Terminal:
    """A terminal with a program on it, which is its foreground and has it as its controlling terminal."""

    def __init__(self, *argv: str | Path) -> None:
        self._master, slave = pty.openpty()
        # setsid(1): a new session, whose controlling terminal is its standard input
        command = ["setsid", "--ctty", "--wait", *argv]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.said = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read_until(self, text: str) -> None:
        """Reads what it prints until that is among it, or to its end."""
        deadline = time.monotonic() + _LONGEST
        while text not in self.said and time.monotonic() < deadline:
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.said += os.read(self._master, 1 << 16).decode(errors="replace")
                except OSError:  # the last one has closed it
                    return

    def end(self) -> int:
        """Its exit code, after what is left of its output."""
        self.read_until("no such text")
        return self.process.wait(_LONGEST)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def broken(site: Site) -> Iterator[Site]:
    """Data that anybody may write."""
    site.serve().stop()
    site.data.chmod(0o777)
    yield site


def test_nothing_of_the_service_users_reads_it(site: Site) -> None:
    account = site.account
    terminal = Terminal(BIN / "python", "-c", _LOOK.format(uid=account.uid, gid=account.gid))
    try:
        assert terminal.end() == 0, terminal.said
    finally:
        terminal.close()
    found = [line.split() for line in terminal.said.splitlines()]
    assert {words[-1] for words in found} == {str(os.O_WRONLY)}, terminal.said
    assert [words[:-2] for words in found] == [["1"], ["2"], ["child", "1"], ["child", "2"]], terminal.said


@pytest.mark.parametrize(("answer", "mode"), [("y\n", 0o750), ("n\n", 0o777), ("\n", 0o777)])
def test_root_is_asked(broken: Site, answer: str, mode: int) -> None:
    terminal = Terminal(BIN / "chromactl", "--config", broken.config, "doctor", "--fix")
    try:
        terminal.read_until("Go on?")
        assert "to do: chmod 0750" in terminal.said
        terminal.type(answer)
        terminal.end()
    finally:
        terminal.close()
    assert broken.data.stat().st_mode & 0o777 == mode, terminal.said
    assert ("Aborted" in terminal.said) == (mode == 0o777)


def test_question_is_interrupted(broken: Site) -> None:
    terminal = Terminal(BIN / "chromactl", "--config", broken.config, "doctor", "--fix")
    try:
        terminal.read_until("Go on?")
        terminal.type("\x03")
        assert terminal.end() == 130, terminal.said
    finally:
        terminal.close()
    assert broken.data.stat().st_mode & 0o777 == 0o777


def test_without_a_terminal_nothing_is_mended(broken: Site) -> None:
    process = broken.spawn([BIN / "chromactl", "--config", broken.config, "doctor", "--fix"], current())
    output, _ = process.communicate(timeout=_LONGEST)
    assert broken.data.stat().st_mode & 0o777 == 0o777, output.decode()
