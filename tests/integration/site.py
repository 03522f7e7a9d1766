"""An installation for one test: directories, configuration, and the commands on it."""

import hashlib
import itertools
import json
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from chromad.chroma import sqlite
from chromad.errors import UNFORESEEN

from tests.integration import repositories
from tests.integration.account import BIN, Account, current, popen, service, until
from tests.integration.daemon import Daemon
from tests.integration.notify import NotifySocket

_TRANSIENT = {"chromad.lock", "chroma.sqlite3-shm"}


@dataclass(frozen=True)
class Result:
    """How a command ended. output: both streams."""

    code: int
    output: str

    def json(self) -> Any:
        """The output as one JSON document, after warnings on the other stream if there are any."""
        start = re.search(r"^[\[{]", self.output, re.MULTILINE)
        return json.loads(self.output[start.start() if start else 0 :])


class Site:
    """Data, repository of backups and control socket of one daemon, owned by the service user.

    disk: the directory that holds what must survive a power cut, where it is not to lie beside the rest.
    """

    def __init__(self, disk: Path | None = None) -> None:
        self.account = service()
        self._numbers = itertools.count()
        # Not below pytest's own directory, which every pytest of root closes to other users again.
        self.root = Path(tempfile.mkdtemp(prefix="chromad-"))
        self.root.chmod(0o755)
        self.run = self.root / "run"
        names = ("data", "checkpoints", "quarantine", "backups")
        self.data, self.checkpoints, self.quarantine, self.backups = ((disk or self.root) / name for name in names)
        for directory in (self.data, self.checkpoints, self.quarantine, self.backups, self.run):
            directory.mkdir(mode=0o750)
            os.chown(directory, self.account.uid, self.account.gid)
        self.config = self.root / "chromad.yml"
        self.key = self.root / "backup.key"
        self.key.write_text(f"{repositories.PASSWORD}\n", encoding="ascii")
        self.key.chmod(0o400)
        self.control = self.run / "chromad.sock"
        self.port = free_port()
        self.metrics_port = free_port()
        self._document: dict[str, Any] = {}
        self._daemons: list[Daemon] = []
        self._others: list[subprocess.Popen[bytes]] = []
        self.configure(
            {
                "data_dir": str(self.data),
                "listen.port": self.port,
                "control_socket": str(self.control),
                "metrics.port": self.metrics_port,
                "backup.repository": str(self.backups),
                "backup.password_file": str(self.key),
            }
        )

    def configure(self, changes: Mapping[str, object]) -> None:
        """Sets keys, given as `warm.collections`, and writes the file."""
        for dotted, value in changes.items():
            *sections, key = dotted.split(".")
            place = self._document
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = value
        self.write_config(yaml.safe_dump(self._document))

    def write_config(self, text: str) -> None:
        self.config.write_text(text, encoding="utf-8")

    @property
    def daemon(self) -> Daemon:
        """The daemon that was started last."""
        return self._daemons[-1]

    def start(
        self,
        environment: Mapping[str, str] | None = None,
        account: Account | None = None,
        wrapper: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> Daemon:
        """Starts a daemon, as the service user unless told otherwise; does not wait for anything.

        wrapper: a command that executes the daemon in its place. options: of the daemon.
        """
        number = next(self._numbers)
        notify = NotifySocket(self.root / f"notify-{number}.sock")
        log = self.root / f"log-{number}"
        with open(log, "wb") as output:
            process = popen(
                [*wrapper, BIN / "chromad", "--config", self.config, *options],
                account or self.account,
                output,
                {"NOTIFY_SOCKET": str(notify.path), **(environment or {})},
            )
        daemon = Daemon(process, log, notify, self.control, self.port)
        self._daemons.append(daemon)
        return daemon

    def serve(self, environment: Mapping[str, str] | None = None) -> Daemon:
        """Starts a daemon and waits until it is ready."""
        return self.start(environment).ready()

    def refused(self, account: Account | None = None) -> Result:
        """Starts a daemon that is expected to end by itself."""
        daemon = self.start(account=account)
        return Result(daemon.ended(20), daemon.log)

    def assert_refused(self, code: int, fact: str, hint: str, account: Account | None = None) -> None:
        """Starts a daemon that must end with this code, say fact and hint, and leave the data as they are."""
        before = self.tree()
        result = self.refused(account)
        assert result.code == code, result.output
        assert "Traceback" not in result.output
        assert fact in result.output
        assert any("HINT" in line and hint in line for line in result.output.splitlines()), result.output
        assert "READY=1" not in self.daemon.notify.lines
        assert self.tree() == before

    def chromactl(
        self, *words: str, account: Account | None = None, environment: Mapping[str, str] | None = None
    ) -> Result:
        """Runs chromactl to its end, as the user of the tests unless told otherwise."""
        process = self.spawn([BIN / "chromactl", "--config", self.config, *words], account or current(), environment)
        output, _ = process.communicate(timeout=120)
        assert UNFORESEEN.encode() not in output, output.decode()
        return Result(process.returncode, output.decode())

    def make_repository(self, path: Path | None = None) -> Path:
        """Puts an empty repository where backups go (or elsewhere), when there is none; gives its path."""
        place = path or self.backups
        if not (place / "config").exists():
            place.mkdir(mode=0o750, exist_ok=True)
            repositories.put(place)
            self.give_all(place)
        return place

    def backup(self, *words: str) -> dict[str, Any]:
        """Takes a backup, making the repository first where there is none; gives what chromactl says."""
        self.make_repository()
        result = self.chromactl("backup", "--json", *words)
        assert result.code == 0, result.output
        found: dict[str, Any] = result.json()
        return found

    def listed(self) -> list[dict[str, Any]]:
        """What `chromactl backups` lists, the oldest first."""
        result = self.chromactl("backups", "--json")
        assert result.code == 0, result.output
        found: list[dict[str, Any]] = result.json()["backups"]
        return found

    def restic(self, *words: str, repository: Path | None = None) -> str:
        """What restic itself says of the repository, run as the service user."""
        argv: list[str | Path] = ["restic", "--no-cache", "--repo", repository or self.backups, *words]
        process = self.spawn(argv, environment={"RESTIC_PASSWORD": repositories.PASSWORD})
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output.decode()

    @property
    def backup_dir(self) -> Path:
        """Where backups keep what they need from one to the next."""
        return self.checkpoints / ".backup"

    @property
    def current(self) -> Path:
        """What the last backup was stored from."""
        return self.backup_dir / "current"

    @property
    def ledger(self) -> dict[str, Any]:
        """What chromactl knows of the backups without the repository."""
        found: dict[str, Any] = json.loads((self.backup_dir / "ledger.json").read_bytes())
        return found

    def edit_ledger(self, **values: object) -> None:
        """Changes what it knows."""
        path = self.backup_dir / "ledger.json"
        path.write_text(json.dumps(self.ledger | values), encoding="utf-8")

    def spawn(
        self, argv: list[str | Path], account: Account | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts another process, as the service user unless told otherwise; it is ended with the test."""
        process = popen(argv, account or self.account, subprocess.PIPE, environment)
        self._others.append(process)
        return process

    def tree(self, directory: Path | None = None) -> dict[str, tuple[str, int, str]]:
        """Mode, owner and content of all in the data (or a given) directory, without what only says who has it open."""
        top = directory or self.data
        paths = [path for path in [top, *sorted(top.rglob("*"))] if path.name not in _TRANSIENT]
        return {str(path.relative_to(self.root)): _facts(path) for path in paths}

    def asides(self) -> list[Path]:
        """What restores have put beside the data."""
        return sorted(self.root.glob("restore/*"))

    def holds(self, directory: Path, collection: str) -> bool:
        """Whether the database in a directory has this collection."""
        return collection in [found.name for found in sqlite.collections(directory)]

    def wipe(self) -> None:
        """Leaves an empty data directory, as on a fresh host."""
        for path in self.data.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def first_segment(self) -> Path:
        """Waits for a vector segment that has been persisted, and gives its directory."""
        return until(lambda: next(self.data.glob("*/index_metadata.pickle"), None), "a persisted segment").parent

    def copy_from(self, other: "Site") -> None:
        """Takes over data and backups of a stopped site."""
        for source, target in (
            (other.data, self.data),
            (other.backups, self.backups),
            (other.backup_dir, self.backup_dir),
        ):
            if source.exists():
                shutil.copytree(source, target, dirs_exist_ok=True)
                self.give_all(target)

    def database_bytes(self) -> bytes:
        """All that the files of the database hold."""
        return b"".join(path.read_bytes() for path in self.data.glob(f"{sqlite.FILE}*"))

    def give(self, path: Path) -> None:
        """Makes the service user the owner."""
        os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)

    def give_all(self, top: Path) -> None:
        """Makes the service user the owner of all below it."""
        for path in (top, *top.rglob("*")):
            self.give(path)

    def end(self) -> None:
        """Ends all processes of the test."""
        for daemon in self._daemons:
            daemon.clear()
        for process in self._others:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
        self._daemons.clear()
        self._others.clear()

    def remove(self) -> None:
        """Ends all processes of the test and removes its files."""
        self.end()
        shutil.rmtree(self.root)


def free_port() -> int:
    """A TCP port below the range from which the kernel takes ports for outgoing connections."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _facts(path: Path) -> tuple[str, int, str]:
    status = path.lstat()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
    return stat.filemode(status.st_mode), status.st_uid, content
