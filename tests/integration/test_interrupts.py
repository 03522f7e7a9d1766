"""Signals at any moment of a verb: the service is as it was, one line says what was done, and nothing is left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromad.chroma import sqlite

from tests.integration import records
from tests.integration.account import AS_ROOT, BIN, until
from tests.integration.records import Record
from tests.integration.site import Site
from tests.integration.unit import Unit, ended
from tests.soak import interrupts

pytestmark = pytest.mark.root

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Host:
    """A service under a systemctl, whose collection `kept` is as the backup has it or as it is now."""

    def __init__(self) -> None:
        self.site = Site()
        daemon = self.site.serve()
        self.then = records.fill(daemon.client(), "kept", 60)
        # Takes a moment to be copied
        records.fill(daemon.client(), "many", 5000)
        self.site.backup()
        self.now = {key: records.make(key, 1) for key in self.then}
        records.upsert(daemon.client().get_collection("kept", embedding_function=None), self.now)
        self.unit = Unit(self.site)

    def close(self) -> None:
        self.unit.close()
        self.site.remove()

    def holds(self, wanted: dict[str, Record]) -> None:
        """It serves exactly these."""
        assert self.unit.serving
        records.assert_equal(self.site.daemon.client(), "kept", wanted)

    def back(self) -> None:
        """As at the beginning: it serves what it holds now, with nothing beside it."""
        unit = self.unit
        unit.before.clear()
        unit.after.clear()
        unit.broken.clear()
        unit.asked.clear()
        if not unit.serving:
            self.site.serve()
        client = self.site.daemon.client()
        for collection in client.list_collections():
            if collection.name != "kept":
                client.delete_collection(collection.name)
        records.upsert(client.get_collection("kept", embedding_function=None), self.now)
        for path in self.site.asides():
            if path.is_dir():
                subprocess.run(["rm", "-r", path], check=True)
            else:
                path.unlink()


@pytest.fixture(scope="module")
def _host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


@pytest.fixture
def host(_host: Host) -> Host:
    _host.back()
    return _host


def one_line(output: str, number: int) -> str:
    line = output.strip()
    assert "\n" not in line, output
    assert line.startswith(f"interrupted by {signal.Signals(number).name}: "), output
    return line


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_service_is_stopped(host: Host, number: int) -> None:
    restore = host.unit.spawn("restore", "--stop")
    until(lambda: list(host.site.root.glob("restore/staging-*Z")) or restore.poll() is not None, "a copy", pause=0)
    restore.send_signal(number)
    result = ended(restore)
    assert result.code == 128 + number, result.output
    assert one_line(result.output, number).endswith("nothing was changed")
    assert host.unit.asked == []
    assert host.site.asides() == []
    host.holds(host.now)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_while_the_service_is_stopped(host: Host, number: int, moment: str) -> None:
    """It goes back. A second signal changes nothing of that."""
    restore: list[subprocess.Popen[bytes]] = []
    getattr(host.unit, moment)["stop"] = lambda: restore[0].send_signal(number)
    host.unit.before["start"] = lambda: restore[0].send_signal(number)
    restore.append(host.unit.spawn("restore", "--stop"))
    result = ended(restore[0])
    assert result.code == 128 + number, result.output
    assert one_line(result.output, number).endswith("the data are as they were; the service serves again")
    assert host.unit.asked == ["stop", "start"]
    assert host.site.asides() == []
    host.holds(host.now)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_after_the_exchange(host: Host, number: int, moment: str) -> None:
    """It finishes."""
    restore: list[subprocess.Popen[bytes]] = []
    getattr(host.unit, moment)["start"] = lambda: restore[0].send_signal(number)
    restore.append(host.unit.spawn("restore", "--stop"))
    result = ended(restore[0])
    assert result.code == 128 + number, result.output
    line = one_line(result.output, number)
    [replaced] = host.site.asides()
    assert "all the same" in line
    assert f"the former data are in {replaced}" in line
    host.holds(host.then)


@pytest.mark.parametrize(("word", "verb"), [("start", ("restore", "--stop")), ("restart", ("verify-persistence",))])
def test_service_that_does_not_come_up_keeps_nobody_waiting(host: Host, word: str, verb: tuple[str, ...]) -> None:
    """The fourth signal ends the verb; systemd goes on."""
    go_on = threading.Event()

    def hang() -> None:
        assert go_on.wait(60)

    host.unit.before[word] = hang
    process = host.unit.spawn(*verb)
    try:
        until(lambda: word in host.unit.asked, word)
        for _ in range(4):
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            time.sleep(1.1)
        output, _ = process.communicate(timeout=5)
    finally:
        go_on.set()
    assert process.returncode == 1, output
    assert f"nobody waits any more for systemctl {word} chromadb.service, which goes on" in output.decode()
    assert "systemctl status chromadb.service" in output.decode()
    until(lambda: host.unit.quiet, "the end of what systemd does")
    host.holds(host.then if word == "start" else host.now)


@pytest.mark.parametrize("option", ["--collection", "--at", "--into"])
def test_empty_value_does_not_mean_everything(host: Host, option: str) -> None:
    """As a script has it whose variable is not set: the service is not even stopped."""
    result = host.unit.chromactl("restore", option, "", "--stop")
    assert host.unit.asked == []
    assert host.site.asides() == []
    host.holds(host.now)
    assert result.code == 2, result.output
    assert "is empty" in result.output


def test_for_machines(host: Host) -> None:
    restore: list[subprocess.Popen[bytes]] = []
    host.unit.after["stop"] = lambda: restore[0].send_signal(signal.SIGTERM)
    restore.append(host.unit.spawn("--json", "restore", "--stop"))
    result = ended(restore[0])
    assert result.code == 143
    assert json.loads(result.output).keys() == {"error", "hint", "exit_code"}
    host.holds(host.now)


def test_ctrl_c_does_not_reach_systemctl(host: Host) -> None:
    """The whole process group gets it, as from a terminal."""
    restore: list[subprocess.Popen[bytes]] = []
    host.unit.before["stop"] = lambda: os.killpg(restore[0].pid, signal.SIGINT)
    restore.append(host.unit.spawn("restore", "--stop"))
    result = ended(restore[0])
    assert result.code == 130, result.output
    host.holds(host.now)


def test_hangup_that_is_ignored(host: Host) -> None:
    restore: list[subprocess.Popen[bytes]] = []
    host.unit.after["stop"] = lambda: restore[0].send_signal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup(1) does
    try:
        restore.append(host.unit.spawn("restore", "--stop"))
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert ended(restore[0]).code == 0
    host.holds(host.then)


@pytest.mark.parametrize("word", ["stop", "start"])
def test_systemctl_that_fails(host: Host, word: str) -> None:
    """It is restarted where it served, whatever failed."""
    host.unit.broken[word] = 1
    result = host.unit.chromactl("restore", "--stop")
    assert result.code == 1
    assert "Traceback" not in result.output
    assert "HINT: " in result.output
    if word == "start":
        assert "the former data are back in place" in result.output
        [failed] = host.site.asides()
        assert failed.name.startswith("failed-")
        assert not (failed / ".chromad-ballast").exists()
    else:
        assert host.site.asides() == []
    host.holds(host.now)


def test_service_that_does_not_come_back_at_all(host: Host) -> None:
    host.unit.broken["start"] = 2
    result = host.unit.chromactl("restore", "--stop")
    assert result.code == 1
    assert "the service did not start again" in result.output
    host.site.serve()
    host.holds(host.now)


def test_data_that_somebody_opens_meanwhile(host: Host) -> None:
    """The look at who has the data open fails with the service down already."""
    held: list[int] = []
    host.unit.after["stop"] = lambda: held.append(_flock(host.site.data / "chromad.lock"))
    host.unit.before["start"] = lambda: os.close(held[0])
    result = host.unit.chromactl("restore", "--stop")
    assert result.code == 75, result.output
    assert host.site.asides() == []
    host.holds(host.now)


def _flock(path: Path) -> int:
    import fcntl

    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


# Killed


@pytest.mark.parametrize("moment", ["copy", "stop", "start"])
def test_killed(host: Host, moment: str) -> None:
    """The next start serves, doctor names what was left, and the next run deals with it."""
    restore: list[subprocess.Popen[bytes]] = []

    def kill() -> None:
        restore[0].kill()

    if moment == "copy":
        restore.append(host.unit.spawn("restore", "--stop"))
        until(lambda: list(host.site.root.glob("restore/staging-*Z")), "a copy", pause=0)
        restore[0].kill()
    else:
        getattr(host.unit, {"stop": "after", "start": "before"}[moment])[moment] = kill
        host.unit.broken["start"] = int(moment == "start")
        restore.append(host.unit.spawn("restore", "--stop"))
    restore[0].communicate(timeout=60)
    until(lambda: host.unit.asked[-1:] == ([] if moment == "copy" else [moment]), "the end of systemctl")
    host.unit.before.clear()
    host.unit.after.clear()
    if not host.unit.serving:
        host.site.serve()
    host.holds(host.then if moment == "start" else host.now)

    [left] = [path for path in host.site.asides() if path.is_dir() and path.name.endswith("Z")]
    named = [each for each in host.site.chromactl("doctor", "--json").json() if each["name"] == "asides"]
    assert any(str(left) in each["fact"] for each in named), named
    assert all(each["data"]["bytes"] > 0 for each in named)
    result = host.unit.chromactl("restore", "--stop")
    assert result.code == 0, result.output
    if moment != "start":
        assert not left.exists()
    assert all(path.name.startswith("replaced-") for path in host.site.asides()), host.site.asides()
    host.holds(host.then)


def test_former_data_that_were_left_between_two_renames(host: Host) -> None:
    """As a kill after the exchange leaves them: the note tells by their inode what they are."""
    host.site.daemon.stop()
    parent = host.site.root / "restore"
    parent.mkdir(exist_ok=True)
    left = parent / "staging-20260102T030405.000006Z"
    subprocess.run(["cp", "-a", host.site.data, left], check=True)
    (parent / f"{left.name}.note").write_text(
        json.dumps({"former": left.stat().st_ino, "data_dir": str(host.site.data), "stopped": True})
    )
    host.site.give(parent / f"{left.name}.note")
    host.site.serve()
    result = host.unit.chromactl("restore", "--stop")
    assert result.code == 0, result.output
    assert f"the former data are in {parent}/replaced-20260102T030405.000006Z" in result.output
    assert len(host.site.asides()) == 2
    assert host.site.holds(parent / "replaced-20260102T030405.000006Z", "kept")


def test_data_that_were_left_aside(host: Host) -> None:
    """As a kill leaves them where a file system cannot exchange directories: the next run puts them back."""
    host.site.daemon.stop()
    left = host.site.root / "restore/staging-20260102T030405.000006Z"
    shutil.copytree(host.site.data, left)
    former = left.with_name(f"{left.name}.former")
    host.site.data.rename(former)
    note = {"former": former.stat().st_ino, "data_dir": str(host.site.data), "stopped": True}
    left.with_name(f"{left.name}.note").write_text(json.dumps(note))
    host.site.give_all(left.parent)
    named = [each for each in host.site.chromactl("doctor", "--json").json() if each["name"] == "asides"]
    assert str(left) in named[0]["fact"]
    result = host.unit.chromactl("restore", "none", "--stop")
    assert result.code == 1
    assert f"{host.site.data} is put back" in result.output
    assert host.site.asides() == []
    host.site.serve()
    host.holds(host.now)


@pytest.mark.skipif(not AS_ROOT or shutil.which("strace") is None, reason="is about what root does; needs strace")
@pytest.mark.parametrize("call", [1, 2, 3])
def test_root_is_killed_while_it_exchanges(host: Host, call: int) -> None:
    """At each of its renames, after it: one of the two directories is on the way then, and the next run brings it back."""
    host.site.daemon.stop()
    delay = ["strace", "-f", "-o", str(host.site.root / "trace"), "-e", "trace=renameat2"]
    delay += ["-e", f"inject=renameat2:delay_exit=3000000:when={call}"]
    restore = subprocess.Popen(
        [*delay, BIN / "chromactl", "--config", host.site.config, "restore"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    before = host.site.data.stat().st_ino

    def done() -> bool:
        away, other = bool(list(host.site.root.glob(".staging-*"))), host.site.data.stat().st_ino != before
        return (away, other) == {1: (True, False), 2: (True, True), 3: (False, True)}[call]

    until(lambda: done() or restore.poll() is not None, "the rename", pause=0)
    os.killpg(restore.pid, signal.SIGKILL)
    restore.wait()
    on_the_way = list(host.site.root.glob(".staging-*"))
    assert len(on_the_way) == (0 if call == 3 else 1)
    named = [each for each in host.site.chromactl("doctor", "--json").json() if each["name"] == "asides"]
    assert all(str(path) in named[0]["fact"] for path in on_the_way), named
    host.site.serve()
    host.holds(host.now if call == 1 else host.then)
    result = host.unit.chromactl("restore", "none", "--stop")
    assert result.code == 1, result.output
    assert not list(host.site.root.glob(".staging-*"))
    left = host.site.asides()
    if call == 1:
        assert left == []
    else:
        assert [path.name.partition("-")[0] for path in left] == ["replaced"]
        assert left[0].stat().st_ino == before


def test_systemctl_that_fails_although_the_service_serves(host: Host) -> None:
    """Clients are at work already: that is no reason to go back."""

    def fail() -> None:
        raise OSError("the connection to the bus is lost")

    host.unit.after["start"] = fail
    result = host.unit.chromactl("restore", "--stop")
    assert result.code == 0, result.output
    host.holds(host.then)


def test_what_cannot_be_told_stays(host: Host) -> None:
    """Without a note, or with one that is cut off or of something else, it may be the former data."""
    parent = host.site.root / "restore"
    found = []
    for number, note in enumerate((None, "", "{", '{"former": 1, "data_dir": "/x", "stopped": false}')):
        path = parent / f"staging-20260102T030405.00000{number}Z"
        path.mkdir()
        (path / "chroma.sqlite3").write_text("former data?")
        found.append(path)
        if note is not None:
            path.with_name(f"{path.name}.note").write_text(note)
    result = host.unit.chromactl("restore", "--stop")
    assert result.code == 0, result.output
    named = [each for each in host.site.chromactl("doctor", "--json").json() if each["name"] == "asides"]
    for path in found:
        assert path.name in result.output
        assert (path / "chroma.sqlite3").exists()
        assert any(str(path) in each["fact"] and each["status"] == "warn" for each in named)


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGKILL])
def test_copying_into_the_service(host: Host, number: int) -> None:
    """An incomplete copy is removed; after SIGKILL doctor and the next run name it, and that run removes it."""
    restore = host.unit.spawn("restore", "--collection", "many", "--into", "copied")
    until(lambda: copying(host) or restore.poll() is not None, "the copy", pause=0)
    restore.send_signal(number)
    result = ended(restore)
    if number != signal.SIGKILL:
        assert result.code == 128 + number, result.output
        assert re.search(
            "the incomplete copy 'chromad-restore-[0-9a-f]{16}' is removed again$", one_line(result.output, number)
        )
        assert left(host) == []
        return
    named = [each for each in host.site.chromactl("doctor", "--json").json() if each["name"] == "asides"]
    [copy] = left(host)
    told = f"default_tenant/default_database/{copy}, if it is there, is an incomplete copy"
    assert told in named[0]["fact"]
    result = host.unit.chromactl("restore", "--collection", "many", "--into", "copied")
    assert result.code == 0, result.output
    assert told in result.output
    assert left(host) == ["copied"]
    assert host.site.asides() == []


def copying(host: Host) -> bool:
    """Whether a copy is being filled. Asks the database, which is quicker than a client: the copy takes but a moment."""
    return any(each.name.startswith("chromad-restore-") for each in sqlite.collections(host.site.data))


# What clients do meanwhile


def test_collections_that_clients_change_roll_nothing_back(host: Host) -> None:
    """The moment the service is there again, before anything was compared."""

    def change() -> None:
        client = host.site.daemon.client()
        client.delete_collection("kept")
        records.fill(client, "made", 5)

    host.unit.after["start"] = change
    result = host.unit.chromactl("restore", "--stop", "--json")
    assert result.code == 0, result.output
    assert result.json()["changed"] == ["kept: deleted"]
    assert host.unit.asked == ["stop", "start"]
    records.assert_equal(host.site.daemon.client(), "made", {f"made-{n}": records.make(f"made-{n}") for n in range(5)})
    records.fill(host.site.daemon.client(), "kept", 60)


def test_collection_that_is_emptied_rolls_nothing_back(host: Host) -> None:
    """Nor one that was made anew, or renamed: its log may say nothing of it."""

    def change() -> None:
        client = host.site.daemon.client()
        client.delete_collection("kept")
        records.create(client, "kept")

    host.unit.after["start"] = change
    result = host.unit.chromactl("restore", "--stop", "--json")
    assert (result.code, result.json()["changed"]) == (0, ["kept: deleted"]), result.output


# verify-persistence


def left(host: Host) -> list[str]:
    return [each.name for each in host.site.daemon.client().list_collections() if each.name != "kept"]


def test_persistence_leaves_nothing(host: Host) -> None:
    result = host.unit.chromactl("verify-persistence", "--json")
    assert result.code == 0, result.output
    assert result.json()["survived"] is True
    assert left(host) == []
    assert {path.name for path in host.site.data.iterdir() if path.is_dir()} <= {segment(host)}
    doctor = host.site.chromactl("doctor", "--json").json()
    assert [each["status"] for each in doctor if each["name"] == "orphans"] == ["ok"]


def segment(host: Host) -> str:
    return next(each.segment for each in sqlite.collections(host.site.data) if each.name == "kept")


def test_persistence_while_writes_are_refused(host: Host) -> None:
    assert host.site.chromactl("fence", "--reason", "moving").code == 0
    result = host.unit.chromactl("verify-persistence")
    assert host.site.chromactl("unfence").code == 0
    assert result.code == 75
    assert "moving" in result.output
    assert "HINT: sudo chromactl unfence" in result.output
    assert "{" not in result.output
    assert (host.unit.asked, left(host)) == ([], [])


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_persistence_that_is_interrupted(host: Host, number: int, moment: str) -> None:
    verify: list[subprocess.Popen[bytes]] = []
    getattr(host.unit, moment)["restart"] = lambda: verify[0].send_signal(number)
    verify.append(host.unit.spawn("verify-persistence"))
    result = ended(verify[0])
    assert result.code == 128 + number, result.output
    assert one_line(result.output, number).endswith("what it had written is removed")
    assert left(host) == []
    host.holds(host.now)


def test_persistence_of_a_service_that_does_not_come_back(host: Host) -> None:
    """It says what it had to leave, and the next run removes that, and what others left; a client's collection stays."""
    host.unit.before["restart"] = host.site.daemon.stop
    host.unit.broken["restart"] = 1
    result = host.unit.chromactl("verify-persistence")
    assert result.code == 1
    assert "could not be removed" in result.output
    client = host.site.serve().client()
    assert len(left(host)) == 1
    client.create_collection(f"chromad-verify-{0:016x}", embedding_function=None)
    records.fill(client, f"chromad-verify-{1:016x}", 1)
    host.unit.before.clear()
    result = host.unit.chromactl("verify-persistence")
    assert result.code == 0, result.output
    assert left(host) == [f"chromad-verify-{1:016x}"]


# adopt


@pytest.fixture(scope="module")
def adopting() -> Iterator[Unit]:
    """A service without collections, and beside it the directory `old` of a stock Chroma, with one."""
    site = Site()
    records.fill(site.serve().client(), "old", 60)
    site.daemon.stop()
    shutil.copytree(site.data, site.root / "old", ignore=shutil.ignore_patterns("chromad.*", ".chromad-*"))
    site.wipe()
    for path in site.checkpoints.glob("*-*-*"):
        shutil.rmtree(path)
    (site.checkpoints / "history.json").unlink()
    site.serve()
    unit = Unit(site)
    yield unit
    unit.close()
    site.remove()


@pytest.mark.parametrize("number", SIGNALS)
def test_adoption_that_is_interrupted(adopting: Unit, number: int) -> None:
    adopt: list[subprocess.Popen[bytes]] = []
    adopting.after["stop"] = lambda: adopt[0].send_signal(number)
    adopt.append(adopting.spawn("adopt", str(adopting.site.root / "old"), "--stop"))
    result = ended(adopt[0])
    assert result.code == 128 + number, result.output
    line = result.output.strip().splitlines()[-1]
    assert line == f"interrupted by {signal.Signals(number).name}: the data are as they were; the service serves again"
    assert adopting.serving
    assert adopting.site.daemon.client().list_collections() == []
    assert adopting.site.asides() == []
    adopting.after.clear()


def test_dry_run_of_an_adoption(adopting: Unit) -> None:
    """To look is free, also where the real run would be refused; then it says so, and ends as that would."""
    source = str(adopting.site.root / "old")
    result = adopting.chromactl("adopt", source, "--dry-run")
    assert (result.code, "the service would be stopped" in result.output) == (0, True), result.output
    client = adopting.site.daemon.client()
    records.fill(client, "taken", 3)
    result = adopting.chromactl("adopt", source, "--dry-run")
    assert result.code == 78
    assert "60" in result.output
    assert "holds collections already" in result.output
    result = adopting.chromactl("adopt", source, "--dry-run", "--json")
    found = result.json()
    assert (result.code, found["refused"]["exit_code"]) == (78, 78)
    assert found["report"]["collections"][0]["name"] == "old"
    client.delete_collection("taken")
    assert adopting.site.asides() == []


def test_adoption_that_is_interrupted_after_the_exchange(adopting: Unit) -> None:
    adopt: list[subprocess.Popen[bytes]] = []
    adopting.before["start"] = lambda: adopt[0].send_signal(signal.SIGTERM)
    adopt.append(adopting.spawn("adopt", str(adopting.site.root / "old"), "--stop"))
    result = ended(adopt[0])
    adopting.before.clear()
    assert result.code == 143, result.output
    assert "all the same" in result.output.strip().splitlines()[-1]
    assert [each.name for each in adopting.site.daemon.client().list_collections()] == ["old"]


def test_random_moments() -> None:
    """A little of what `make interrupts` does for long."""
    summary = interrupts.run(1, 5, ("restore", "adopt", "verify-persistence"))
    assert not summary.wrong, summary.wrong
