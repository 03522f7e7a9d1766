"""What root does for an upgrade, whose work is done as the service user: the journal and the environments are root's, and so is
the directory in which the data and their copy lie."""

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chromad.config import Config
from chromad.errors import ConfigurationError
from chromad.host import files, privileges, signals
from chromad.host.privileges import Step
from chromad.maintenance import environment, upgrade_journal
from chromad.maintenance.upgrade_journal import Journal
from chromad.store import copies

_TICK = 0.2  # seconds


class RootSteps:
    """Each is a word, and does what it means where this process is root's part, or is all there is."""

    def __init__(self, config: Config, path: Path) -> None:
        """path: of the configuration."""
        self._config = config
        self._path = path
        self.known: Mapping[str, Step] = {
            "upgrade backup": self._back_up,
            "upgrade begin": self._begin,
            "upgrade exchange": lambda: files.exchange(self._journal().copy, self._config.data_dir),
            "upgrade switch": lambda: environment.switch(self._journal().new),
            "upgrade switch back": lambda: environment.switch(self._journal().old),
            "upgrade commit": lambda: upgrade_journal.write(replace(self._journal(), compared=True)),
            "upgrade keep": lambda: files.rename(self._journal().copy, kept(self._config, self._journal())),
            "upgrade drop": lambda: files.remove_tree(self._journal().copy, ignore_errors=True),
            "upgrade end": upgrade_journal.remove,
        }

    def do(self, word: str) -> Any:
        """Does it, or has root's part do it."""
        return privileges.ask(word) if privileges.may(word) else self.known[word]()

    def copies(self) -> list[Path]:
        """The copy of the data, which the new version's engine is to bring to its schema."""
        found = upgrade_journal.read()
        return [found.copy] if found and found.data_dir == self._config.data_dir else []

    def _journal(self) -> Journal:
        found = upgrade_journal.read()
        if found is None or found.data_dir != self._config.data_dir:
            raise ConfigurationError("no upgrade of these data goes on", "chromactl upgrade")
        return found

    def _back_up(self) -> list[Any]:
        """Has the environment that the service runs from take a backup; gives its exit code, and what it says."""
        program = environment.active() / "bin/chromactl"
        command = [str(program), "--config", str(self._path), "--json", "backup"]
        with signals.deferred():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            while True:
                try:
                    said, _ = process.communicate(timeout=_TICK)
                    break
                except subprocess.TimeoutExpired:
                    if privileges.interrupted():
                        process.terminate()
        except BaseException:
            # It is interrupted as we are, and takes a moment to clear up.
            process.terminate()
            process.communicate()
            raise
        return [process.returncode, said]

    def _begin(self) -> None:
        """Writes the journal, and makes the directory of the copy for the owner of the data."""
        data_dir = self._config.data_dir
        owner = data_dir.stat()
        # Not in restore/: nobody but root can put something else in its place here.
        copy = data_dir.with_name(f".{data_dir.name}.upgrade-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
        new = environment.own()
        upgrade_journal.write(
            Journal(
                upgrade_journal.FORMAT,
                datetime.now(UTC).isoformat(timespec="seconds"),
                environment.active(),
                new.path,
                new.engine,
                data_dir,
                owner.st_ino,
                copy,
                compared=False,
            )
        )
        files.make_directory(copy, 0o700, (owner.st_uid, owner.st_gid))


def kept(config: Config, journal: Journal) -> Path:
    """Where the former data are in the end."""
    return copies.place(config.data_dir) / f"replaced-{journal.copy.name.rpartition('-')[2]}"
