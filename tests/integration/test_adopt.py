"""chromactl adopt: directories that real releases of Chroma wrote are taken over, record by record."""

import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from chromad import config
from chromad.chroma import legacy, sqlite
from chromad.errors import TryAgain
from chromad.host import processes
from chromad.maintenance.adopt import Adoption

from tests.integration import holders, mounts, old_chroma
from tests.integration.account import BIN, current, until
from tests.integration.old_chroma import VERSIONS, Model
from tests.integration.site import Result, Site, free_port

# Has a migration that 1.0 does not have, and none of 1.5's
ANOTHER = "1.3.7"

Made = dict[str, tuple[Path, Model]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """By version, a directory and what it holds."""
    top = tmp_path_factory.mktemp("old")
    found = {}
    for version in (*VERSIONS, ANOTHER):
        (top / version).mkdir()
        found[version] = (top / version, old_chroma.write(version, top / version))
    return found


def put(site: Site, path: Path) -> Path:
    """A copy of a directory below the site, as an operator has one."""
    source = site.root / "old"
    shutil.copytree(path, source)
    return source


def adopt(site: Site, source: Path, *words: str) -> Result:
    result = site.chromactl("adopt", str(source), *words)
    assert "Traceback" not in result.output
    return result


def compare(site: Site, model: Model, lost: frozenset[str] = frozenset()) -> None:
    """Every record but those that are lost: vector, document, metadata."""
    client = site.daemon.client()
    for name, wanted in model.items():
        found = client.get_collection(name).get(include=["documents", "metadatas"])
        rows = zip(found["ids"], found["documents"] or [], found["metadatas"] or [], strict=True)
        assert {each: [document, metadata] for each, document, metadata in rows} == {
            each: [document, metadata] for each, (_, document, metadata) in wanted.items()
        }
        ids = [each for each in wanted if each not in lost]
        if not ids:
            continue
        found = client.get_collection(name).get(ids=ids, include=["embeddings"])
        vectors = dict(zip(found["ids"], found["embeddings"], strict=True))  # type: ignore[arg-type]
        for each in ids:
            assert vectors[each] == pytest.approx(wanted[each][0], abs=1e-5), f"{name} {each}"


@pytest.mark.parametrize("version", [*VERSIONS, ANOTHER])
def test_sound_directory(site: Site, made: Made, version: str) -> None:
    path, model = made[version]
    source = put(site, path)
    site.make_repository()
    before = site.tree(source)
    document = adopt(site, source, "--json").json()
    assert site.tree(source) == before
    assert document["report"]["migrated"] == (version != "1.5.9")
    records = sum(len(each) for each in model.values())
    outcome = document["outcome"]
    assert (outcome["records"], outcome["compared"], outcome["unknown"]) == (records, records, 0)
    assert len(document["backup"]) == 8, document["backup"]
    site.serve()
    compare(site, model)
    assert "recovered" not in site.daemon.log
    assert site.daemon.status()["checkpoint"]["newest"]
    if version == "0.6.3":
        # The service has vectors of a cosine collection otherwise in the last bit than a replay of the log.
        site.backup()
        assert site.chromactl("verify").code == 0
    # It stays what it is over a restart, and a drill of its backup is right.
    site.daemon.stop()
    site.serve()
    compare(site, model)
    assert site.chromactl("verify").code == 0
    assert not list((site.root / "restore").glob("*"))


@pytest.mark.parametrize("version", VERSIONS)
def test_killed_in_a_persist(site: Site, version: str) -> None:
    source = site.root / "old"
    source.mkdir()
    ids = old_chroma.write_until_killed(version, source, 3)
    assert len(ids) >= 600
    result = adopt(site, source, "--json")
    # Stock Chroma truncates the pickle before it writes it, so a kill at that moment loses which vector is whose.
    lost = {each for one in result.json()["outcome"]["repaired"] for each in one["lost"]}
    assert result.code == int(bool(lost)), result.output[-1000:]
    site.serve()
    found = site.daemon.client().get_collection("killed").get(include=["documents"])
    assert set(ids) <= set(found["ids"])
    assert found["documents"] == [f"killed {each}" for each in found["ids"]]
    # The writer's own numbers, in the same order
    numbers = random.Random("kill")
    wanted = {f"k{place}": [numbers.uniform(-1, 1) for _ in range(64)] for place in range(len(found["ids"]))}
    kept = [each for each in wanted if each not in lost]
    found = site.daemon.client().get_collection("killed").get(ids=kept, include=["embeddings"])
    vectors = dict(zip(found["ids"], found["embeddings"], strict=True))  # type: ignore[arg-type]
    assert vectors.keys() == set(kept)
    for each in kept:
        assert vectors[each] == pytest.approx(wanted[each], abs=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_cannot_be_had_is_listed(site: Site, made: Made, version: str) -> None:
    path, model = made[version]
    source = put(site, path)
    cut: list[Path] = sorted(source.glob("*/index_metadata.pickle"))
    assert len(cut) == 2
    for pickle in cut:
        pickle.write_bytes(pickle.read_bytes()[:1200])
    result = adopt(site, source, "--json")
    outcome = result.json()["outcome"]
    repaired = outcome["repaired"]
    lost = frozenset(each for one in repaired for each in one["lost"])
    assert outcome["unknown"] == len(lost)
    # Until 0.5 the log was never purged, so it has them all.
    assert result.code == int(version != "0.4.24"), result.output
    assert (10 if result.code else -1) < len(lost) < 340
    for one in repaired if lost else []:
        assert Path(one["lost_file"]).read_text(encoding="utf-8").split() == one["lost"]
        assert Path(one["broken"]).is_dir()
    site.serve()
    compare(site, model, lost)


@pytest.mark.parametrize("version", ["0.6.3", "1.5.9"])
def test_header_is_zero(site: Site, made: Made, version: str) -> None:
    """Behind the elements Chroma until 0.6 left what was in memory: copies of elements among it."""
    path, model = made[version]
    source = put(site, path)
    for header in source.glob("*/header.bin"):
        header.write_bytes(bytes(100))
    result = adopt(site, source, "--json")
    assert result.code == 0, result.output
    assert [each["lost"] for each in result.json()["outcome"]["repaired"]] == [[], []]
    site.serve()
    compare(site, model)


def test_dry_run_and_report(site: Site, made: Made) -> None:
    source = put(site, made["0.6.3"][0])
    (source / "notes.txt").touch()
    before = site.tree(), site.tree(source)
    result = adopt(site, source, "--dry-run")
    assert result.code == 0
    for part in (
        "0.5 or 0.6",
        "sysdb 9",
        "is brought to",
        "default_tenant/default_database (4 collections)",
        "cosine",
        "179",
        "left out: notes.txt",
        "a copy becomes",
    ):
        assert part in result.output
    assert (site.tree(), site.tree(source)) == before
    assert not list((site.root / "restore").glob("*"))


def test_in_place(site: Site, made: Made) -> None:
    path, model = made["0.6.3"]
    site.wipe()
    shutil.copytree(path, site.data, dirs_exist_ok=True)
    site.give_all(site.data)
    site.assert_refused(78, "was written by a Chroma older than", "chromactl adopt")
    before = {key.partition("data")[2]: value for key, value in site.tree().items()}
    outcome = adopt(site, site.data, "--json").json()["outcome"]
    kept = site.tree(Path(outcome["replaced"]))
    assert {key.partition(Path(outcome["replaced"]).name)[2]: value for key, value in kept.items()} == before
    site.serve()
    compare(site, model)
    site.daemon.stop()
    result = adopt(site, site.data)
    assert result.code == 78
    assert "chromad runs on" in result.output


def test_service_runs(site: Site, made: Made) -> None:
    site.serve()
    result = adopt(site, put(site, made["1.5.9"][0]))
    assert result.code == 75
    assert "the service is running" in result.output
    assert site.daemon.status()["collections"] == 0


def test_data_are_there_already(used: Site, made: Made) -> None:
    used.serve().client().create_collection("mine")
    used.daemon.stop()
    result = adopt(used, put(used, made["1.5.9"][0]))
    assert result.code == 78
    assert "holds collections already" in result.output
    used.serve()
    assert used.daemon.client().get_collection("mine")


def test_directory_is_in_use(site: Site, made: Made) -> None:
    source = put(site, made["1.5.9"][0])
    other = Site()
    try:
        shutil.rmtree(other.data)
        shutil.copytree(source, other.data)
        other.give_all(other.data)
        server = holders.stock_server(other, free_port())
        result = adopt(site, other.data)
        assert result.code == 75
        assert f"pid {server.pid}" in result.output
    finally:
        other.remove()


def test_newer_chroma(site: Site, made: Made) -> None:
    source = put(site, made["1.5.9"][0])
    with sqlite3.connect(source / sqlite.FILE) as connection:
        connection.execute("INSERT INTO migrations VALUES ('sysdb', 99, '99-new.sql', '', '')")
    connection.close()
    result = adopt(site, source)
    assert result.code == 78
    assert "99-new.sql" in result.output


@pytest.mark.parametrize(
    ("path", "fact"),
    [("relative", "is relative"), ("/nowhere", "is not a directory"), ("/usr", "holds no chroma.sqlite3")],
)
def test_no_directory_of_chroma(site: Site, path: str, fact: str) -> None:
    result = adopt(site, Path(path))
    assert result.code == 78
    assert fact in result.output
    assert "HINT" in result.output


@pytest.mark.parametrize("phase", ["", "searching"])
def test_source_is_written_to_meanwhile(site: Site, made: Made, phase: str) -> None:
    """Before the copy is worked on, or when it is as good as compared."""
    source = put(site, made["1.5.9"][0])
    settings = config.load(site.config).model_copy(update={"allow_root": True})
    told: list[str] = []

    def progress(now: str, _done: int, _total: int) -> None:
        told.append(now)
        if now == phase and told.count(phase) == 1:
            write()

    def write() -> None:
        with sqlite3.connect(source / sqlite.FILE) as connection:
            connection.execute("UPDATE collections SET name = 'other' WHERE name = 'plain'")
        connection.close()

    with Adoption(settings, source, progress) as adoption:
        adoption.examine()
        if not phase:
            write()
        with pytest.raises(TryAgain, match="was written to meanwhile"):
            adoption.adopt(may_stop=False)
    assert not phase or phase in told
    assert not list(site.data.iterdir()) or not (site.data / sqlite.FILE).exists()
    assert not list((site.root / "restore").glob("*"))


def _parent(site: Site, source: Path) -> tuple[Path, str]:
    return source.parent, f"give the directory that has it: {source}"


def _file(site: Site, source: Path) -> tuple[Path, str]:
    return source / sqlite.FILE, f"give its directory: {source}"


def _parquet(site: Site, source: Path) -> tuple[Path, str]:
    (source / sqlite.FILE).rename(source / "chroma-embeddings.parquet")
    return source, "chroma-migrate"


def _other_program(site: Site, source: Path) -> tuple[Path, str]:
    with sqlite3.connect(source / sqlite.FILE) as connection:
        connection.execute("DROP TABLE migrations")
    connection.close()
    return source, "is it another program's?"


def _too_old(site: Site, source: Path) -> tuple[Path, str]:
    # As 0.4.14 leaves it
    with sqlite3.connect(source / sqlite.FILE) as connection:
        connection.execute("DELETE FROM migrations WHERE dir = 'sysdb' AND version > 3")
        connection.execute("DELETE FROM migrations WHERE dir = 'metadb' AND version > 2")
    connection.close()
    return source, "open it once with chromadb 0.4.24"


@pytest.mark.parametrize("make", [_parent, _file, _parquet, _other_program, _too_old])
def test_what_cannot_be_adopted(site: Site, made: Made, make: Callable[[Site, Path], tuple[Path, str]]) -> None:
    path, hint = make(site, put(site, made["1.5.9"][0]))
    before = site.tree()
    result = adopt(site, path)
    assert result.code == 78, result.output
    assert "staging-" not in result.output
    assert f"HINT: {hint}" in result.output
    assert site.tree() == before
    assert not list((site.root / "restore").glob("*"))


def test_database_is_garbage(site: Site) -> None:
    source = site.root / "old"
    source.mkdir()
    (source / sqlite.FILE).write_bytes(b"garbage" * 1000)
    result = adopt(site, source)
    assert result.code == 1
    assert "HINT" in result.output
    assert not list((site.root / "restore").glob("*"))


def test_engine_serves_something_else(site: Site, made: Made) -> None:
    """A number that JSON does not have: the engine of today gives none at all in its place."""
    source = put(site, made["1.5.9"][0])
    with sqlite3.connect(source / sqlite.FILE) as connection:
        connection.execute("UPDATE embedding_metadata SET float_value = 9e999 WHERE key = 'half' AND id % 7 = 3")
    connection.close()
    before = site.tree(), site.tree(source)
    result = adopt(site, source)
    assert result.code == 1
    assert "is not what" in result.output
    assert "has another metadata" in result.output
    assert "more" in result.output
    assert "HINT: nothing was touched" in result.output
    assert (site.tree(), site.tree(source)) == before
    assert not list((site.root / "restore").glob("*"))


def _no_restic(site: Site) -> dict[str, str]:
    return {"PATH": str(site.root)}


def _no_room_for_backups(site: Site) -> dict[str, str]:
    site.backup_dir.write_text("in the way", encoding="ascii")
    return {}


def _no_repository(site: Site) -> dict[str, str]:
    shutil.rmtree(site.backups)
    return {}


def _garbage(site: Site) -> dict[str, str]:
    site.backup_dir.mkdir()
    (site.backup_dir / "ledger.json").write_bytes(b"\xff")
    return {}


@pytest.mark.parametrize("spoil", [_no_restic, _no_room_for_backups, _no_repository, _garbage])
@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
def test_backup_fails(site: Site, made: Made, spoil: Callable[[Site], dict[str, str]], words: tuple[str]) -> None:
    """What was adopted stays, and how to get a backup is said."""
    path, model = made["1.5.9"]
    source = put(site, path)
    site.make_repository()
    environment = spoil(site)
    result = site.chromactl("adopt", str(source), *words, environment=environment)
    assert "Traceback" not in result.output
    assert result.code == 0, result.output
    if words:
        document = result.json()
        assert document["backup"].startswith("none: ")
        assert "sudo chromactl backup" in document["hint"]
    else:
        assert "no backup was taken (none: " in result.output
        assert "HINT: " in result.output
        assert "all 537 records are served as" in result.output
    if not words:
        return
    if site.backup_dir.is_file():
        site.backup_dir.unlink()
    site.serve()
    compare(site, model)


@pytest.mark.root
def test_no_room(site: Site, made: Made) -> None:
    source = put(site, made["1.0.20"][0])
    (site.root / "restore").mkdir()
    with mounts.small(site.root / "restore", 1 << 20):
        result = adopt(site, source)
    assert result.code == 1
    assert "the copy needs" in result.output
    assert site.tree()


def test_old_pickle_that_is_cut_anywhere(made: Made, tmp_path: Path) -> None:
    path = next(made["0.6.3"][0].glob("*/index_metadata.pickle"))
    whole = path.read_bytes()
    assert legacy.is_old(path.parent)
    counts = []
    for length in range(0, len(whole) + 1, 97):
        (tmp_path / path.name).write_bytes(whole[:length])
        counts.append(legacy.convert(tmp_path))
    (tmp_path / path.name).write_bytes(whole)
    # The rest is in the log.
    assert legacy.convert(tmp_path) == counts[-1] == 150
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert not legacy.is_old(tmp_path)


def test_killed_at_any_moment(site: Site, made: Made) -> None:
    path, model = made["1.0.20"]
    source = put(site, path)
    before = site.tree(source)
    adopted = False
    for delay in (0.3, 0.6, 0.9, 1.2, 1.6, 2.0, 2.5, 3.0):
        process = site.spawn([BIN / "chromactl", "--config", site.config, "adopt", source], current())
        try:
            process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        assert site.tree(source) == before
        # What a kill leaves of the engine ends by itself.
        until(lambda: not processes.with_open_database(site.data / sqlite.FILE, ignore=set()), "the engine's end")
        adopted = (site.data / "chromad.json").exists()
        if adopted:
            break
        assert not (site.data / sqlite.FILE).exists()
    if not adopted:
        left = [path for path in site.asides() if path.name.startswith("staging-")]
        result = adopt(site, source)
        assert result.code == 0
        assert all(str(path) in result.output for path in left if path.is_dir())
    site.serve()
    compare(site, model)
