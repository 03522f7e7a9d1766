"""The two parts of a verb that root starts: the terminal, signals, answers that are too long, and an end by force."""

import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.account import AS_ROOT, BIN, service, until

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="is about what root does")

_BEGIN = """
import ctypes, fcntl, os, signal, sys, termios, time
from pathlib import Path
from chromad.errors import ChromadError
from chromad.host import privileges
from chromad.host.privileges import Account
place = Path({place!r})
def tell(text): print("TOLD", text, file=sys.stderr, flush=True)
def ended(): (place / "ended").touch()
def part(steps={{}}, **more): privileges.part(Account({uid}, {gid}), steps, ended, tell, **more)
"""


def _code(place: Path, text: str) -> list[str]:
    begin = _BEGIN.format(place=str(place), uid=service().uid, gid=service().gid)
    return [str(BIN / "python"), "-c", begin + text]


def _start(place: Path, text: str) -> "subprocess.Popen[str]":
    argv = _code(place, text)
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _run(place: Path, text: str) -> tuple[int, str, str]:
    process = _start(place, text)
    try:
        out, err = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        pytest.fail("root's part does not end")
    return process.returncode, out, err


class _Terminal:
    """A program with a terminal of its own, as from a shell's job control."""

    def __init__(self, place: Path, text: str) -> None:
        self.pid, self.fd = pty.fork()
        if not self.pid:
            argv = _code(place, text)
            os.execv(argv[0], argv)
        self.output = ""

    def see(self, text: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < end, self.output
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self.fd, 4096).decode()
                except OSError:
                    break
        assert text in self.output, self.output

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def end(self) -> int:
        end = time.monotonic() + 20
        while (found := os.waitpid(self.pid, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.02)
        os.close(self.fd)
        if found == (0, 0):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            pytest.fail(f"root's part does not end: {self.output}")
        _, status = found
        return os.waitstatus_to_exitcode(status)


def test_what_works_cannot_type_into_roots_terminal(tmp_path: Path) -> None:
    """As any process of the service user could that it starts, or that takes hold of one of these."""
    terminal = _Terminal(
        tmp_path,
        "part()\n"
        "for name in ('/dev/tty', os.ttyname(1), 1):\n"
        "    try:\n"
        "        fd = name if name == 1 else os.open(name, os.O_RDWR)\n"
        "        fcntl.ioctl(fd, termios.TIOCSTI, b'x')\n"
        "        print('typed', name)\n"
        "    except OSError as error: print('denied', error.errno)\n"
        "try: fcntl.ioctl(1, termios.TIOCSCTTY, 0); print('taken')\n"
        "except OSError: print('kept')\n"
        "print('tty', os.isatty(1), os.get_terminal_size().columns >= 0)\n"
        "print('session', os.getsid(0) == os.getpid(), 'dumpable', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
        "print('read', os.read(0, 9))\n",
    )
    terminal.see("read b''")
    assert terminal.end() == 0
    assert terminal.output.count("denied") == 3, terminal.output
    for words in ("kept", "tty True True", "session True dumpable 0"):
        assert words in terminal.output, terminal.output


@pytest.mark.parametrize(("key", "number"), [(b"\x03", signal.SIGINT), (b"", signal.SIGHUP)])
def test_terminal_ends_it(tmp_path: Path, key: bytes, number: int) -> None:
    """Ctrl-C, and a terminal that is closed."""
    terminal = _Terminal(
        tmp_path,
        "def on(number, _): sys.exit(128 + number)\n"
        "for number in (signal.SIGINT, signal.SIGHUP): signal.signal(number, on)\n"
        "part()\nprint('ready', flush=True)\nwhile True: time.sleep(0.05)\n",
    )
    terminal.see("ready")
    if key:
        terminal.type(key)
    else:
        os.kill(terminal.pid, number)
    assert terminal.end() == 128 + number
    assert (tmp_path / "ended").exists()


def test_stop_key_stops_both(tmp_path: Path) -> None:
    terminal = _Terminal(
        tmp_path, "part()\nfor n in range(10 ** 6):\n    print('at', n, flush=True)\n    time.sleep(0.02)\n"
    )
    terminal.see("at 3")
    terminal.type(b"\x1a")
    _, status = os.waitpid(terminal.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    [child] = Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()
    until(lambda: _state(child) == "T", "a stop of the part that works")
    os.kill(terminal.pid, signal.SIGCONT)
    until(lambda: _state(child) != "T", "that it goes on")
    terminal.type(b"\x03")
    assert terminal.end() == 1


def _state(pid: str) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_too_long_an_answer_is_an_error(tmp_path: Path) -> None:
    code, out, err = _run(
        tmp_path,
        "part({'long': lambda: 'x' * 400_000, 'odd': lambda: {1, 2}, 'fails': lambda: 1 / 0, 'one': lambda: 1})\n"
        "for word in ('long', 'odd', 'fails'):\n"
        "    try: privileges.ask(word)\n"
        "    except ChromadError as error: print(error.message)\n"
        "print(privileges.ask('one'))\n",
    )
    assert code == 0, err
    assert "too long" in out
    assert out.endswith("\n1\n"), out
    assert (tmp_path / "ended").exists()


def test_open_files_are_handed_over(tmp_path: Path) -> None:
    """And are not kept: root's part would keep the other end of a pipe from ending."""
    code, out, err = _run(
        tmp_path,
        "secret = place / 'secret'\nsecret.write_text('of root')\nsecret.chmod(0o400)\n"
        "part({'open': lambda: privileges.Descriptors([os.open(secret, os.O_RDONLY), os.open(place, os.O_RDONLY)]),\n"
        "      'many': lambda: len(os.listdir('/proc/self/fd'))})\n"
        "before = privileges.ask('many')\n"
        "one, two = privileges.ask('open')\n"
        "print(os.read(one, 100).decode(), os.listdir(two), os.get_inheritable(one), before == privileges.ask('many'))\n",
    )
    assert (code, err) == (0, "")
    assert out == "of root ['secret'] False True\n"


def test_it_ends_when_its_part_cannot_be_understood(tmp_path: Path) -> None:
    """An empty message looks as the end of the other part does."""
    code, out, err = _run(
        tmp_path,
        "part({'one': lambda: 1})\nprivileges._Part.pipe.send(b'')\n"
        "try: privileges.ask('one')\nexcept ChromadError as error: print(error.message)\nsys.exit(9)\n",
    )
    assert (code, "did not answer" in out) == (9, True), err


def test_ignored_children_are_waited_for(tmp_path: Path) -> None:
    code, _, err = _run(tmp_path, "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\npart()\nsys.exit(3)\n")
    assert code == 3, err
    assert (tmp_path / "ended").exists()


def test_it_clears_up_where_nothing_can_be_told(tmp_path: Path) -> None:
    code, _, _ = _run(
        tmp_path,
        "def tell(text): raise OSError('the terminal has gone')\n"
        "part(killed=lambda: (place / 'killed').touch() or '')\nos.kill(os.getpid(), signal.SIGKILL)\n",
    )
    assert code == 1
    assert (tmp_path / "killed").exists()
    assert (tmp_path / "ended").exists()


def test_what_is_stopped_ends_all_the_same(tmp_path: Path) -> None:
    """By the service user, whose process it is."""
    process = _start(
        tmp_path,
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\npart()\nprint('ready', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\nwhile True: time.sleep(0.05)\n",
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.terminate()
    assert process.wait(10) == 5


def test_what_hears_nothing_is_killed(tmp_path: Path) -> None:
    process = _start(
        tmp_path,
        "signal.signal(signal.SIGTERM, lambda *_: None)\npart()\nprint('ready', flush=True)\nwhile True: time.sleep(0.05)\n",
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    for _ in range(20):
        process.terminate()  # all at once: as one
    for _ in range(3):
        time.sleep(1.1)
        assert process.poll() is None
        process.terminate()
    assert process.wait(10) == 1
    assert process.stderr
    assert "ended by signal 9" in process.stderr.read()


def test_who_works_is_in_no_group_of_roots(tmp_path: Path) -> None:
    """Those with which root has called may read logs, or have Docker do anything."""
    code, out, err = _run(
        tmp_path,
        """
os.setgroups([0, 4, 61234])
part()
print(os.getgroups(), os.getresgid())
""",
    )
    assert (code, err) == (0, "")
    gid = service().gid
    assert out.strip() == f"{[gid]} {(gid,) * 3}"
