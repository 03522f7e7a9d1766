"""What chromad and chromactl keep for themselves, tampered with or damaged: told of with a hint, never believed, never a traceback."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.commands import Commands, Told
from tests.integration.malformed import (
    JSON,
    NOT_JSON,
    Fed,
    assert_told,
    changed,
    get,
    leaves,
    many,
    need_whole_file,
    tampered,
)
from tests.integration.site import Site


@pytest.fixture(scope="module")
def fed() -> Iterator[Fed]:
    site = Site()
    found = Fed(site)
    site.backup()
    assert site.chromactl("verify").code == 0
    yield found
    try:
        found.assert_unharmed()
    finally:
        site.remove()


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    made = Commands()
    yield made
    made.close()


def run(fed: Fed, commands: Commands, *words: str) -> Told:
    return commands.run("chromactl", "--config", str(fed.site.config), *words)


def test_ledger_in_all_ways(fed: Fed, commands: Commands) -> None:
    """The daemon and `status` read it all the time."""
    path = fed.site.backup_dir / "ledger.json"
    before = path.read_bytes()
    try:
        for number, content in enumerate(tampered(before)):
            path.write_bytes(content)
            fed.count += 1
            status = fed.site.daemon.status()
            assert status["state"] == "serving"
            if number % 8 == 0:
                told = run(fed, commands, "status")
                assert_told(told, 0)
                assert ("ledger.json is damaged" in told.output) == (
                    "damaged" in (status["backup"]["problem"] or "")
                ), content
            if number % 8 == 1:
                assert get(fed.site, "/metrics")[0] == 200, content
                assert get(fed.site, "/api/status")[0] == 200, content
    finally:
        path.write_bytes(before)


@many(12)
@given(st.data())
def test_ledger(fed: Fed, commands: Commands, data: st.DataObject) -> None:
    path = fed.site.backup_dir / "ledger.json"
    before = path.read_bytes()
    document = json.loads(before)
    path.write_text(json.dumps(changed(document, data.draw(st.sampled_from(list(leaves(document)))), data.draw(JSON))))
    fed.count += 1
    try:
        assert_told(run(fed, commands, "backup", "--dry-run"), 0, 1)
        assert_told(run(fed, commands, "backups"), 0, 1)
        doctor = run(fed, commands, "doctor")
        assert doctor.code in (0, 1, 2)
        assert "Traceback" not in doctor.output
    finally:
        path.write_bytes(before)


def test_ledger_that_is_damaged(fed: Fed, commands: Commands) -> None:
    """Nothing is built on it, and it stays for somebody to look at."""
    path = fed.site.backup_dir / "ledger.json"
    before = path.read_bytes()
    try:
        for content in NOT_JSON[:3]:
            path.write_bytes(content)
            fed.count += 1
            for words in (["backup"], ["verify"], ["backups"]):
                told = run(fed, commands, *words)
                assert_told(told, 1)
                assert "ledger.json is damaged" in told.output
            assert path.read_bytes() == content
            doctor = run(fed, commands, "doctor")
            assert doctor.code == 2
            assert "HINT: move it aside" in doctor.output
            assert "is damaged" in fed.site.daemon.status()["backup"]["problem"]
    finally:
        path.write_bytes(before)


def test_manifest_in_all_ways(fed: Fed, commands: Commands) -> None:
    """Of what the next backup builds on."""
    path = fed.site.current / "manifest.json"
    before = path.read_bytes()
    good = 0
    try:
        for content in list(tampered(before))[::5]:
            path.write_bytes(content)
            fed.count += 1
            told = run(fed, commands, "backup", "--dry-run")
            assert_told(told, 0, 1)
            good += "adds to the base before" in told.output
    finally:
        path.write_bytes(before)
    assert "adds to the base before" in run(fed, commands, "backup", "--dry-run").output
    assert good < fed.count


def test_state_in_all_ways(used: Site, commands: Commands) -> None:
    """A stopped service: no verb believes it."""
    path = used.data / "chromad.json"
    before = path.read_bytes()
    for content in list(tampered(before))[::2]:
        path.write_bytes(content)
        told = commands.run("chromactl", "--config", str(used.config), "status")
        assert told.code == 3 or (told.code == 78 and "chromad.json" in told.output), (content, told)
        assert told.code == 3 or "HINT: " in told.output
        assert "Traceback" not in told.output


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged"),
        (b"[" * 50_000, "is damaged"),
        (b"\xff", "is damaged"),
        ({"format": 10**30}, "has format 1000"),
        ({"clean": "yes"}, "is damaged"),
        ({"engine_version": "9" * 5000}, None),
        ({"engine_version": "99.\x1b[31m"}, "was last written by Chroma 99"),
        ({"data_id": "\ud800"}, "is damaged"),
        ({"data_id": "../../etc\0"}, None),
        ({"boot_id": "x" * 5000, "clean": False}, None),
    ],
    ids=range(10),
)
def test_start_on_such_a_state(used: Site, content: bytes | dict[str, Any], said: str | None) -> None:
    path = used.data / "chromad.json"
    before = path.read_bytes()
    path.write_bytes(json.dumps(json.loads(before) | content).encode() if isinstance(content, dict) else content)
    if said:
        used.assert_refused(
            78, said, "install" if "engine_version" in str(content) or "format" in str(content) else "mv"
        )
        assert "\x1b" not in used.daemon.log
        path.write_bytes(before)
    daemon = used.serve()
    assert "Traceback" not in daemon.log
    daemon.stop()


@pytest.mark.parametrize("name", ["ledger.json", "current/manifest.json"])
@pytest.mark.parametrize("kind", ["directory", "unreadable"])
def test_files_that_are_none(fed: Fed, commands: Commands, name: str, kind: str) -> None:
    path = fed.site.backup_dir / name
    aside = path.with_name("aside")
    path.rename(aside)
    try:
        if kind == "directory":
            path.mkdir()
        else:
            path.write_bytes(aside.read_bytes())
            path.chmod(0)
        told = commands.run("chromactl", "--config", str(fed.site.config), "backup", "--dry-run")
        assert_told(told, 0, 1, 77)
        assert_told(Told((shown := fed.site.chromactl("status")).code, shown.output), 0)
        assert get(fed.site, "/metrics")[0] == 200
    finally:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        aside.rename(path)
    fed.count += 1


def test_ledger_that_is_a_link_to_itself(site: Site) -> None:
    daemon = site.serve()
    site.backup_dir.mkdir(exist_ok=True)
    (site.backup_dir / "ledger.json").symlink_to(site.backup_dir / "ledger.json")
    site.give_all(site.backup_dir)
    told = site.chromactl("status")
    assert_told(Told(told.code, told.output), 0)
    assert daemon.status()["state"] == "serving"
    daemon.stop()


def test_enough_were_fed(fed: Fed, request: pytest.FixtureRequest) -> None:
    need_whole_file(request)
    assert fed.count >= 400
