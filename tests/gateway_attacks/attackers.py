"""Where attacks come from: this machine, and users of the host."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.gateway_attacks.cases import Case
from tests.gateway_host import PORT, GatewayHost

ROOT = Path(__file__).resolve().parents[2]
_FILES = (
    "tests/__init__.py",
    "tests/integration/__init__.py",
    "tests/integration/raw_http.py",
    "tests/gateway_attacks/__init__.py",
    "tests/gateway_attacks/processes.py",
    "tests/gateway_attacks/sender.py",
    "tests/gateway_attacks/visitor.py",
)
# Puts the files that its first line of input brings into a new directory, and runs one of them.
_BEGIN = """
import json, pathlib, runpy, sys, tempfile
place = tempfile.TemporaryDirectory()
for name, text in json.loads(sys.stdin.readline()).items():
    path = pathlib.Path(place.name, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
sys.path.insert(0, place.name)
module, *rest = sys.argv[1:]
sys.argv[1:] = rest
runpy.run_module(module, run_name="__main__", alter_sys=False)
"""
# Users of the host: one as others have it, and one in no group.
USERS = {
    "user": "sudo -u visitor",
    "nobody": "sudo setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/",
}


class Program:
    """One of ours that runs somewhere, and is told lines of JSON. Nothing of what it is told is in its arguments."""

    def __init__(self, before: list[str], module: str, *words: str) -> None:
        self.module = module
        quoted = [sys.executable if not before else "python3", "-c", _BEGIN, f"tests.gateway_attacks.{module}", *words]
        command = [*before, shlex.join(quoted)] if before else quoted
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.tell({name: (ROOT / name).read_text(encoding="utf-8") for name in _FILES})

    def tell(self, told: object) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.module} has ended with {self._process.wait(10)}")
        return json.loads(line)

    def end(self) -> Any:
        """Its input ends; what it then says."""
        said, _ = self._process.communicate(timeout=120)
        return json.loads(said) if said.strip() else None


class Attacker:
    """Somebody who sends requests. name: from where."""

    def __init__(self, name: str, host: GatewayHost) -> None:
        self.name = name
        local = name in USERS
        before = host.host.ssh_command(f"cd / && {USERS[name]}") if local else []
        self._program = Program(before, "sender")
        address = "127.0.0.1" if local else host.address
        self._program.tell({"address": address, "port": PORT, "certificate": host.certificate.read_text()})
        assert self._program.hear() == "ready"

    def send(self, cases: Iterable[Case]) -> list[str]:
        """Sends each; gives what is wrong with the answers."""
        wanted = list(cases)
        self._program.tell([case.sent() for case in wanted])
        answers = self._program.hear()
        problems = [(case.title, case.problem(answer)) for case, answer in zip(wanted, answers, strict=True)]
        return [f"{self.name}: {title}: {problem}" for title, problem in problems if problem]

    def end(self) -> None:
        self._program.end()
