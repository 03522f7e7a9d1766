"""Backups, restores and what is said of them, while others kill, write, lock, fence and fill disks."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import chromadb.errors
import pytest
from chromad.config import Listen
from chromad.engine.api import Api
from chromad.errors import EngineError

from tests.integration import mounts, records, repositories
from tests.integration.account import BIN, current, until
from tests.integration.site import Result, Site
from tests.integration.unit import Unit, ended

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

LAST_ONE = {"backup.keep": {"last": 1, "daily": 0, "weekly": 0, "monthly": 0}}
COPY = re.compile("chromad-restore-[0-9a-f]{16}")
SINKS = (">/dev/full", ">&-", "|true")


@pytest.fixture(scope="module")
def backup() -> Iterator[Site]:
    """A served site with a backup of `notes`, which takes a moment to be copied, and that serves `kept` alone."""
    site = Site()
    client = site.serve().client()
    records.fill(client, "kept", 20)
    records.fill(client, "notes", 3000)
    site.backup()
    client.delete_collection("notes")
    yield site
    site.remove()


def names(site: Site) -> list[str]:
    """Of the collections that are served."""
    return sorted(each.name for each in site.daemon.client().list_collections())


def held_at(site: Site, word: str, *words: str, after: bool = False) -> tuple[subprocess.Popen[bytes], Path]:
    """Starts chromactl, which holds when it first calls restic with a word, before or after restic works; gives it and the
    file that lets it go on."""
    place = site.root / f"hold-{time.monotonic_ns()}"
    place.mkdir()
    place.chmod(0o777)
    script = place / "restic"
    hold = f"if mkdir {place}/held 2>/dev/null; then while ! test -e {place}/go; do sleep 0.05; done; fi"
    work = f'/usr/bin/restic "$@"; code=$?; {hold}; exit $code' if after else hold
    script.write_text(
        f'#!/bin/sh\ncase " $* " in *\' {word} \'*) {work} ;; esac\nexec /usr/bin/restic "$@"\n', encoding="ascii"
    )
    script.chmod(0o755)
    argv: list[str | Path] = [BIN / "chromactl", "--config", site.config, *words]
    process = site.spawn(argv, current(), {"PATH": f"{place}:{os.environ['PATH']}"})
    until(lambda: (place / "held").exists() or process.poll() is not None, f"restic {word}")
    assert process.poll() is None, ended(process).output
    return process, place / "go"


def shrink(collection: "Collection", count: int) -> None:
    """Deletes so many records."""
    collection.delete(ids=collection.get(include=[], limit=count)["ids"])


def wait_for_a_second() -> None:
    """The next backup is of another second."""
    now = int(time.time())
    until(lambda: int(time.time()) > now, "the next second")


def test_backup_that_is_cut_off_before_it_is_read_back(site: Site) -> None:
    """It is not proven, is not what a restore takes, and what was promised to stay stays."""
    site.configure(LAST_ONE)
    client = site.serve().client()
    records.fill(client, "kept", 500)
    good = site.backup()
    wait_for_a_second()
    kept = client.get_collection("kept", embedding_function=None)
    shrink(kept, 400)
    process, go = held_at(site, "dump", "backup")
    process.send_signal(signal.SIGTERM)
    go.touch()
    result = ended(process)
    assert result.code == 143, result.output
    [cut_off] = [each for each in site.listed() if each["id"] != good["id"]]
    assert not cut_off["proven"]
    assert (
        f"interrupted by SIGTERM: the backup {cut_off['id']} is stored, but not proven; the last good one is as it was"
        in result.output
    )
    assert site.chromactl("restore", "--dry-run", "--json", "--target", str(site.root / "x")).json()["id"] == good["id"]
    assert_promised(site, kept, good["id"])


def test_backup_that_is_killed_before_its_entry(site: Site) -> None:
    """The ledger has an earlier promise, so nobody looks for another one in the repository."""
    site.configure(LAST_ONE)
    client = site.serve().client()
    records.fill(client, "kept", 1200)
    first = site.backup()["id"]
    kept = client.get_collection("kept", embedding_function=None)
    shrink(kept, 700)
    wait_for_a_second()
    good = site.backup()["id"]
    shrink(kept, 400)
    wait_for_a_second()
    process, go = held_at(site, "dump", "backup")
    process.kill()
    go.touch()
    assert ended(process).code == -signal.SIGKILL
    assert len(site.ledger["taken"]) == 2
    assert_promised(site, kept, good)
    assert first in [each["id"] for each in site.listed()]


def assert_promised(site: Site, kept: "Collection", good: str) -> None:
    """The backup before the one that shrank stays for 30 days, although the next one has more than half of it again."""
    wait_for_a_second()
    records.upsert(kept, {f"more-{number}": records.make(f"more-{number}") for number in range(200)})
    site.edit_ledger(retained="")
    taken = site.backup()
    assert good in [each["id"] for each in site.listed() if each["proven"]]
    promise = site.ledger["kept"][-1]
    created = datetime.fromisoformat(taken["created"])
    assert datetime.fromisoformat(promise["until"]) > created + timedelta(days=29)
    assert promise["records"] == 500


class _Client(threading.Thread):
    """A client that waits for a collection and works on it at once, again and again while it is copied."""

    def __init__(self, site: Site, name: str, work: "Callable[[Collection], None]") -> None:
        super().__init__(daemon=True)
        self._client = site.daemon.client()
        self._name, self._work = name, work
        self.stop = False
        self.refused = 0
        self.problem: Exception | None = None

    def run(self) -> None:
        """Ends when its work was acknowledged once."""
        while not self.stop:
            try:
                collection = self._client.get_collection(self._name, embedding_function=None)
            except chromadb.errors.NotFoundError:
                self.refused += 1
                continue
            try:
                self._work(collection)
            except Exception as error:
                self.problem = error
            return


def _write(collection: "Collection") -> None:
    records.upsert(collection, {"notes-2999": records.make("notes-2999", 7), "own": records.make("own", 7)})


def _delete(collection: "Collection") -> None:
    collection.delete(ids=["notes-0", "notes-2999"])


@pytest.mark.parametrize("work", [_write, _delete])
def test_client_that_waits_for_the_collection(backup: Site, work: "Callable[[Collection], None]") -> None:
    """It finds it whole: what it writes and deletes stays so, and is not held against the copy."""
    client = _Client(backup, "notes", work)
    client.start()
    try:
        result = backup.chromactl("restore", "--collection", "notes")
        assert result.code == 0, result.output
        client.join(30)
        assert not client.is_alive()
        assert client.problem is None
        assert client.refused
        expected = {key: records.make(key) for key in (f"notes-{number}" for number in range(3000))}
        if work is _write:
            expected |= {key: records.make(key, 7) for key in ("notes-2999", "own")}
        else:
            del expected["notes-0"], expected["notes-2999"]
        records.assert_equal(backup.daemon.client(), "notes", expected)
        assert names(backup) == ["kept", "notes"]
    finally:
        client.stop = True
        backup.daemon.client().delete_collection("notes")


def test_client_that_makes_the_collection_meanwhile(backup: Site) -> None:
    """It keeps it, and the copy is taken back."""
    process = backup.spawn(
        [BIN / "chromactl", "--config", backup.config, "restore", "--collection", "notes"], current()
    )
    until(lambda: len(names(backup)) > 1 or process.poll() is not None, "the copy", pause=0)
    own = records.create(backup.daemon.client(), "notes")
    records.upsert(own, {"own": records.make("own")})
    try:
        result = ended(process)
        assert result.code == 1, result.output
        assert "Traceback" not in result.output
        assert "HINT: " in result.output
        records.assert_equal(backup.daemon.client(), "notes", {"own": records.make("own")})
        assert names(backup) == ["kept", "notes"]
    finally:
        backup.daemon.client().delete_collection("notes")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_the_copy(backup: Site, number: int) -> None:
    process = backup.spawn(
        [BIN / "chromactl", "--config", backup.config, "restore", "--collection", "notes"], current()
    )
    until(lambda: len(names(backup)) > 1 or process.poll() is not None, "the copy", pause=0)
    process.send_signal(number)
    result = ended(process)
    assert result.code == 128 + number, result.output
    assert COPY.search(result.output)
    assert names(backup) == ["kept"]
    assert backup.asides() == []


def test_copy_of_a_killed_run(backup: Site) -> None:
    """The next one removes it, and nothing else."""
    process = backup.spawn(
        [BIN / "chromactl", "--config", backup.config, "restore", "--collection", "notes"], current()
    )
    until(lambda: len(names(backup)) > 1 or process.poll() is not None, "the copy", pause=0)
    process.kill()
    assert ended(process).code == -signal.SIGKILL
    [left] = [name for name in names(backup) if name != "kept"]
    assert COPY.fullmatch(left)
    client = backup.daemon.client()
    others = ["chromad-restore-0123", f"chromad-restore-{'0' * 17}", f"chromad-restore-{'G' * 16}", f"a-{left}"]
    for name in others:
        records.create(client, name)
    result = backup.chromactl("restore", "--collection", "notes", "--into", "copied")
    assert result.code == 0, result.output
    assert left in result.output
    assert names(backup) == sorted(["kept", "copied", *others])
    assert client.get_collection("copied", embedding_function=None).count() == 3000
    for name in ("copied", *others):
        client.delete_collection(name)
    assert backup.asides() == []


def refused_alike(site: Site, code: int, fact: str, *words: str) -> None:
    """Dry and real: at once, with nothing changed."""
    before = names(site)
    for more in ((), ("--dry-run",)):
        result = site.chromactl(*words, *more)
        assert result.code == code, (more, result.output)
        assert fact in result.output
        assert "HINT: " in result.output
        assert "Traceback" not in result.output
    assert names(site) == before
    assert site.asides() == []


def test_target_that_is_a_link(backup: Site) -> None:
    (backup.root / "empty").mkdir()
    for name, to in (("link", "empty"), ("dangling", "nowhere")):
        link = backup.root / name
        link.symlink_to(backup.root / to)
        refused_alike(backup, 78, "is a symbolic link", "restore", "--target", str(link))
        assert link.is_symlink()


@pytest.mark.root
def test_target_that_is_a_mount_point(backup: Site) -> None:
    point = backup.root / "mounted"
    point.mkdir()
    with mounts.small(point, 1 << 20):
        refused_alike(backup, 78, "is a mount point and cannot be renamed", "restore", "--target", str(point))
    assert list(point.iterdir()) == []


def test_target_inside_of_what_is_in_use(backup: Site) -> None:
    (backup.root / "by-link").symlink_to(backup.checkpoints)
    for place in (backup.data, backup.checkpoints, backup.backups, backup.quarantine, backup.root / "by-link"):
        refused_alike(backup, 78, "lies inside", "restore", "--target", str(place / "new"))
        assert not (place / "new").exists()


@pytest.mark.parametrize("name", ["ab", "a b", "-abc", "abc-", "a/b", "x" * 513, "ä-ä-ä"])
def test_name_that_the_service_does_not_take(backup: Site, name: str) -> None:
    refused_alike(
        backup, 78, "the service does not make the collection", "restore", "--collection", "notes", f"--into={name}"
    )


@pytest.mark.parametrize("name", ["abc", "x" * 512, "a..b", "1.2.3.4", "1.2.3.456", "a.b-c_d", "A00"])
def test_name_is_judged_as_the_engine_does(backup: Site, name: str) -> None:
    client = backup.daemon.client()
    taken = True
    try:
        Api(Listen(port=backup.port)).create_collection(name)
        client.delete_collection(name)
    except EngineError:
        taken = False
    result = backup.chromactl("restore", "--collection", "notes", "--into", name, "--dry-run")
    assert result.code == (0 if taken else 78), result.output


def test_database_that_is_gone(site: Site) -> None:
    daemon = site.serve()
    api = Api(Listen(port=site.port))
    api.request("POST", "tenants/default_tenant/databases", {"name": "second"})
    records.fill(daemon.client(database="second"), "notes", 20)
    site.backup()
    api.request("DELETE", "tenants/default_tenant/databases/second")
    refused_alike(site, 1, "the service has no database 'second'", "restore", "--collection", "notes")


def test_inexact_without_a_time(backup: Site) -> None:
    refused_alike(backup, 2, "--inexact is for --at", "restore", "--inexact", "--target", str(backup.root / "new"))


def test_fenced_writes(backup: Site) -> None:
    assert backup.chromactl("fence", "--reason", "moving house").code == 0
    try:
        refused_alike(backup, 75, "moving house", "restore", "--collection", "notes")
    finally:
        assert backup.chromactl("unfence").code == 0


def test_missing_key_of_the_copy(backup: Site) -> None:
    config = backup.config.read_text(encoding="utf-8")
    before = backup.listed()
    key = backup.root / "no.key"
    backup.configure({"backup.copy_to": {"repository": str(backup.root / "second"), "password_file": str(key)}})
    try:
        refused_alike(backup, 78, str(key), "backup")
    finally:
        backup.write_config(config)
    assert backup.listed() == before


def test_verify_while_another_host_has_the_lock(backup: Site) -> None:
    """That says nothing of the backup: no drill has failed."""
    large = backup.root / "large"
    large.mkdir(mode=0o755)
    (large / "file").write_bytes(os.urandom(64 << 20))
    backup.give_all(large)
    before = backup.ledger["drills"]
    argv: list[str | Path] = ["restic", "--no-cache", "--repo", backup.backups, "backup", "--host", "another", large]
    other = backup.spawn(argv, environment={"RESTIC_PASSWORD": repositories.PASSWORD})
    locks = backup.backups / "locks"
    until(lambda: any(len(each.name) == 64 for each in locks.iterdir()) or other.poll() is not None, "a lock", pause=0)
    other.send_signal(signal.SIGSTOP)
    try:
        assert other.poll() is None
        result = backup.chromactl("verify")
        assert result.code == 75, result.output
        assert "is locked" in result.output
        assert "HINT: " in result.output
        assert backup.ledger["drills"] == before
        drill = [each for each in backup.chromactl("doctor", "--json").json() if each["name"] == "drill"]
        assert all("locked" not in each["fact"] for each in drill)
    finally:
        other.kill()
        other.wait()
        backup.restic("unlock", "--remove-all")


def test_forget_of_two_at_once(site: Site) -> None:
    """One has looked at what there is, and another takes the rest away before it has the lock: the last one stays."""
    records.fill(site.serve().client(), "kept", 20)
    first = site.backup()["id"]
    wait_for_a_second()
    second = site.backup()["id"]
    process, go = held_at(site, "snapshots", "backups", "forget", first, "--confirm", after=True)
    other = site.chromactl("backups", "forget", second, "--confirm")
    assert other.code == 0, other.output
    go.touch()
    result = ended(process)
    assert result.code == 1, result.output
    assert "no proven backup of" in result.output
    assert "HINT: " in result.output
    assert [(each["id"], each["proven"]) for each in site.listed()] == [(first, True)]


@pytest.mark.root
def test_damaged_history(site: Site) -> None:
    """A restore says so before it stops anything."""
    held = records.fill(site.serve().client(), "kept", 20)
    site.backup()
    unit = Unit(site)
    try:
        path = site.checkpoints / "history.json"
        path.write_text("{", encoding="ascii")
        for words in (["--stop"], ["--stop", "--dry-run"]):
            result = unit.chromactl("restore", *words)
            assert result.code == 78, result.output
            assert f"{path} cannot be read, or is damaged" in result.output
            assert f"HINT: move it aside: mv {path} " in result.output
            assert unit.asked == []
        records.assert_equal(site.daemon.client(), "kept", held)
        assert site.asides() == []
    finally:
        unit.close()


def into(site: Site, sink: str, *words: str) -> Result:
    """Runs chromactl with its output there; gives the other stream."""
    argv = " ".join(map(str, [BIN / "chromactl", "--config", site.config, *words]))
    found = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {argv} {sink}"], capture_output=True, text=True, check=False, timeout=100
    )
    return Result(found.returncode, found.stderr)


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize(
    "words",
    [["backups"], ["backups", "--json"], ["backup"], ["status"], ["status", "--json"], ["--help"]],
    ids=" ".join,
)
def test_output_that_cannot_be_written(backup: Site, words: list[str], sink: str) -> None:
    """The work is done; one line says what is missing, and nothing where the reader has left."""
    before = len(backup.listed()) if words == ["backup"] else 0
    result = into(backup, sink, *words)
    assert result.code in (1, 141) if sink == "|true" else result.code == 1, result.output
    said = result.output.strip().splitlines()
    if sink == "|true":
        assert said == []
    else:
        [line] = said
        assert "it was done, but the output could not be written" in line
    if words == ["backup"]:
        assert len(backup.listed()) == before + 1
        wait_for_a_second()


@pytest.mark.parametrize("sink", SINKS)
def test_error_that_cannot_be_written(backup: Site, sink: str) -> None:
    """Its exit code stays, and nobody is told that something was done."""
    result = into(backup, sink, "backups", "show", "ffffffff", "--json")
    assert result.code == 1
    assert "it was done" not in result.output
    assert "Traceback" not in result.output
    assert ("ERROR: " in result.output) == (sink != "|true")


def test_lines_of_an_engine_of_our_own(backup: Site) -> None:
    """What it refuses us is no news for a terminal."""
    program = """
import sqlite3, sys
from pathlib import Path
from chromad import config
from chromad.backup import proof
from chromad.errors import EngineError
with proof.scratch(config.load(Path(sys.argv[1])).model_copy(update={"allow_root": True}), Path(sys.argv[2]), lambda: None) as api:
    try:
        with sqlite3.connect(Path(sys.argv[2], "chroma.sqlite3")) as connection:
            connection.execute("DROP TABLE collection_metadata")
        api.collection_names("default_tenant", "default_database")
    except EngineError as error:
        print("answer", error.status)
"""
    place = backup.root / "scratch"
    assert backup.chromactl("restore", "--target", str(place)).code == 0
    argv: list[str | Path] = [sys.executable, "-c", program, backup.config, place]
    result = ended(backup.spawn(argv, current()))
    assert "answer 500" in result.output
    assert "response failed" not in result.output
