"""Backups that are not what they say are refused before anything is touched: damaged in the repository, or put there so."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import opened, records
from tests.integration.records import Record
from tests.integration.site import Site


@pytest.fixture(scope="module")
def held(serving: Site) -> dict[str, dict[str, Record]]:
    """What a backup of two collections holds, one of them persisted; the service is stopped."""
    client = serving.daemon.client()
    made = {
        "persisted": records.fill(client, "persisted", 150, sync_threshold=100),
        "in-log": records.fill(client, "in-log", 10),
    }
    serving.backup()
    serving.daemon.stop()
    return made


@pytest.fixture(scope="module")
def pristine(serving: Site, held: dict[str, dict[str, Record]]) -> Path:
    """The files of that backup."""
    serving.restic("restore", "latest", "--target", str(serving.run / "files"))
    return next((serving.run / "files").rglob("manifest.json")).parent


@pytest.fixture
def repository(serving: Site, held: dict[str, dict[str, Record]]) -> Iterator[Path]:
    """A copy of the repository, to be damaged."""
    path = serving.root / "damaged"
    shutil.copytree(serving.backups, path)
    serving.give_all(path)
    serving.configure({"backup.repository": str(path)})
    yield path
    serving.configure({"backup.repository": str(serving.backups)})
    shutil.rmtree(path)


@pytest.fixture
def backup(serving: Site, pristine: Path) -> Iterator[Path]:
    """A copy of the files, to be damaged and then stored with `store`."""
    path = serving.run / "edited"
    shutil.copytree(pristine, path)
    yield path
    serving.configure({"backup.repository": str(serving.backups)})
    shutil.rmtree(path)
    shutil.rmtree(serving.root / "stored", ignore_errors=True)


def store(serving: Site, backup: Path, **facts: str) -> None:
    """Makes a repository with these files as its only backup, with the tags of the genuine one but for `facts`."""
    [snapshot] = json.loads(serving.restic("snapshots", "--json"))
    tags = [tag for tag in snapshot["tags"] if tag.split("=")[0] not in facts]
    tags += [f"{key}={value}" for key, value in facts.items()]
    place = serving.make_repository(serving.root / "stored")
    serving.give_all(backup)
    words = [word for tag in tags for word in ("--tag", tag)]
    serving.restic("backup", "--host", snapshot["hostname"], *words, str(backup), repository=place)
    serving.configure({"backup.repository": str(place)})


def edit(backup: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = backup / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def entry_of(document: dict[str, Any], ending: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in document["files"] if entry["path"].endswith(ending))
    return found


def collection_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in document["collections"] if entry["name"] == name)
    return found


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o640)
    path.write_bytes(data)


def largest(directory: Path) -> Path:
    return largest_of(path for path in directory.rglob("*") if path.is_file())


def largest_of(paths: Iterable[Path]) -> Path:
    return max(paths, key=lambda path: path.stat().st_size)


def assert_refused(serving: Site, code: int, fact: str, verbs: tuple[str, ...] = ("restore",)) -> None:
    """A restore is refused, or a drill as well; nothing is left of either."""
    before = serving.tree(), serving.asides()
    for verb in verbs:
        result = serving.chromactl(verb)
        assert result.code == code, result.output
        assert "Traceback" not in result.output
        assert fact in result.output
        assert "HINT: " in result.output
        assert (serving.tree(), serving.asides()) == before
    assert verbs == ("restore",) or serving.ledger["drills"][-1]["problem"]
    assert not list(serving.backup_dir.glob("drill-*"))


# The repository


def test_bit_flipped_in_the_data(serving: Site, repository: Path) -> None:
    flip_a_bit(largest(repository / "data"))
    assert_refused(serving, 1, "restic restore: ", ("restore", "verify"))


def test_index_missing(serving: Site, repository: Path) -> None:
    shutil.rmtree(repository / "index")
    (repository / "index").mkdir()
    serving.give(repository / "index")
    assert_refused(serving, 1, "restic restore: ")


@pytest.mark.parametrize("name", ["snapshots", "index"])
def test_bit_flipped_in_what_describes_the_data(serving: Site, repository: Path, name: str) -> None:
    flip_a_bit(largest(repository / name))
    assert_refused(serving, 1, f"restic {'snapshots' if name == 'snapshots' else 'restore'}: ")


def test_snapshots_missing(serving: Site, repository: Path) -> None:
    largest(repository / "snapshots").unlink()
    assert_refused(serving, 1, f"no proven backup in {repository}")


def test_bit_flipped_in_the_configuration(serving: Site, repository: Path) -> None:
    flip_a_bit(repository / "config")
    assert_refused(serving, 1, "restic ")


def test_key_file_missing(serving: Site, repository: Path) -> None:
    largest(repository / "keys").unlink()
    assert_refused(serving, 78, f"the key does not open the repository {repository}")


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.chmod(0o640)
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [remove, truncate, flip_a_bit])
def test_damage_that_no_restore_meets_is_found_by_a_drill(
    serving: Site, repository: Path, damage: Callable[[Path], None]
) -> None:
    """In data of somebody else's. All that is missing is found at once, flipped bits when their tenth is read."""
    before = set(repository.glob("data/*/*"))
    (serving.run / "others").write_bytes(os.urandom(100_000))
    serving.give(serving.run / "others")
    serving.restic("backup", str(serving.run / "others"), repository=repository)
    pack = largest_of(set(repository.glob("data/*/*")) - before)
    damage(pack)
    # As restic distributes packs over the parts of a check; one that it reads in vain it tries for most of a minute.
    part = int(pack.name[:2], 16) % 10
    serving.edit_ledger(parts=part if damage is flip_a_bit else part + 1)
    result = serving.chromactl("verify")
    assert result.code == 1
    assert "restic check: " in result.output
    assert "HINT: " in result.output
    assert "restic check: " in serving.ledger["drills"][-1]["problem"]
    assert f"FAILED: {serving.ledger['drills'][-1]['problem']}" in serving.chromactl("status").output
    assert serving.chromactl("restore", "--dry-run").code == 0


# What was stored


@pytest.mark.parametrize("name", ["data_level0.bin", "chroma.sqlite3", "log.sqlite3"])
def test_bit_flipped_in_a_file(serving: Site, backup: Path, name: str) -> None:
    flip_a_bit(next(backup.rglob(name)))
    store(serving, backup)
    assert_refused(serving, 1, f"{name} is not what the manifest says (damaged)", ("restore", "verify"))


def test_truncated_database(serving: Site, backup: Path) -> None:
    os.truncate(backup / "chroma.sqlite3", 8192)
    store(serving, backup)
    assert_refused(serving, 1, "chroma.sqlite3 is not what the manifest says (damaged)")


@pytest.mark.parametrize("name", ["log.sqlite3", "link_lists.bin"])
def test_missing_file(serving: Site, backup: Path, name: str) -> None:
    next(backup.rglob(name)).unlink()
    store(serving, backup)
    assert_refused(serving, 1, f"{name} is missing from the backup")


def test_directory_in_place_of_a_file(serving: Site, backup: Path) -> None:
    path = next(backup.rglob("length.bin"))
    path.unlink()
    path.mkdir()
    store(serving, backup)
    assert_refused(serving, 1, "length.bin: Is a directory")


def test_missing_manifest(serving: Site, backup: Path) -> None:
    (backup / "manifest.json").unlink()
    store(serving, backup)
    assert_refused(serving, 1, "manifest.json: No such file or directory")


def test_manifest_is_no_json(serving: Site, backup: Path) -> None:
    (backup / "manifest.json").write_text("{", encoding="utf-8")
    store(serving, backup)
    assert_refused(serving, 1, "manifest.json is damaged")
    result = serving.chromactl("backups", "show", "latest")
    assert (result.code, "is damaged" in result.output) == (1, True)


def test_counts_edited(serving: Site, backup: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        collection_of(document, "persisted")["records"] += 1

    edit(backup, change)
    store(serving, backup)
    assert_refused(serving, 1, "persisted: 150 records, not 151", ("restore", "verify"))


def test_samples_edited(serving: Site, backup: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        collection_of(document, "in-log")["samples"][0]["digest"] = "0" * 64

    edit(backup, change)
    store(serving, backup)
    assert_refused(serving, 1, "in-log: the records in-log-", ("restore", "verify"))


def test_answers_edited(serving: Site, backup: Path) -> None:
    """As if there had been nearer neighbours, which an index that was damaged would not find any more."""

    def change(document: dict[str, Any]) -> None:
        for sample in collection_of(document, "persisted")["samples"]:
            sample["distances"] = [distance / 1000 for distance in sample["distances"]]

    edit(backup, change)
    store(serving, backup)
    assert_refused(serving, 1, "persisted: queries find ")


def test_collection_left_out_of_the_manifest(serving: Site, backup: Path) -> None:
    edit(backup, lambda document: document["collections"].remove(collection_of(document, "in-log")))
    store(serving, backup)
    assert_refused(serving, 1, "manifest")


def test_file_left_out_of_the_manifest(serving: Site, backup: Path) -> None:
    edit(backup, lambda document: document["files"].remove(entry_of(document, "data_level0.bin")))
    store(serving, backup)
    assert_refused(serving, 1, "manifest.json is damaged: it lacks ")


def test_file_that_the_manifest_does_not_name(serving: Site, backup: Path) -> None:
    """SQLite would read a log of writes beside the database."""
    (backup / "chroma.sqlite3-wal").write_bytes(b"")
    (backup / "stray").write_bytes(b"stray")
    store(serving, backup)
    target = serving.root / "look"
    result = serving.chromactl("restore", "--target", str(target))
    if result.code == 0:
        assert not (target / "stray").exists()
        shutil.rmtree(target)
    else:
        assert "stray" in result.output or "-wal" in result.output


def test_symbolic_link_in_place_of_a_file(serving: Site, backup: Path) -> None:
    """Restic stores the link; whatever it leads to must not be taken for the file, let alone get another owner."""
    path = next(backup.rglob("length.bin"))
    victim = path.rename(serving.run / "victim")
    victim.chmod(0o600)
    os.chown(victim, os.geteuid(), os.getegid())
    path.symlink_to(victim)
    store(serving, backup)
    assert_refused(serving, 1, "length.bin")
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (os.geteuid(), 0o600)


def test_newer_format(serving: Site, backup: Path) -> None:
    edit(backup, lambda document: document.update(format=3))
    store(serving, backup)
    assert_refused(serving, 1, "has format 3; this chromad knows")


def test_newer_engine(serving: Site, backup: Path) -> None:
    edit(backup, lambda document: document.update(engine_version="99.0.0"))
    store(serving, backup)
    assert_refused(serving, 78, "was taken by Chroma 99.0.0")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"bytes": "many"}, ["restore", "--dry-run"]),
        ({"bytes": "many"}, ["verify"]),
        ({"created": "yesterday"}, ["backups"]),
        ({"created": ""}, ["restore", "--at", "2026-01-01T00:00:00Z"]),
        ({"base": "x"}, ["restore", "--at", "2026-01-01T00:00:00Z"]),
    ],
)
def test_tags_edited(serving: Site, backup: Path, facts: dict[str, str], words: list[str]) -> None:
    """They are for finding backups; wrong ones do not end in a traceback."""
    store(serving, backup, **facts)
    result = serving.chromactl(*words)
    assert "Traceback" not in result.output
    assert result.code in (0, 1), result.output


def test_more_data_than_space(serving: Site, backup: Path) -> None:
    store(serving, backup, bytes=f"{1 << 60}")
    before = serving.tree(), serving.asides()
    result = serving.chromactl("restore")
    assert result.code == 1
    assert "the backup needs 1048576.0 TiB" in result.output
    assert (serving.tree(), serving.asides()) == before


def test_path_traversal(serving: Site, backup: Path) -> None:
    victim = serving.run / "victim"
    victim.write_text("untouched", encoding="utf-8")
    edit(backup, lambda document: entry_of(document, "chroma.sqlite3").update(path="../../victim"))
    store(serving, backup)
    assert_refused(serving, 1, "manifest.json is damaged")
    assert victim.read_text(encoding="utf-8") == "untouched"


def test_untouched_files_are_accepted(serving: Site, backup: Path, held: dict[str, dict[str, Record]]) -> None:
    """Last in this file: it shows that the others were refused for their damage alone."""
    store(serving, backup)
    assert serving.chromactl("verify").code == 0
    assert serving.chromactl("restore").code == 0
    opened.assert_holds(serving.serve().client(), held)
