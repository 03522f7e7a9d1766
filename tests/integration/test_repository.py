"""What can be wrong with a repository, its key or restic: a fact, a hint, the right code; good backups and the log stay."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration import mounts, repositories
from tests.integration.account import BIN, current, until
from tests.integration.site import Result, Site, free_port


@pytest.fixture(scope="module")
def _backed_up() -> Iterator[Site]:
    site = Site()
    site.serve().stop()
    site.backup()
    yield site
    site.remove()


@pytest.fixture
def backed_up(site: Site, _backed_up: Site) -> Site:
    """A stopped site with a good backup."""
    site.copy_from(_backed_up)
    return site


def fails(
    site: Site, code: int, fact: str, hint: str, *words: str, environment: Mapping[str, str] | None = None
) -> Result:
    """A command (a backup unless given) that must fail so; the data stay as they are."""
    before = site.tree()
    result = site.chromactl(*(words or ("backup",)), environment=environment)
    assert result.code == code, result.output
    assert "Traceback" not in result.output
    assert fact in result.output
    assert any(hint in line for line in result.output.splitlines() if "HINT: " in line), result.output
    assert site.tree() == before
    return result


def assert_told(site: Site, known: dict[str, Any]) -> None:
    """The status says what went wrong; what the last good backup covers is not touched."""
    assert site.chromactl("status", "--json").json()["backup"]["problem"]
    for same in ("last_good", "last_seq_id", "taken"):
        assert site.ledger[same] == known[same]


@pytest.mark.parametrize("words", [["backup"], ["restore"]])
def test_no_restic(backed_up: Site, words: list[str]) -> None:
    known = backed_up.ledger
    fails(backed_up, 78, "restic is not installed", "apt install restic", *words, environment={"PATH": "/nowhere"})
    if words == ["backup"]:
        assert_told(backed_up, known)


@pytest.mark.parametrize("words", [["backup"], ["restore"]])
def test_no_repository(backed_up: Site, words: list[str]) -> None:
    known = backed_up.ledger
    backed_up.configure({"backup.repository": f"{backed_up.root}/none"})
    said = f"there is no repository at {backed_up.root}/none"
    fails(backed_up, 78, said, "make it once: chromactl backups init", *words)
    if words == ["backup"]:
        assert_told(backed_up, known)


def key_wrong(path: Path) -> None:
    path.chmod(0o600)
    path.write_text("another\n", encoding="utf-8")


def key_open(path: Path) -> None:
    path.chmod(0o444)


def key_empty(path: Path) -> None:
    path.chmod(0o600)
    path.write_text("", encoding="utf-8")


def key_missing(path: Path) -> None:
    path.unlink()


KEYS = [
    (key_wrong, 78, "the key does not open the repository ", "the key that it was made with"),
    (key_open, 77, "can be read by everybody", "chmod 0400"),
    (key_empty, 78, "is empty", "put the key"),
    (key_missing, 78, "does not exist", "bring the one of the first"),
]


@pytest.mark.parametrize(("change", "code", "fact", "hint"), KEYS)
def test_key(backed_up: Site, change: Any, code: int, fact: str, hint: str) -> None:
    known = backed_up.ledger
    change(backed_up.key)
    fails(backed_up, code, fact, hint)
    assert_told(backed_up, known)


def test_environment_file(backed_up: Site) -> None:
    path = backed_up.root / "environment"
    backed_up.configure({"backup.environment_file": str(path)})
    fails(backed_up, 78, f"{path} does not exist", "")
    path.write_text("RESTIC_COMPRESSION=max\nnonsense secret\n", encoding="utf-8")
    path.chmod(0o600)
    result = fails(backed_up, 78, f"{path}, line 2: not of the form KEY=VALUE", "one variable a line")
    assert "secret" not in result.output
    path.write_text("RESTIC_COMPRESSION=max\nRESTIC_PASSWORD_FILE=/nowhere\n", encoding="utf-8")
    assert backed_up.backup()["base"] == "", "the key is that of password_file all the same"


def test_processors(backed_up: Site) -> None:
    """A backup leaves half of them to the service, a restore takes all; the operator may say otherwise."""
    total = len(os.sched_getaffinity(0))
    target = backed_up.root / "target"
    assert processors(backed_up, "backup") == {str(max(total // 2, 1))}
    assert str(total) in processors(backed_up, "restore", "--target", str(target))
    path = backed_up.root / "environment"
    path.write_text("GOMAXPROCS=7\n", encoding="utf-8")
    path.chmod(0o600)
    backed_up.configure({"backup.environment_file": str(path)})
    assert processors(backed_up, "backup") == {"7"}


def processors(site: Site, *words: str) -> set[str]:
    """Runs chromactl; how many processors restic was told to use, by the values that it got."""
    seen = site.run / "processors"
    restic = site.run / "restic"
    restic.write_text(f'#!/bin/sh\necho "$GOMAXPROCS" >>{seen}\nexec {shutil.which("restic")} "$@"\n', encoding="utf-8")
    restic.chmod(0o755)
    result = site.chromactl(*words, environment={"PATH": f"{site.run}:{os.environ['PATH']}"})
    assert result.code == 0, result.output
    found = set(seen.read_text(encoding="utf-8").split())
    seen.unlink()
    return found


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("rest:http://127.0.0.1:{port}/", {}),
        ("sftp:nobody@127.0.0.1:/r", {"sftp.command": "ssh -p {port} -o BatchMode=yes nobody@127.0.0.1 -s sftp"}),
    ],
)
def test_nobody_answers(backed_up: Site, scheme: str, options: dict[str, str]) -> None:
    """It is not taken for a repository that is yet to be made (78); trying again may help, which the units do."""
    known = backed_up.ledger
    port = free_port()
    location = scheme.format(port=port)
    filled = {key: value.format(port=port) for key, value in options.items()}
    backed_up.configure({"backup.repository": location, "backup.options": filled})
    for words in (["backups"], ["backup"], ["backups", "init"]):
        result = fails(backed_up, 75, location, "reachable", *words)
        assert "there is no repository" not in result.output
    assert_told(backed_up, known)


@pytest.mark.root
def test_full(backed_up: Site) -> None:
    """Not even a lock can be written."""
    known = backed_up.ledger
    with mounts.small(backed_up.backups, 1 << 20):
        refill(backed_up)
        fill(backed_up.backups)
        fails(backed_up, 1, f"{backed_up.backups} is full: ", "free some space there")
        assert backed_up.listed() == []
    assert_told(backed_up, known)
    assert backed_up.backup()["base"] == ""


@pytest.mark.root
def test_not_enough_space(backed_up: Site) -> None:
    """There is room for locks, not for the data; what was there is whole."""
    known = backed_up.ledger
    with mounts.small(backed_up.backups, 1 << 20):
        refill(backed_up)
        fill(backed_up.backups)
        os.truncate(backed_up.backups / "fill", (backed_up.backups / "fill").stat().st_size - (12 << 10))
        fails(backed_up, 1, f"{backed_up.backups} is full: ", "free some space there")
        (backed_up.backups / "fill").unlink()
        backed_up.restic("check")
        assert_told(backed_up, known)
        assert backed_up.backup()["base"] == ""
        assert len(backed_up.listed()) == 1
        assert backed_up.ledger["problem"] == ""


def refill(site: Site) -> None:
    repositories.put(site.backups)
    site.give_all(site.backups)


def fill(directory: Path) -> None:
    with open(directory / "fill", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1024))


@pytest.mark.root
def test_read_only(backed_up: Site) -> None:
    """What is needed for a restore is read without a lock."""
    with mounts.read_only(backed_up.backups):
        assert len(backed_up.listed()) == 1
        assert backed_up.chromactl("backups", "show", "latest").code == 0
        assert backed_up.chromactl("restore").code == 0


def test_of_somebody_else(backed_up: Site) -> None:
    if os.geteuid() != 0:
        backed_up.backups.chmod(0o000)
    else:
        os.chown(backed_up.backups, 0, 0)
    fails(backed_up, 1, "permission denied", "reachable and writable?")
    backed_up.give(backed_up.backups)
    backed_up.backups.chmod(0o750)


@pytest.fixture
def holder(backed_up: Site) -> subprocess.Popen[bytes]:
    """A restic that holds an exclusive lock, stopped in the middle of a check."""
    locks = backed_up.backups / "locks"

    def locked() -> bool:
        return any("tmp" not in path.name for path in locks.iterdir())

    for _ in range(50):
        process = backed_up.spawn(
            ["restic", "--no-cache", "--repo", backed_up.backups, "check"],
            environment={"RESTIC_PASSWORD": repositories.PASSWORD},
        )
        while process.poll() is None:
            if locked():
                process.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                break
        if process.poll() is None and locked():
            return process
        process.kill()
        process.wait()
        for path in locks.iterdir():
            path.unlink()
    raise AssertionError("every check was too fast to stop")


def test_locked(backed_up: Site, holder: subprocess.Popen[bytes]) -> None:
    known = backed_up.ledger
    fails(backed_up, 75, f"the repository {backed_up.backups} is locked: ", "wait for who has it")
    fails(backed_up, 75, "is locked: ", "wait for who has it", "verify")
    assert str(holder.pid) in backed_up.ledger["problem"]
    assert_told(backed_up, known)
    assert backed_up.ledger["drills"] == known["drills"], "it says nothing of the backup"
    assert len(backed_up.listed()) == 1, "reading needs no lock"
    holder.send_signal(signal.SIGCONT)
    holder.wait()
    backed_up.backup()


def test_lock_of_a_dead_process(backed_up: Site, holder: subprocess.Popen[bytes]) -> None:
    """Is overcome without anybody's help."""
    holder.kill()
    holder.wait()
    assert list((backed_up.backups / "locks").iterdir())
    backed_up.backup()
    assert backed_up.chromactl("verify").code == 0
    until(lambda: not list((backed_up.backups / "locks").iterdir()), "no lock to be left", 5)


def test_init(used: Site) -> None:
    """Makes key and repository for the service user, once."""
    used.key.unlink()
    used.backups.rmdir()
    before = used.tree()
    assert used.chromactl("backups", "init", "--json").json() == {"key": True, "repository": True}
    assert used.tree() == before
    status = used.key.stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o400, os.geteuid())
    assert len(used.key.read_text(encoding="ascii").strip()) >= 40
    assert used.backups.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_uid for path in (used.backups, *used.backups.rglob("*"))} == {used.account.uid}
    key = used.key.read_bytes()
    assert used.chromactl("backups", "init", "--json").json() == {"key": False, "repository": False}
    assert used.key.read_bytes() == key
    used.backup()


def test_what_a_killed_init_has_left_is_removed(used: Site) -> None:
    used.key.unlink()
    killed = "import os\nfrom chromad.host import renameat2\nrenameat2.rename = lambda *_: os.kill(os.getpid(), 9)\n"
    main = "from chromad import chromactl\nchromactl.main()"
    used.spawn([BIN / "python", "-c", killed + main, "--config", used.config, "backups", "init"], current()).wait(60)
    [left] = used.root.glob(f".{used.key.name}*")
    assert (left.stat().st_mode & 0o077, used.key.exists()) == (0, False)
    # It may be of somebody who is still at it: it is new, however long a busy machine takes.
    os.utime(left, (time.time() + 600,) * 2)
    assert used.chromactl("backups", "init", "--json").json() == {"key": True, "repository": True}
    assert left.exists()
    os.utime(left, (0, 0))
    assert used.chromactl("backups", "init", "--json").json() == {"key": False, "repository": False}
    assert not left.exists()


def test_init_tells_to_keep_the_key(used: Site) -> None:
    used.key.unlink()
    result = used.chromactl("backups", "init")
    assert result.code == 0, result.output
    assert f"{used.backups} is made" in result.output
    assert f"its key is in {used.key}. Keep a copy of it on another machine" in result.output
    assert used.key.read_text(encoding="ascii").strip() not in result.output
    assert used.chromactl("backups", "init").output == f"{used.backups} was there\n"


def test_second_repository(backed_up: Site) -> None:
    """Is made at the first copy and gets each backup from then on; a key of its own opens it."""
    second = backed_up.root / "second"
    second.mkdir()
    backed_up.give(second)
    key = backed_up.root / "second.key"
    key.write_text("a second key\n", encoding="ascii")
    key.chmod(0o400)
    backed_up.configure({"backup.copy_to": {"repository": str(second), "password_file": str(key)}})
    taken = [backed_up.backup(), backed_up.backup()]
    assert all(each["copied"] for each in taken)
    backed_up.configure({"backup.copy_to": None, "backup.repository": str(second), "backup.password_file": str(key)})
    copies = backed_up.listed()
    assert [each["created"] for each in copies] == [each["created"] for each in taken]
    assert all(each["proven"] for each in copies)
    assert backed_up.chromactl("restore").code == 0


def test_second_repository_fails(backed_up: Site) -> None:
    """The backup is good; what failed is said."""
    backed_up.configure({"backup.copy_to": {"repository": "/proc/none", "password_file": str(backed_up.key)}})
    known = backed_up.ledger
    result = backed_up.chromactl("backup")
    assert result.code == 1
    assert "/proc/none" in result.output
    assert "HINT: " in result.output
    assert backed_up.ledger["last_good"] > known["last_good"]
    assert " is good, but: " in backed_up.chromactl("status", "--json").json()["backup"]["problem"]
    assert len(backed_up.listed()) == 2


def test_path_with_special_characters(backed_up: Site) -> None:
    """What is a pattern for restic's restore, and a tag with a comma that a host's name cannot have."""
    odd = backed_up.root / "check [1]*?\\{a,b} points"
    backed_up.checkpoints.rename(odd)
    backed_up.configure({"checkpoint_dir": str(odd)})
    result = backed_up.chromactl("backup", "--full")
    assert result.code == 0, result.output
    assert backed_up.chromactl("verify").code == 0
    assert backed_up.chromactl("restore").code == 0


def test_restic_that_hears_no_signal_ends_with_the_verb(backed_up: Site) -> None:
    """As one of 0.18 does not while it waits for a pipe that somebody has put in place of a file."""
    script = backed_up.root / "bin/restic"
    script.parent.mkdir()
    waits = backed_up.run / "waits"
    script.write_text(f"#!/bin/sh\ntrap '' TERM\ntouch {waits}\nwhile :; do sleep 0.1; done\n", encoding="ascii")
    script.chmod(0o755)
    environment = {"PATH": f"{script.parent}:{os.environ['PATH']}"}
    process = backed_up.spawn([BIN / "chromactl", "--config", backed_up.config, "backups"], current(), environment)
    until(waits.exists, "restic")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
