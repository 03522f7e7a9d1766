"""Runs on a host as root: a chromactl, whose engines are stopped, looked at, and let go on. Prints what was seen as JSON.

Arguments: STRIKE, and the command. STRIKE: what happens to the first engine that is seen: `none`, `worker` or `root` (that part
of the verb is killed), or `room` (the process that has started it hears nothing any more, then the part that works is killed).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_UNITS = "chromadb-engine-"
_PAUSE = 0.01  # seconds
_LONGEST = 300.0
_STATUS = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapEff", "CapBnd", "PPid")


def main() -> None:
    strike, *command = sys.argv[1:]
    with tempfile.TemporaryFile() as output:
        verb = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + _LONGEST
        seen: dict[int, dict[str, Any]] = {}
        while verb.poll() is None and time.monotonic() < deadline:
            for pid in _engines():
                if pid not in seen and (facts := _stopped(pid, verb.pid, strike if not seen else "none")):
                    seen[pid] = facts
            time.sleep(_PAUSE)
        ended = verb.poll()
        left = _left()
        output.seek(0)
        said = output.read().decode(errors="replace")
    print(json.dumps({"code": ended, "output": said, "engines": list(seen.values()), "left": left}))


def _engines() -> list[int]:
    """Processes of engines that are not the service's."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            if b"chromad.engine.main" in words and "/chromadb.service" not in (path / "cgroup").read_text():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def _stopped(pid: int, verb: int, strike: str) -> dict[str, Any] | None:
    """Looks at one when it has its data open, so that all of its start is behind it."""
    config = _config(pid)
    if config is None:
        return None
    os.kill(pid, signal.SIGSTOP)
    try:
        facts = _look(pid, config)
        if strike != "none":
            _strike(pid, verb, strike)
            # As long as it cannot hear, it must be killed.
            facts["ended"] = _ends(pid)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return facts


def _config(pid: int) -> dict[str, Any] | None:
    try:
        names = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        [name] = [each.decode() for each in words if each.startswith(b"/proc/self/fd/")]
        found: dict[str, Any] = json.loads(Path(name.replace("self", str(pid), 1)).read_text())
    except (OSError, ValueError):
        return None
    return found if f"{found['persist_path']}/chroma.sqlite3" in names else None


def _look(pid: int, config: dict[str, Any]) -> dict[str, Any]:
    lines = [line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    status = {name: value.split() for name, _, value in lines if name in _STATUS}
    namespaces = {
        kind: os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/1/ns/{kind}")
        for kind in ("mnt", "user", "ipc")
    }
    copy = config["persist_path"]
    places = [copy, "/", "/etc", "/opt/chromadb", "/opt/chromadb/data", "/opt/chromadb/checkpoints", "/opt/chromadb/quarantine",
              "/opt/chromadb/restore", "/var/backups/chromadb", "/var/lib", "/run", "/srv", "/home", "/root", "/dev/shm"]  # fmt: skip
    enter = ["nsenter", f"--target={pid}", "--mount", "--"]
    user = [f"--reuid={status['Uid'][0]}", f"--regid={status['Gid'][0]}", "--clear-groups"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    return {
        "pid": pid,
        "copy": copy,
        "unit": Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("/")[2],
        "status": status,
        "namespaces": namespaces,
        "written": [place for place in places if _write([*enter, "setpriv", *user, "touch"], place)],
        "seen": {
            place: subprocess.run(
                [*enter, "ls", "-A", place], capture_output=True, text=True, check=False
            ).stdout.split()
            for place in ("/home", "/root", "/tmp", "/var/tmp", "/opt/chromadb/checkpoints", "/opt/chromadb/restore")
        },
        "core": next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")),
    }


def _write(touch: list[str], place: str) -> bool:
    name = f"{place}/.written-by-a-test"
    done = subprocess.run([*touch, name], capture_output=True, check=False)
    if done.returncode == 0:
        subprocess.run([*touch[:-1], "rm", name], check=True)
    return done.returncode == 0


def _strike(pid: int, verb: int, strike: str) -> None:
    [worker] = Path(f"/proc/{verb}/task/{verb}/children").read_text().split()[:1]
    if strike == "room":
        room = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(room, signal.SIGSTOP)
    os.kill(verb if strike == "root" else int(worker), signal.SIGKILL)


def _ends(pid: int) -> float:
    """Seconds until it has."""
    started = time.monotonic()
    while time.monotonic() - started < _LONGEST / 10:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                break
        except FileNotFoundError:
            break
        time.sleep(_PAUSE)
    return round(time.monotonic() - started, 2)


def _left() -> list[str]:
    """Units and engines that have not ended a moment after the verb has, and what was made for their start."""
    left = ["?"]
    deadline = time.monotonic() + 5
    while left and time.monotonic() < deadline:
        listed = subprocess.run(
            ["systemctl", "list-units", "--all", "--plain", "--no-legend", f"{_UNITS}*"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        left = [line.split()[0] for line in listed.splitlines()] + [f"pid {each}" for each in _engines()]
        left += map(str, Path("/run").glob(f"{_UNITS}*"))
        time.sleep(0.1)
    return left


main()
