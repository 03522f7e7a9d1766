"""Drills: the newest proven backup is restored into a scratch place and compared; what comes of it is seen in the status."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.integration import records
from tests.integration.account import BIN, current, until
from tests.integration.site import Site


def test_drill(site: Site) -> None:
    daemon = site.serve()
    held = records.fill(daemon.client(), "some", 150, sync_threshold=100)
    first = site.backup()
    records.upsert(daemon.client().get_collection("some", embedding_function=None), {"a": records.make("a")})
    second = site.backup()
    before = site.tree(site.current)
    result = site.chromactl("verify", "--json")
    assert result.code == 0, result.output
    found = result.json()
    expected = {"id": second["id"], "created": second["created"], "collections": 1, "records": 151, "part": "1/10"}
    assert found == found | expected
    assert site.tree(site.current) == before
    assert not list(site.backup_dir.glob("drill-*"))
    status = site.chromactl("status", "--json").json()["backup"]
    assert (status["drill"], status["drill_problem"]) == (site.ledger["drills"][-1]["ended"], None)
    assert [bool(each["drilled"]) for each in site.listed()] == [False, True]

    result = site.chromactl("verify", first["id"])
    assert "1 collections, 150 records; part 2/10 of the repository was read" in result.output
    assert all(each["drilled"] for each in site.listed())
    records.assert_equal(daemon.client(), "some", held | {"a": records.make("a")})

    site.edit_ledger(parts=10)
    again = site.chromactl("verify", "oldest", "--json").json()
    assert (again["id"], again["part"]) == (first["id"], "1/10")


def test_damaged_repository(site: Site) -> None:
    records.fill(site.serve().client(), "some", 150, sync_threshold=100)
    site.backup()
    pack = max(site.backups.glob("data/*/*"), key=lambda path: path.stat().st_size)
    whole = pack.read_bytes()
    pack.chmod(0o640)
    pack.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    result = site.chromactl("verify")
    assert result.code == 1
    assert "Traceback" not in result.output
    assert "HINT: " in result.output
    status = site.chromactl("status", "--json").json()["backup"]
    assert status["drill_problem"] in " ".join(result.output.split())
    assert status["problem"] is None
    [listed] = site.listed()
    assert (listed["drilled"], listed["drill_problem"]) == (None, status["drill_problem"])
    assert site.chromactl("backups").output.splitlines()[1].split()[-1] == "FAILED"
    assert "drill" in site.chromactl("status").output
    pack.write_bytes(whole)
    assert site.chromactl("verify").code == 0
    assert site.daemon.status()["backup"]["drill_problem"] is None


def test_killed_drill_leaves_nothing_that_stays(used: Site) -> None:
    used.backup()
    drill = used.spawn(["setsid", BIN / "chromactl", "--config", used.config, "verify"], current())
    until(lambda: list(used.backup_dir.glob("drill-*")) or drill.poll() is not None, "a drill's files")
    os.killpg(drill.pid, signal.SIGKILL)
    drill.wait()
    assert list(used.backup_dir.glob("drill-*"))
    deadline = time.monotonic() + 20
    while (result := used.chromactl("verify")).code == 75 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert result.code == 0, result.output
    assert not list(used.backup_dir.glob("drill-*"))


def test_backup_that_is_not_there(used: Site) -> None:
    used.backup()
    before = used.ledger
    result = used.chromactl("verify", "0123abcd")
    assert result.code == 1
    assert f"no backup '0123abcd' in {used.backups}" in result.output
    assert used.ledger == before, "a name that is mistyped is no drill that failed"


def test_space_that_only_forgotten_backups_took_is_given_back(used: Site) -> None:
    used.backup()
    before = size(used.backups)
    (used.run / "noise").write_bytes(os.urandom(1 << 20))
    used.give(used.run / "noise")
    used.restic("backup", "--tag", "other", str(used.run / "noise"))
    [other] = json.loads(used.restic("snapshots", "--tag", "other", "--json"))
    used.restic("forget", other["id"])
    assert size(used.backups) > before + (1 << 20)
    assert used.chromactl("verify").code == 0
    assert size(used.backups) < before + (1 << 19)


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_drill_that_is_interrupted_does_not_count(used: Site, number: int) -> None:
    """Neither as a good one nor as one that failed: it says nothing of the backup."""
    used.backup()
    assert used.chromactl("verify").code == 0
    before = used.ledger
    drill = used.spawn([BIN / "chromactl", "--config", used.config, "verify"], current())
    # Without a pause: restic is being started then.
    until(lambda: list(used.backup_dir.glob("drill-*")) or drill.poll() is not None, "a drill's files", pause=0)
    drill.send_signal(number)
    output = drill.communicate(timeout=60)[0].decode()
    assert drill.returncode == 128 + number, output
    assert output.splitlines() == [
        f"interrupted by {signal.Signals(number).name}: the drill was not ended, and is not counted"
    ]
    assert used.ledger == before
    assert not list(used.backup_dir.glob("drill-*"))
    assert used.chromactl("verify").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_backup_that_is_interrupted_does_not_count(used: Site, number: int) -> None:
    used.backup()
    before = used.ledger
    backup = used.spawn([BIN / "chromactl", "--config", used.config, "backup", "--full"], current())
    until(lambda: list(used.backup_dir.glob("next*")) or backup.poll() is not None, "a backup's files", pause=0)
    backup.send_signal(number)
    output = backup.communicate(timeout=60)[0].decode()
    assert backup.returncode == 128 + number, output
    name = signal.Signals(number).name
    assert output.splitlines() == [f"interrupted by {name}: no backup was taken; the last good one is as it was"]
    assert used.ledger == before
    assert len(used.listed()) == 1
    used.backup()
