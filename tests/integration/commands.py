"""chromactl and chromad, run hundreds of times: one process has imported them, and forks for each command line."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
# Seconds for one command; far more than any needs, on a busy machine as well.
LIMIT = 60.0


@dataclass(frozen=True)
class Told:
    """How a command ended. code: None when it had to be killed. output: both streams."""

    code: int | None
    output: str


class Commands:
    """The process that forks; it runs as the user of the tests."""

    def __init__(self) -> None:
        self._output = tempfile.NamedTemporaryFile(prefix="chromad-commands-")  # noqa: SIM115 (closed by `close`)
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(_ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.commands", self._output.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env=environment,
        )

    def run(self, program: str, *words: str) -> Told:
        """Runs `chromactl` or `chromad` to its end. words: as in sys.argv, bytes that are no UTF-8 as lone surrogates."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([program, *words]).encode() + b"\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())
        return Told(code, Path(self._output.name).read_text(encoding="utf-8", errors="replace"))

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()
        self._output.close()


def _main() -> None:
    from chromad import cli
    from chromad.__main__ import main as daemon

    for place in cli.VERBS.values():  # so that no fork has to
        import_module(f"chromad.cli.{place.split(':')[0]}")
    programs: dict[str, Callable[[], None]] = {"chromactl": cli.main, "chromad": daemon}
    for line in sys.stdin:
        argv = json.loads(line)
        pid = os.fork()
        if not pid:
            os._exit(_child(programs[argv[0]], argv))
        print(json.dumps(_wait(pid)), flush=True)


def _child(program: Callable[[], None], argv: list[str]) -> int:
    fd = os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    sys.argv = argv
    # As for a script: typer would call it a module.
    sys.modules["__main__"].__package__ = None
    code: Any = 0
    try:
        program()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0 if code is None else 1


def _wait(pid: int) -> int | None:
    deadline = time.monotonic() + LIMIT
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.002)


if __name__ == "__main__":
    _main()
