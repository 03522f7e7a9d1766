"""What backups build on is damaged on the host: the next one is not good and says so, the one after it has a new base."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration import opened, records
from tests.integration.records import Record
from tests.integration.site import Site

Prepared = tuple[Site, dict[str, dict[str, Record]]]


@pytest.fixture(scope="module")
def _prepared() -> Iterator[Prepared]:
    site = Site()
    client = site.serve().client()
    held = {
        "persisted": records.fill(client, "persisted", 150, sync_threshold=100),
        "in-log": records.fill(client, "in-log", 10),
    }
    site.backup()
    more = {"more": records.make("more")}
    records.upsert(client.get_collection("persisted", embedding_function=None), more)
    held["persisted"] |= more
    site.backup()
    # So that the next one would have more to cover than the last good one.
    after = {"after": records.make("after")}
    records.upsert(client.get_collection("persisted", embedding_function=None), after)
    held["persisted"] |= after
    site.daemon.stop()
    yield site, held
    site.remove()


@pytest.fixture
def prepared(site: Site, _prepared: Prepared) -> Prepared:
    """A stopped site with a base, its log and two good backups, checkpoints shared with the base as ever."""
    source, held = _prepared
    site.copy_from(source)
    for path in source.checkpoints.glob("[!.]*/*"):
        target = site.checkpoints / path.relative_to(source.checkpoints)
        shutil.copytree(path, target)
        for file in target.iterdir():
            shared = site.current / path.parent.name / file.name
            if shared.exists():
                shared.unlink()
                shared.hardlink_to(file)
    site.give_all(site.checkpoints)
    return site, held


def flip_a_bit(path: Path) -> None:
    """In place, so that what is linked to it has it as well, as with a bad disk."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def scribble(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"scribble" * 1000)


def assert_recovers(site: Site, held: dict[str, dict[str, Record]], said: str) -> None:
    good = site.listed()
    before = site.tree()
    known = site.ledger
    result = site.chromactl("backup")
    assert result.code == 1, result.output
    assert "Traceback" not in result.output
    assert said in result.output
    assert "HINT: " in result.output
    assert site.tree() == before
    assert (site.ledger["last_good"], site.ledger["last_seq_id"]) == (known["last_good"], known["last_seq_id"])
    assert site.ledger["problem"]
    assert site.chromactl("status", "--json").json()["backup"]["problem"] == site.ledger["problem"]
    listed = site.listed()
    assert [each for each in listed if each["proven"]] == good
    assert site.chromactl("restore", "--dry-run", "--json").json()["id"] == good[-1]["id"]
    again = site.backup()
    assert again["base"]
    assert site.listed()[-1] == site.listed()[-1] | {"id": again["id"], "proven": True}
    assert site.ledger["problem"] == ""
    opened.assert_restored(site, held)
    assert site.backup()["base"] == "", "and goes on from there"


@pytest.mark.parametrize("damage", [flip_a_bit, scribble])
def test_database(prepared: Prepared, damage: Callable[[Path], None]) -> None:
    site, held = prepared
    damage(site.current / "chroma.sqlite3")
    assert_recovers(site, held, "chroma.sqlite3 is not what the manifest says (damaged)")


@pytest.mark.parametrize("damage", [flip_a_bit, scribble])
def test_log(prepared: Prepared, damage: Callable[[Path], None]) -> None:
    """It changes with each backup; what it held before is not to be trusted when it was damaged in between."""
    site, held = prepared
    damage(site.current / "log.sqlite3")
    assert "log.sqlite3 is not as it was" in site.backup()["base"]
    opened.assert_restored(site, held)


@pytest.mark.parametrize("name", ["data_level0.bin", "index_metadata.pickle"])
def test_segment(prepared: Prepared, name: str) -> None:
    """The checkpoint that the base shares it with is damaged as well: it must not come back with each new base."""
    site, held = prepared
    flip_a_bit(next(site.current.glob(f"*/{name}")))
    assert_recovers(site, held, f"{name} is not what the manifest says (damaged)")


def test_segment_while_the_service_runs(site: Site) -> None:
    client = site.serve().client()
    held = {"persisted": records.fill(client, "persisted", 150, sync_threshold=100)}
    site.backup()
    after = {"after": records.make("after")}
    records.upsert(client.get_collection("persisted", embedding_function=None), after)
    held["persisted"] |= after
    flip_a_bit(next(site.current.glob("*/data_level0.bin")))
    assert_recovers(site, held, "data_level0.bin is not what the manifest says (damaged)")
    opened.assert_holds(client, held)
    assert list(site.quarantine.glob("*-checkpoint-*")), "the damaged checkpoint was renewed"
    [checkpoint] = site.checkpoints.glob("[!.]*/*/data_level0.bin")
    assert checkpoint.stat().st_nlink == 2, "and the base shares the new one"


def test_ledger(prepared: Prepared) -> None:
    """It is said what to do; then backups go on."""
    site, held = prepared
    scribble(site.backup_dir / "ledger.json")
    for words in (["backup"], ["verify"], ["backups"]):
        result = site.chromactl(*words)
        assert result.code == 1
        assert f"{site.backup_dir}/ledger.json is damaged" in result.output
        assert "HINT: move it aside" in result.output
    assert "ledger.json is damaged" in site.chromactl("status").output
    (site.backup_dir / "ledger.json").rename(site.root / "ledger.json.bad")
    taken = site.backup()
    assert site.ledger["last_good"] == taken["created"]
    opened.assert_restored(site, held)
