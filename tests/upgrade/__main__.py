"""Fails an upgrade after each of its steps, while clients write, and sees that nothing acknowledged is lost.

python -m tests.upgrade HOST FILE ENVIRONMENT; FILE: as `tests.corpus write` left it; ENVIRONMENT: the new one, on the host.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.hosts.host import Host
from tests.upgrade.older import ENGINE

_FAIL = Path(__file__).with_name("fail.py")
# Each step with what happens after it; `kill` leaves a journal to the next run.
_FAILURES = [
    ("back_up", "raise"),
    ("try_out", "raise"),
    ("_copy", "raise"),
    ("_hold", "raise"),
    ("_hold", "kill"),
    ("_record", "raise"),
    ("_stop", "raise"),
    ("_migrate", "raise"),
    ("_exchange", "raise"),
    ("_exchange", "kill"),
    ("_switch", "raise"),
    ("_switch", "kill"),
    ("_start", "raise"),
    ("_start", "kill"),
    ("_compare", "raise"),
]
# After a kill: what an operator is told, and the way back. Clients wait for it.
_LOOK = "sudo chromactl doctor --output json >doctor.json; sudo {}/bin/chromactl --json upgrade --undo >undone.json"


def main() -> int:
    """0 when the old version served everything after each failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade", description=__doc__)
    parser.add_argument("host")
    parser.add_argument("file", type=Path)
    parser.add_argument("environment", type=Path)
    arguments = parser.parse_args()
    host = Host(arguments.host)
    backup = str(json.loads(_on(host, "sudo chromactl --json backup").stdout)["id"])
    for step, how in _FAILURES:
        started = time.monotonic()
        known = "" if step in ("back_up", "try_out") else backup
        command = f"sudo {arguments.environment}/bin/python - {step} {how} '{known}'"
        if how == "kill":
            command = f"{command}; code=$?; {_LOOK.format(arguments.environment)}; exit $code"
        _during(arguments.host, arguments.file, _ssh(host, command), 1)
        if how == "kill":
            _was_told_and_undone(host)
        _serves_as_before(host)
        print(f"{step} {how}: {time.monotonic() - started:.1f} s", flush=True)
    _compare(arguments.host, arguments.file)
    return 0


def _was_told_and_undone(host: Host) -> None:
    doctor, undone = (json.loads(_on(host, f"cat {name}.json").stdout) for name in ("doctor", "undone"))
    found = [each for each in doctor if each["name"] == "upgrade"]
    if [each["status"] for each in found] != ["fail"] or "chromactl upgrade --undo" not in found[0]["hint"]:
        raise SystemExit(f"doctor does not tell of the interrupted upgrade: {found}")
    if not undone["undone"].startswith("took back the upgrade"):
        raise SystemExit(f"it was not undone: {undone}")


def _serves_as_before(host: Host) -> None:
    status: dict[str, Any] = json.loads(_on(host, "sudo chromactl --json status").stdout)
    places = "/opt/chromadb /opt/chromadb/venvs /opt/chromadb/restore"
    left = _on(host, f"sudo find {places} -maxdepth 1 -name '*upgrade*' -o -maxdepth 1 -name 'staging-*'")
    if status["engine_version"] != ENGINE or status["state"] != "serving":
        raise SystemExit(f"the old version does not serve: {status}")
    if left.stdout:
        raise SystemExit(f"something is left: {left.stdout}")


def _during(host: str, file: Path, command: list[str], expected: int) -> None:
    with _FAIL.open() as program:
        done = subprocess.run(
            [sys.executable, "-m", "tests.corpus", "during", host, file, "--", *command],
            stdin=program,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != expected:
        raise SystemExit(f"{command[-1]} ended with {done.returncode}, not {expected}: {done.stdout}{done.stderr}")


def _compare(host: str, file: Path) -> None:
    subprocess.run([sys.executable, "-m", "tests.corpus", "compare", host, file], check=True)


def _ssh(host: Host, command: str) -> list[str]:
    return host.ssh_command(command)


def _on(host: Host, command: str, *, check: bool = True) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(_ssh(host, command), capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done


if __name__ == "__main__":
    sys.exit(main())
