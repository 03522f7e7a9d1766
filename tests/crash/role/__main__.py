"""Cuts off a playbook at each task that changes a host, and runs it again (root): python -m tests.crash.role

What is run: `install` on a bare host, `change` of the configuration and of the environment on one that serves. At each task
that changed something there: the controller is killed when it has (`lost`), what it runs on the host is killed in the middle of
it (`killed`), and the host's power is cut there (`off`). Then the same play has to go through, the service to serve what it
had, doctor to find nothing that fails, and a further play to change nothing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.corpus import tunnel
from tests.hosts.host import Host, inventory
from tests.hosts.system import REPOSITORY, HostsError, prepare_controller
from tests.integration import records
from tests.integration.records import Record

FAULTS = ("lost", "killed", "off")
_PLUGINS = Path(__file__).with_name("plugins")
_LIMIT = 400.0  # seconds of a play
_TREE = ("ansible", "daemon", "systemd", "README.md", "LICENSE", "CHANGELOG.md")
# Where there is something to set up anew after a kill: no task is struck in less than this.
_SHORT = 0.02


@dataclass(frozen=True)
class Change:
    """A task that changed the host. number: its place among those of the same task, from 1. seconds: that it took."""

    task: str
    name: str
    number: int
    seconds: float


@dataclass(frozen=True)
class Operation:
    """What is run. variables: of the play. changed: whether the daemon's sources are other ones. bare: on a host with nothing."""

    name: str
    variables: Sequence[str] = ()
    changed: bool = False
    bare: bool = False


OPERATIONS = {
    each.name: each
    for each in (
        Operation("install", bare=True),
        Operation("change", ("chromadb_warm_collections=none", "chromadb_disk_warn_percent=70"), changed=True),
    )
}


class Lab:
    """A host, what was kept of it, and the trees that are installed on it."""

    def __init__(self, top: Path, name: str) -> None:
        self.host = Host(name)
        self._top = top
        self._hosts = top / "hosts.json"
        self._log = top / "strikes.log"
        self._trees = {False: top / "as-it-is", True: top / "changed"}
        self.data: dict[str, Record] = {}
        for tree in self._trees.values():
            for part in _TREE:
                source = REPOSITORY / part
                if source.is_dir():
                    shutil.copytree(
                        source, tree / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
                    )
                else:
                    shutil.copy(source, tree / part)
        with (self._trees[True] / "daemon/chromad/__init__.py").open("a", encoding="utf-8") as module:
            module.write("# other sources\n")

    def prepare(self) -> None:
        """A bare host, and one that serves, are kept."""
        self.host.down()
        self.host.up("debian13", wheels=True)
        self._hosts.write_text(inventory([self.host]))
        self._keep("bare")
        self.host.on()
        code, said = self.play(OPERATIONS["install"])
        if code:
            raise SystemExit(f"the host cannot be installed: {said[-3000:]}")
        with tunnel(self.host, 8000) as client:
            self.data = records.fill(client, "kept", 150, sync_threshold=100)
        self.on_host("sudo chromactl checkpoint && sudo chromactl backup")
        self._keep("serving")

    def _keep(self, name: str) -> None:
        if self.host.running:
            with suppress(subprocess.CalledProcessError):
                self.on_host("sudo sync")
            self.host.off()
        subprocess.run(["cp", "-a", str(self.host.files), str(self._top / name)], check=True)

    def put_back(self, name: str) -> None:
        """The host is what it was when that was kept, and runs."""
        self.host.off()
        for path in (self.host.files, self.host.directory / "work"):
            shutil.rmtree(path)
        subprocess.run(["cp", "-a", str(self._top / name), str(self.host.files)], check=True)
        self.host.on()

    def command(self, operation: Operation) -> list[str]:
        """The play of an operation."""
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        tree = self._trees[operation.changed]
        words = [word for each in operation.variables for word in ("-e", each)]
        return [program, "-i", str(self._hosts), str(tree / "ansible/playbooks/site.yml"), *words]

    def environment(self, operation: Operation, **more: str) -> dict[str, str]:
        """Of that command, with the callback. more: what it is told."""
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(self._trees[operation.changed] / "ansible/ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(_PLUGINS),
            "ANSIBLE_CALLBACKS_ENABLED": "strikes",
            "ANSIBLE_NOCOLOR": "1",
            # None outlives the controller that is killed.
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ControlPath=none",
            "STRIKES_LOG": str(self._log),
            **more,
        }

    def play(self, operation: Operation) -> tuple[int, str]:
        """Runs it to its end; gives its exit code and what it said."""
        self._log.unlink(missing_ok=True)
        done = subprocess.run(
            self.command(operation),
            env=self.environment(operation),
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT,
        )
        return done.returncode, done.stdout + done.stderr

    def changes(self) -> list[Change]:
        """Of the play that has run last."""
        found: list[Change] = []
        started = 0.0
        for line in map(json.loads, self._log.read_text().splitlines()):
            if line["what"] == "start":
                started = line["time"]
            elif line["what"] == "changed":
                number = sum(each.task == line["task"] for each in found) + 1
                found.append(Change(line["task"], line["name"], number, line["time"] - started))
        return found

    def strike(self, operation: Operation, change: Change, fault: str) -> bool:
        """Runs the play until it is struck; False where it came to its end before."""
        self._log.unlink(missing_ok=True)
        more = {"STRIKES_TASK": change.task, "STRIKES_NUMBER": str(change.number)} if fault == "lost" else {}
        process = subprocess.Popen(
            self.command(operation),
            env=self.environment(operation, **more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            if fault != "lost":
                if not self._started(change, process):
                    return False
                time.sleep(max(change.seconds / 2, _SHORT))
                (self.host.kill_sessions if fault == "killed" else self.host.off)()
            process.wait(_LIMIT)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
        return process.returncode != 0

    def _started(self, change: Change, process: "subprocess.Popen[bytes]") -> bool:
        """Waits for the task, which ends those before it."""
        while process.poll() is None:
            lines = [json.loads(line) for line in self._lines()]
            starts = [line for line in lines if line["what"] == "start" and line["task"] == change.task]
            if len(starts) >= change.number:
                return True
            time.sleep(0.01)
        return False

    def _lines(self) -> list[str]:
        if not self._log.exists():
            return []
        text = self._log.read_text()
        return text[: text.rfind("\n") + 1].splitlines()

    def on_host(self, command: str) -> str:
        """What a command on it prints; CalledProcessError when it fails."""
        return subprocess.run(self.host.ssh_command(command), check=True, capture_output=True, text=True).stdout


def judge(lab: Lab, operation: Operation, *, thoroughly: bool) -> list[str]:
    """What is not as it must be, after a strike. thoroughly: whether a further play is looked at."""
    if not lab.host.running:
        try:
            lab.host.on()
        except HostsError as error:
            return [str(error)]
    code, said = lab.play(operation)
    if code:
        return [f"the play does not go through: {said[-1500:]}"]
    wrong = []
    if not operation.bare:
        try:
            with tunnel(lab.host, 8000) as client:
                records.assert_equal(client, "kept", lab.data)
        except Exception as error:
            wrong.append(f"its data: {error!r}"[:500])
    found = json.loads(lab.on_host("sudo chromactl --json doctor || true"))
    wrong += [f"doctor: {each}" for each in found if each["status"] == "fail"]
    if failed := lab.on_host("systemctl --failed --plain --no-legend"):
        wrong.append(f"failed units: {failed}")
    if thoroughly:
        code, said = lab.play(operation)
        wrong += [f"a further play changes {each.task} ({each.name})" for each in lab.changes()]
    return wrong


@dataclass
class Row:
    """Of an operation. struck: strikes that met their task."""

    changes: int = 0
    struck: int = 0
    missed: int = 0
    wrong: int = 0


def run(lab: Lab, arguments: argparse.Namespace, rows: dict[str, Row]) -> Iterator[str]:
    """Takes the steps; gives a line about each."""
    number, of = map(int, arguments.part.split("/"))
    for operation in (OPERATIONS[name] for name in arguments.operations or OPERATIONS):
        row = rows[operation.name] = Row()
        scene = "bare" if operation.bare else "serving"
        lab.put_back(scene)
        code, said = lab.play(operation)
        if code:
            row.wrong += 1
            yield f"{operation.name}: it does not go through without a strike: {said[-3000:]}"
            continue
        changes = lab.changes()
        row.changes = len(changes)
        for change in changes:
            for fault in arguments.faults:
                step = f"{operation.name}: {change.task} ({change.name}, {change.number}): {fault}"
                chance = zlib.crc32(f"{arguments.seed} {step}".encode())
                if zlib.crc32(step.encode()) % of != number - 1 or arguments.call not in step:
                    continue
                if arguments.every > 1 and chance % arguments.every:
                    continue
                started = time.monotonic()
                lab.put_back(scene)
                met = lab.strike(operation, change, fault)
                wrong = judge(lab, operation, thoroughly=chance // 64 % 3 == 0)
                row.struck += met
                row.missed += not met
                row.wrong += bool(wrong)
                outcome = "; ".join(wrong) or ("well" if met else "well, not met")
                yield f"{step}: {outcome} ({time.monotonic() - started:.0f} s)"


@contextmanager
def lab() -> Iterator[Lab]:
    """A host for as long as the block runs."""
    top = Path(tempfile.mkdtemp(prefix="chromad-role-"))
    made = Lab(top, "struck")
    try:
        made.prepare()
        yield made
    finally:
        made.host.down()
        shutil.rmtree(top)


def main() -> int:
    """0 when all was as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.role", description=__doc__)
    parser.add_argument("operations", nargs="*", choices=[[], *OPERATIONS], help="those to take; all without")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--part", default="1/1", metavar="N/M", help="one of M parts")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only one step in so many, by the seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--call", default="", metavar="TEXT", help="only steps whose line has this text")
    arguments = parser.parse_args()
    prepare_controller()
    rows: dict[str, Row] = {}
    bad = []
    with lab() as made:
        for line in run(made, arguments, rows):
            print(line, flush=True)
            if ": well" not in line:
                bad.append(line)
    table = Table("PLAY", "CHANGES", "STRUCK", "NOT MET", "NOT AS IT MUST BE", box=None)
    for name, row in rows.items():
        table.add_row(name, *map(str, (row.changes, row.struck, row.missed, row.wrong)))
    Console(width=120).print(table)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
