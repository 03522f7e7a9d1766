"""A service user who has been broken into puts links, pipes and directories in place of what root's verbs touch.

What these touch is taken from a trace of each verb. ATTACKS=all tries every path with every kind, else some of them are.
"""

import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration import records
from tests.integration.account import AS_ROOT, BIN, current
from tests.integration.site import Site

pytestmark = [
    pytest.mark.skipif(not AS_ROOT, reason="is about what root does"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

VERBS = {
    "backup": ["backup", "--full"],
    "verify": ["verify"],
    "restore": ["restore"],
    "target": ["restore", "--target", "{root}/look"],
    "repair": ["repair"],
    "adopt": ["--config", "{root}/empty.yml", "adopt", "{root}/old"],
    "doctor": ["doctor", "--fix", "--yes"],
}
KINDS = ("file", "absent", "directory", "pipe", "loop")
SAMPLE = 2
_CALLS = "open,openat,creat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,link,linkat,chmod,fchmodat"
_CHANGING = re.compile(r"<([^<>]*)>, \"([^\"/]+)\"|\"(/[^\"]+)\"")
# Names that nobody can know before
_UNKNOWN = re.compile(r"staging-|replaced-|\.chromad-restore-|[0-9a-f]{16}|\.new$|-(journal|wal|shm)$")


class Host:
    """A site that is put back before each attack. secret, closed: of root alone."""

    def __init__(self) -> None:
        self.site = site = Site()
        records.fill(site.serve().client(), "kept", 150, sync_threshold=100)
        site.backup()
        site.daemon.stop()
        (site.root / "restore").mkdir(mode=0o750)
        site.give(site.root / "restore")
        shutil.copytree(site.data, site.root / "old", ignore=shutil.ignore_patterns("chromad.*", ".chromad-*"))
        self.owned = [
            site.data,
            site.checkpoints,
            site.quarantine,
            site.backups,
            site.root / "restore",
            self._make_empty(),
        ]
        self._kept = site.root / "kept"
        self._kept.mkdir(mode=0o700)
        for path in self.owned:
            subprocess.run(["cp", "-a", path, self._kept], check=True)
        self.secret, self.closed = site.root / "secret", site.root / "closed"
        self.secret.write_text("of root\n", encoding="ascii")
        self.secret.chmod(0o600)
        self.closed.mkdir(mode=0o700)
        (self.closed / "file").write_text("of root as well\n", encoding="ascii")
        self._before = self._victims()
        self._touched: dict[str, list[Path]] = {}

    def _make_empty(self) -> Path:
        """A configuration without data, which may take some over; gives where they are to be."""
        empty = self.site.root / "empty"
        for path in (empty, *(empty / name for name in ("data", "checkpoints", "quarantine", "restore"))):
            path.mkdir(mode=0o750)
            self.site.give(path)
        document = yaml.safe_load(self.site.config.read_text(encoding="utf-8"))
        document |= {"data_dir": str(empty / "data"), "checkpoint_dir": str(empty / "checkpoints")}
        (self.site.root / "empty.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
        return empty

    def words(self, verb: str) -> list[str]:
        return [word.format(root=self.site.root) for word in VERBS[verb]]

    def back(self) -> None:
        for path in self.owned:
            shutil.rmtree(path, ignore_errors=True)
            subprocess.run(["cp", "-a", self._kept / path.name, path.parent], check=True)
        shutil.rmtree(self.site.root / "look", ignore_errors=True)

    def touched(self, verb: str) -> list[Path]:
        """What a verb opens, makes, renames or removes below what the service user can write, under names that can be known."""
        if verb not in self._touched:
            self.back()
            trace = self.site.root / "trace"
            argv = ["strace", "-f", "-y", "-s", "400", "-e", f"trace={_CALLS}", "-o", str(trace)]
            done = subprocess.run(
                [*argv, BIN / "chromactl", "--config", self.site.config, *self.words(verb)],
                capture_output=True,
                check=False,
            )
            # One that is refused at once would touch nothing.
            assert done.returncode in (0, *((1, 2) if verb == "doctor" else ())), done.stdout + done.stderr
            found = set()
            for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
                for parent, name, path in _CHANGING.findall(line):
                    one = Path(path or f"{parent}/{name}")
                    if any(top in one.parents for top in self.owned) and not _UNKNOWN.search(str(one)):
                        found.add(one)
            self._touched[verb] = sorted(found)
        return self._touched[verb]

    def attack(self, verb: str, place: Path, kind: str) -> None:
        self.back()
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        elif os.path.lexists(place):
            place.unlink()
        if not place.parent.is_dir():
            return
        if kind == "pipe":
            os.mkfifo(place)
        else:
            target = {"file": self.secret, "absent": self.closed / "new", "directory": self.closed, "loop": place}[kind]
            place.symlink_to(target)
        self.site.give(place)
        process = self.site.spawn([BIN / "chromactl", "--config", self.site.config, *self.words(verb)], current())
        try:
            output, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            # One that waits for a pipe harms nobody but itself.
            process.kill()
            output, _ = process.communicate()
        assert b"Traceback" not in output, output.decode()
        assert self._victims() == self._before, f"{verb}: {kind} at {place}"
        for top in self.owned:
            for path in top.rglob("*") if top.is_dir() and not top.is_symlink() else ():
                if path.is_file() and not path.is_symlink():
                    assert b"of root" not in path.read_bytes(), path

    def _victims(self) -> object:
        looks = []
        for path in (self.secret, self.closed, self.closed / "file"):
            status = path.stat()
            looks.append((status.st_uid, status.st_gid, status.st_mode, status.st_ino))
        texts = [path.read_text(encoding="ascii") for path in (self.secret, self.closed / "file")]
        return looks, texts, sorted(os.listdir(self.closed))


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.site.remove()


@pytest.mark.parametrize("verb", VERBS)
def test_in_place_of_what_a_verb_touches(host: Host, verb: str) -> None:
    cases = [(place, kind) for place in host.touched(verb) for kind in KINDS]
    assert cases
    if os.environ.get("ATTACKS") != "all":
        cases = random.Random(verb).sample(cases, min(SAMPLE, len(cases)))
    for place, kind in cases:
        host.attack(verb, place, kind)
    print(f"{verb}: {len(cases)} attacks")
