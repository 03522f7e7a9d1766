"""Has each verb of root's that starts an engine do so on a host, and looks at what the engine's process has and may do.

python -m tests.sandbox HOST [ENVIRONMENT]; HOST: with data and backups of them. ENVIRONMENT: a new one on the host, for which the
service is not yet run; then it is an upgrade's engines that are looked at, and the upgrade fails in the end.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.hosts.host import Host

_LOOK = Path(__file__).with_name("look.py")
_FAIL = Path(__file__).parents[1] / "upgrade/fail.py"
# Seconds in which systemd does not answer; the limit of its clients is 25
_SLOW = 40.0


class Wrong(SystemExit):
    """Something is not as it should be."""


def main() -> int:
    """0 when all engines were kept in, and none has outlived its verb."""
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox", description=__doc__)
    parser.add_argument("host")
    parser.add_argument("environment", type=Path, nargs="?")
    arguments = parser.parse_args()
    host = _Tried(Host(arguments.host))
    if arguments.environment:
        host.upgrade(arguments.environment)
    else:
        host.verbs()
        host.kills()
        host.slow()
    return 0


class _Tried:
    """A host whose verbs are tried."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._uid, self._gid = (int(self._on(f"id {option} chromadb")) for option in ("-u", "-g"))

    def verbs(self) -> None:
        """Each once; those that write anywhere do so at a place that is hidden from other units."""
        collection = json.loads(self._on("sudo chromactl --json backups show latest"))["manifest"]["collections"][0][
            "name"
        ]
        targets = ["/srv/look here: 'it'", "/var/tmp/look", "/home/look"]
        for words in (
            ["backup", "--full"],
            ["verify"],
            *(["restore", "latest", "--target", each] for each in targets),
            ["restore", "latest", "--collection", collection, "--into", "from-the-sandbox"],
            ["restore", "latest", "--stop"],
        ):
            self._try(["chromactl", *words])
        self._repair()
        self._adopt()
        self._on(f"sudo rm -r {shlex.join(targets)}")

    def _repair(self) -> None:
        """Its engine works on the data themselves."""
        self._on("sudo systemctl stop chromadb")
        spoil = (
            "from pathlib import Path\n"
            "found = max(Path('/opt/chromadb/data').glob('*/data_level0.bin'), key=lambda each: each.stat().st_size)\n"
            "found.write_bytes(found.read_bytes()[: found.stat().st_size // 2])\n"
        )
        self._on("sudo python3 -", spoil)
        [engine] = self._try(["chromactl", "repair"], may_fail=True, data=True)
        if engine["copy"] != "/opt/chromadb/data":
            raise Wrong(f"repair has worked on {engine['copy']}")
        self._on("sudo systemctl start chromadb")

    def _adopt(self) -> None:
        """Of the data themselves, which root alone can read then."""
        self._on("sudo systemctl stop chromadb")
        self._on("sudo sh -c 'mv /opt/chromadb/data /srv/old && rm /srv/old/chromad.* && chown -R root: /srv/old'")
        self._on("sudo install -d -m 0750 -o chromadb -g chromadb /opt/chromadb/data")
        self._try(["chromactl", "adopt", "/srv/old"])
        self._on("sudo systemctl start chromadb")

    def kills(self) -> None:
        """Whichever process is killed, the engine ends, and so does its unit."""
        for strike in ("worker", "root", "room"):
            [engine] = self._try(["chromactl", "verify"], strike)
            print(f"verify, {strike} struck: the engine was gone after {engine['ended']} s", flush=True)

    def slow(self) -> None:
        """systemd does not answer for a while, as on a host that has no memory left."""
        command = self._host.ssh_command("sudo chromactl verify")
        verb = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        first = self._process(lambda path: _number_within(path) == 1)
        # sudo has been let in, and an engine is not yet needed.
        self._process(lambda path: b"restic" in (path / "cmdline").read_bytes())
        os.kill(first, signal.SIGSTOP)
        try:
            time.sleep(_SLOW)
            if verb.poll() is not None:
                raise Wrong(f"verify did not wait for systemd: {verb.communicate()[0].decode()}")
        finally:
            os.kill(first, signal.SIGCONT)
        said, _ = verb.communicate(timeout=120)
        # systemd does late what a client has left, so that it may say that it has failed and go on.
        if verb.returncode or b"timed out" in said:
            raise Wrong(f"verify has failed where systemd is slow: {said.decode()}")
        print("verify waits for a slow systemd", flush=True)

    def upgrade(self, environment: Path) -> None:
        """Trial and migration, of the new environment's engine; the last step fails, so that the old version goes on."""
        self._on("cat >fail.py", _FAIL.read_text())
        command = [f"{environment}/bin/python", "fail.py", "_migrate", "raise", ""]
        engines = self._try(command, may_fail=True)
        names = [Path(each["copy"]).name for each in engines]
        # The first one is of the old version's backup.
        if not any(each.startswith("staging-") for each in names) or not any(".upgrade-" in each for each in names):
            raise Wrong(f"the engines of the upgrade have worked on {names}")
        status = json.loads(self._on("sudo chromactl --json status"))
        if status["state"] != "serving":
            raise Wrong(f"the old version does not serve: {status}")

    def _try(
        self, command: list[str], strike: str = "none", *, may_fail: bool = False, data: bool = False
    ) -> list[dict[str, Any]]:
        """Looks at all engines of a verb; gives what was seen. data: they may write the data of the service."""
        found = json.loads(self._on(f"sudo python3 - {strike} {shlex.join(command)}", _LOOK.read_text()))
        name = " ".join(command[1:])
        if (found["code"] != 0) is not (may_fail or strike != "none") and not may_fail:
            raise Wrong(f"{name} has ended with {found['code']}: {found['output']}")
        if not found["engines"]:
            raise Wrong(f"{name} has started no engine that was seen: {found['output']}")
        if found["left"]:
            raise Wrong(f"{name} has left {found['left']}")
        for engine in found["engines"]:
            for problem in self._problems(engine, data=data):
                raise Wrong(f"{name}: {problem}: {engine}")
        print(f"{name}: {len(found['engines'])} engines, each kept in", flush=True)
        engines: list[dict[str, Any]] = found["engines"]
        return engines

    def _problems(self, engine: dict[str, Any], *, data: bool) -> list[str]:
        status = engine["status"]
        # Everybody writes the first one. The others are empty and its own where a copy lies there; systemd 252 lets it write them.
        own = ["/dev/shm", *(("/home", "/root") if engine["copy"].startswith("/home/") else ())]
        wanted = {
            "its users": (status["Uid"], [str(self._uid)] * 4),
            "its groups": (status["Gid"] + status["Groups"], [str(self._gid)] * 5),
            "no_new_privs": (status["NoNewPrivs"], ["1"]),
            "a filter of system calls": (status["Seccomp"], ["2"]),
            "no capabilities": (status["CapEff"] + status["CapBnd"], ["0" * 16] * 2),
            "no core dump": (engine["core"], ["0", "0"]),
            "namespaces of its own": (set(engine["namespaces"].values()), {True}),
            "a unit of its own": (engine["unit"].startswith("chromadb-engine-"), True),
            "what it writes": (
                [each for each in engine["written"] if each not in own],
                [engine["copy"]] * (2 if data else 1),
            ),
        }
        for place, seen in engine["seen"].items():
            above = engine["copy"].removeprefix(f"{place}/").partition("/")[0]
            inside = [above] if engine["copy"].startswith(f"{place}/") else []
            # Of what its copy is not in there, it reads what the service user may.
            if inside or not place.startswith("/opt/"):
                wanted[f"what it sees of {place}"] = (seen, inside)
        return [f"{name} is {found}, not {value}" for name, (found, value) in wanted.items() if found != value]

    def _process(self, wanted: Callable[[Path], bool]) -> int:
        """The first process of the host of which it holds, as it is seen from here."""
        deadline = time.monotonic() + _SLOW
        while time.monotonic() < deadline:
            for path in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    group = f"{(path / 'cgroup').read_text().strip()}/"
                    if f"/chromad-test/{self._host.name}/" in group and wanted(path):
                        return int(path.name)
        raise Wrong("a process of the host is not found")

    def _on(self, command: str, text: str = "") -> str:
        done = subprocess.run(self._host.ssh_command(command), input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Wrong(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout


def _number_within(path: Path) -> int:
    """The id that a process has on its host."""
    [line] = [each for each in (path / "status").read_text().splitlines() if each.startswith("NSpid:")]
    return int(line.split()[-1])


if __name__ == "__main__":
    sys.exit(main())
