"""The host that is attacked: booted, installed by the site playbook, filled; and what the host's side of the suite needs there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests import packages
from tests.corpus import tunnel
from tests.hosts.host import Host, inventory
from tests.hosts.system import REPOSITORY
from tests.integration import records

_INSIDE = Path(__file__).with_name("inside")
_FAIL = REPOSITORY / "tests/upgrade/fail.py"
_PLAIN = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}
# Each task has a connection of its own, whose process sshd starts while it is traced.
_ALONE = {"ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ControlPath=none"}
_PROGRAM = "sudo env PYTHONPATH=/srv/attacks PYTHONDONTWRITEBYTECODE=1 python3 -m inside"
_LIMIT = 400.0  # seconds of a playbook


class House:
    """One host, for as long as a `with` statement; with KEEP=1 in the environment it stays, and is used by the next run."""

    def __init__(self, name: str, release: Path = REPOSITORY) -> None:
        """release: the tree that is installed."""
        self._release = release
        self._host = Host(name)
        self._top = Path(tempfile.mkdtemp(prefix="chromad-attacks-"))
        self._hosts = self._top / "hosts.json"

    def __enter__(self) -> "House":
        if self._host.running and _kept():
            self._hosts.write_text(inventory([self._host]))
            self._bring_tools()
            return self
        try:
            self._host.down()
            self._host.up("debian13", wheels=True)
            self._hosts.write_text(inventory([self._host]))
            code, said = self.play("site")
            if code:
                raise SystemExit(f"the host cannot be installed: {said}")
            moment = self._fill()
            self._bring_tools()
            self._on(f"{_PROGRAM} prepare --moment {moment}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not _kept():
            self._host.down()
        shutil.rmtree(self._top)

    def inside(self, *words: str) -> "subprocess.Popen[str]":
        """Starts the host's side; both of its streams are pipes."""
        command = self._host.ssh_command(_PROGRAM, shlex.join(words))
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def play(self, name: str, *, traced: bool = False) -> tuple[int, str]:
        """Runs a playbook; gives its exit code, -1 when it does not end, and the output."""
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        configuration = {"ANSIBLE_CONFIG": str(self._release / "ansible/ansible.cfg")}
        environment = {**os.environ, **_PLAIN, **configuration, **(_ALONE if traced else {})}
        command = [program, "-i", str(self._hosts), str(self._release / f"ansible/playbooks/{name}.yml")]
        try:
            done = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=_LIMIT * (3 if traced else 1),
            )
        except subprocess.TimeoutExpired as error:
            return -1, str(error.output)
        return done.returncode, done.stdout + done.stderr

    def _fill(self) -> str:
        """Two collections and two backups; gives a time between these."""
        with tunnel(self._host, 8000) as client:
            records.fill(client, "kept", 150, sync_threshold=100)
            records.fill(client, "logged", 20)
            self._on("sudo chromactl checkpoint && sudo chromactl backup")
            time.sleep(2)
            moment = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            time.sleep(2)
            records.upsert(client.get_collection("logged"), {key: records.make(key) for key in ("more", "most")})
            self._on("sudo chromactl backup && sudo chromactl verify")
            records.upsert(client.get_collection("kept"), {"last": records.make("last")})
        return moment

    def _bring_tools(self) -> None:
        packages.need({"strace": "strace"})
        program = shutil.which("strace")
        assert program
        linked = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        libraries = re.findall(r"(/\S+)(?: \(0x)", linked)
        archive = self._top / "tools.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(_INSIDE, "inside", filter=_own)
            tar.add(_FAIL, "fail.py", filter=_own)
            for path in (program, *libraries):
                tar.add(os.path.realpath(path), f"strace/{Path(path).name}", filter=_own)
        self._on("sudo install -d -m 0700 /srv/attacks")
        with archive.open("rb") as content:
            subprocess.run(self._host.ssh_command("sudo tar -x -C /srv/attacks"), stdin=content, check=True)

    def _on(self, command: str) -> str:
        done = subprocess.run(self._host.ssh_command(command), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout


def _kept() -> bool:
    return bool(os.environ.get("KEEP"))


def _own(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.uid = entry.gid = 0
    return None if "__pycache__" in entry.name else entry


def read(line: str) -> dict[str, object] | None:
    """A line of the host's side; None for one that is not from it."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
