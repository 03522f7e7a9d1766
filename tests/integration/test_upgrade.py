"""Upgrades between two environments of one version, on a host whose systemctl knows one unit; molecule has the real ones."""

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from chromad.chroma import planner, sqlite
from chromad.chroma.sqlite import FILE
from chromad.store import hold, state

from tests.integration import environments, records
from tests.integration.account import AS_ROOT, current
from tests.integration.plans import assert_fast, assert_indexed
from tests.integration.records import Record
from tests.integration.site import Result, Site
from tests.integration.unit import Unit, ended

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="is about what root does")


class Host:
    """A service that runs from the environment `old`, beside which there is `new`."""

    def __init__(self) -> None:
        self.site = Site()
        self.held = records.fill(self.site.serve().client(), "kept", 150, sync_threshold=100)
        self.site.make_repository()
        self.unit = Unit(self.site)
        self.home = self.site.root / "home"
        self.home.mkdir()
        for name in ("old", "new"):
            environments.make(self.home / "venvs" / name)
        (self.home / "venv").symlink_to("venvs/old")

    def spawn(self, *words: str) -> subprocess.Popen[bytes]:
        """Starts the chromactl of the new environment."""
        argv: list[str | Path] = ["setsid", self.home / "venvs/new/bin/chromactl", "--config", self.site.config, *words]
        return self.site.spawn(argv, current(), {"PATH": f"{self.site.root}/bin:{os.environ['PATH']}"})

    def upgrade(self, *words: str) -> Result:
        return ended(self.spawn("upgrade", *words))

    def assert_sound(self, environment: str, held: dict[str, Record] | None = None) -> None:
        """It serves what it held, from that environment; nothing is left but former data, all is the service user's."""
        assert self.unit.serving
        records.assert_equal(self.site.daemon.client(), "kept", held or self.held)
        collection = self.site.daemon.client().get_collection("kept", embedding_function=None)
        records.upsert(collection, {"more": records.make("more", 1)})
        collection.delete(ids=["more"])
        assert os.readlink(self.home / "venv") == f"venvs/{environment}"
        assert not (self.home / "venvs/upgrade.json").exists()
        assert [path.name for path in self.site.root.iterdir() if path.name.startswith(".data")] == []
        for top in (self.site.data, self.site.root / "restore"):
            assert {path.stat().st_uid for path in (top, *top.rglob("*"))} == {self.site.account.uid}


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.unit.close()
    made.site.remove()


def test_there(host: Host) -> None:
    before = host.site.data.stat().st_ino
    result = host.upgrade("--json")
    assert result.code == 0, result.output
    upgraded = result.json()["upgraded"]
    assert (upgraded["collections"], upgraded["records"]) == (1, 150)
    assert host.unit.asked == ["stop", "start"]
    [replaced] = host.site.asides()
    assert replaced.stat().st_ino == before
    host.assert_sound("new")
    again = host.upgrade("--json")
    assert json.loads(again.output)["upgraded"] is None


def test_filters_are_fast_afterwards(host: Host, told: Mapping[str, list[str]]) -> None:
    """Where the former version did not see to it, and the new one's engine was the first to know."""
    with closing(sqlite3.connect(host.site.data / FILE, timeout=30)) as connection:
        connection.execute("DROP TABLE sqlite_stat1")
        for name in planner.INDEXES:
            connection.execute(f"DROP INDEX {name}")
    result = host.upgrade()
    assert result.code == 0, result.output
    assert_fast(host.site.data, told)
    assert_indexed(host.site.data)


def test_not_from_data_that_are_newer_than_both_environments(host: Host) -> None:
    path = host.site.data / "chromad.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"engine_version": "99.0.0"}), encoding="utf-8")
    result = host.upgrade()
    assert result.code == 78, result.output
    assert "the data are of Chroma 99.0.0" in result.output
    assert host.unit.asked == []


def test_and_back_where_the_service_does_not_start(host: Host) -> None:
    host.unit.broken["start"] = 1
    result = host.upgrade()
    assert result.code == 1, result.output
    assert "did not take over" in result.output
    host.assert_sound("old")


def test_and_back_where_the_old_one_does_not_stop_cleanly(host: Host) -> None:
    """systemctl calls that a success: what its files hold is in doubt all the same."""

    def spoil() -> None:
        host.unit.after.clear()
        path = host.site.data / "chromad.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"clean": False}), encoding="utf-8")

    host.unit.after["stop"] = spoil
    result = host.upgrade()
    assert result.code == 1, result.output
    assert "the old service did not stop cleanly" in result.output
    host.assert_sound("old")


def test_and_back_where_answers_differ(host: Host) -> None:
    def spoil() -> None:
        host.unit.after.clear()
        with sqlite.connect(host.site.data) as connection:
            hold.drop(connection)
            connection.execute("DELETE FROM collections")

    host.unit.after["start"] = spoil
    result = host.upgrade()
    assert result.code == 1, result.output
    assert "collections are missing: kept" in result.output
    host.assert_sound("old")


@pytest.mark.parametrize("moment", ["stop", "start"])
def test_interrupted(host: Host, moment: str) -> None:
    upgrade: list[subprocess.Popen[bytes]] = []

    def strike() -> None:
        host.unit.before.clear()
        upgrade[0].send_signal(signal.SIGTERM)

    host.unit.before[moment] = strike
    upgrade.append(host.spawn("upgrade"))
    result = ended(upgrade[0])
    assert result.code == 143, result.output
    [line] = result.output.strip().splitlines()
    assert line.startswith("interrupted by SIGTERM: ")
    host.assert_sound("old")


@pytest.mark.parametrize("moment", ["stop", "start"])
def test_killed(host: Host, moment: str) -> None:
    upgrade: list[subprocess.Popen[bytes]] = []

    def strike() -> None:
        host.unit.before.clear()
        upgrade[0].kill()

    host.unit.before[moment] = strike
    upgrade.append(host.spawn("upgrade"))
    assert ended(upgrade[0]).code == -signal.SIGKILL
    result = host.upgrade("--undo")
    assert result.code == 0, result.output
    assert "took back the upgrade" in result.output
    host.assert_sound("old")


def test_killed_when_the_new_one_serves(host: Host) -> None:
    """It may have taken checkpoints of files that it has written: those are of another history than what is put back."""
    upgrade: list[subprocess.Popen[bytes]] = []

    def strike() -> None:
        host.unit.after.clear()
        upgrade[0].kill()

    before = state.read(host.site.data)
    host.unit.after["start"] = strike
    upgrade.append(host.spawn("upgrade"))
    assert ended(upgrade[0]).code == -signal.SIGKILL
    result = host.upgrade("--undo")
    assert result.code == 0, result.output
    after = state.read(host.site.data)
    assert before
    assert after
    assert after.data_id != before.data_id
    host.assert_sound("old")
