"""The key of a repository is seen by nobody: not in command lines, environments, output, logs or files."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.integration import records
from tests.integration.site import Site

KEY = "the-key-that-nobody-sees"
CREDENTIAL = "the-credential-that-only-restic-sees"


class Watch(threading.Thread):
    """Reads command lines and environments of all processes, again and again.

    seen: their names, empty for one that is about to become another. commands: command lines with the text. environments: commands whose environment has it, and the mode of the file.
    """

    def __init__(self, *texts: str) -> None:
        super().__init__(daemon=True)
        self.seen: set[str] = set()
        self.commands: set[str] = set()
        self.environments: set[tuple[str, str, int]] = set()
        self._texts = [text.encode() for text in texts]
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.02):
            for path in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    self._look(path)

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _look(self, path: Path) -> None:
        command = (path / "cmdline").read_bytes()
        name = Path(os.fsdecode(command.split(b"\0")[0])).name
        self.seen.add(name)
        environment = (path / "environ").read_bytes() if os.access(path / "environ", os.R_OK) else b""
        for text in self._texts:
            if text in command:
                self.commands.add(os.fsdecode(command))
            if text in environment:
                self.environments.add((name, text.decode(), (path / "environ").stat().st_mode & 0o777))


@contextmanager
def watched(*texts: str) -> Iterator[Watch]:
    watch = Watch(*texts)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def test_key_is_nowhere(site: Site) -> None:
    site.key.chmod(0o600)
    site.key.write_text(f"{KEY}\n", encoding="ascii")
    environment = site.root / "environment"
    environment.write_text(f"AWS_SECRET_ACCESS_KEY={CREDENTIAL}\n", encoding="ascii")
    environment.chmod(0o600)
    second = site.root / "second"
    second.mkdir()
    site.give(second)
    site.configure(
        {
            "backup.environment_file": str(environment),
            "backup.copy_to": {"repository": str(second), "password_file": str(site.key)},
            "log_level": "debug",
        }
    )
    daemon = site.serve()
    records.fill(daemon.client(), "some", 20)
    outputs = []
    with watched(KEY, CREDENTIAL) as watch:
        for words in (
            ["backups", "init"],
            ["backup", "--json"],
            ["backups", "--json"],
            ["backups", "show", "latest", "--json"],
            ["verify", "--json"],
            ["restore", "--target", str(site.run / "look"), "--json"],
            ["config", "show", "--json"],
            ["status", "--json"],
        ):
            result = site.chromactl(*words)
            assert result.code == 0, result.output
            outputs.append(result.output)
    daemon.stop()
    assert {"restic", "setpriv"} & watch.seen, "the watch is fast enough"
    assert not watch.commands
    assert {(name, text) for name, text, _ in watch.environments} <= {
        (name, CREDENTIAL) for name in ("restic", "setpriv", "")
    }, "restic's back ends take their credentials from the environment, which its user alone may read"
    assert {mode for _, _, mode in watch.environments} <= {0o400}
    for text in (*outputs, daemon.log):
        assert KEY not in text
        assert CREDENTIAL not in text
    for top in (site.backup_dir, site.data, site.backups, second, site.run / "look"):
        for path in top.rglob("*"):
            if path.is_file():
                assert KEY.encode() not in path.read_bytes(), path
                assert CREDENTIAL.encode() not in path.read_bytes(), path
