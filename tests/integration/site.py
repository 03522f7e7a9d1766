"""An installation for one test: directories, configuration, and the commands on it."""

import hashlib
import json
import os
import random
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
from chromad.store import sqlite

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
        """The output as one JSON document."""
        return json.loads(self.output)


class Site:
    """Data, backups and control socket of one daemon, owned by the service user.

    disk: the directory that holds what must survive a power cut, where it is not to lie beside the rest.
    """

    def __init__(self, disk: Path | None = None) -> None:
        self.account = service()
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
        self.control = self.run / "chromad.sock"
        self.port = free_port()
        self._document: dict[str, Any] = {}
        self._daemons: list[Daemon] = []
        self._others: list[subprocess.Popen[bytes]] = []
        self.configure(
            {
                "data_dir": str(self.data),
                "listen.port": self.port,
                "control_socket": str(self.control),
                "backup.directory": str(self.backups),
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
    ) -> Daemon:
        """Starts a daemon, as the service user unless told otherwise; does not wait for anything.

        wrapper: a command that executes the daemon in its place.
        """
        number = len(self._daemons)
        notify = NotifySocket(self.root / f"notify-{number}.sock")
        log = self.root / f"log-{number}"
        with open(log, "wb") as output:
            process = popen(
                [*wrapper, BIN / "chromad", "--config", self.config],
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
        return Result(process.returncode, output.decode())

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
        for source, target in ((other.data, self.data), (other.backups, self.backups)):
            shutil.copytree(source, target, dirs_exist_ok=True)
            for path in (target, *target.rglob("*")):
                os.chown(path, self.account.uid, self.account.gid)

    def database_bytes(self) -> bytes:
        """All that the files of the database hold."""
        return b"".join(path.read_bytes() for path in self.data.glob(f"{sqlite.FILE}*"))

    def give(self, path: Path) -> None:
        """Makes the service user the owner."""
        os.chown(path, self.account.uid, self.account.gid)

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
