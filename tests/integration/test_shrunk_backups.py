"""A backup of nothing, or of far less than before: refused, or taken with the one before it kept whatever the policy says."""

import shutil
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

import pytest

from tests.integration import records
from tests.integration.site import Site

LAST_ONE = {"backup.keep": {"last": 1, "daily": 0, "weekly": 0, "monthly": 0}}


@pytest.fixture(scope="module")
def _backed_up() -> Iterator[Site]:
    site = Site()
    daemon = site.serve()
    records.fill(daemon.client(), "some", 100)
    site.backup()
    daemon.stop()
    yield site
    site.remove()


@pytest.fixture
def full(site: Site, _backed_up: Site) -> Site:
    """A stopped site with a good backup of 100 records."""
    site.copy_from(_backed_up)
    return site


def ids(site: Site) -> list[str]:
    return [each["id"] for each in site.listed()]


def serve_nothing(site: Site) -> None:
    """Another database, as on a volume that is not mounted."""
    site.wipe()
    site.start(options=["--accept-empty"]).ready().stop()


def leave(site: Site, count: int) -> None:
    """Deletes all records but so many."""
    daemon = site.serve()
    collection = daemon.client().get_collection("some", embedding_function=None)
    unwanted = collection.get(include=[])["ids"][count:]
    if unwanted:
        collection.delete(ids=unwanted)
    daemon.stop()


def retain(site: Site) -> None:
    """The next backup applies the policy."""
    site.edit_ledger(retained="")


def assert_refused(site: Site, known: Mapping[str, object] | None = None) -> None:
    before = ids(site)
    for words in (["backup"], ["backup", "--full"], ["backup", "--dry-run"]):
        result = site.chromactl(*words)
        assert result.code == 78, result.output
        assert "has no collection, and the last good backup" in result.output
        assert "HINT: is a volume not mounted" in result.output
        assert "--accept-empty" in result.output
        assert "Traceback" not in result.output
    assert ids(site) == before
    found = site.chromactl("status", "--json").json()["backup"]
    assert "has no collection" in found["problem"]
    if known:
        assert found["last_good"] == known["last_good"]
        assert site.ledger["last_seq_id"] == known["last_seq_id"]


def test_another_database_that_is_empty(full: Site) -> None:
    [good] = ids(full)
    known = full.ledger
    serve_nothing(full)
    assert_refused(full, known)
    assert full.chromactl("restore", "--dry-run", "--json").json()["id"] == good
    taken = full.backup("--accept-empty")
    assert (taken["collections"], taken["shrunk"]["records"]) == (0, 100)
    assert ids(full) == [good, taken["id"]]
    assert full.chromactl("restore", "--dry-run", "--json").json()["id"] == taken["id"]
    assert full.backup()["shrunk"] is None, "nothing after nothing is as it should be"


def test_ledger_that_went_with_the_data(full: Site) -> None:
    """Checkpoints lie on the same volume, so what is known of the backups is not there either."""
    shutil.rmtree(full.backup_dir)
    serve_nothing(full)
    assert_refused(full)


def test_ledger_from_before_the_volume_was_mounted(full: Site) -> None:
    """It tells of a good backup of nothing; the repository knows of later ones."""
    early = full.ledger["taken"][0] | {"created": "2020-01-01T00:00:00+00:00", "collections": 0, "records": 0}
    full.edit_ledger(taken=[early])
    serve_nothing(full)
    assert_refused(full)


def test_all_collections_were_deleted(full: Site) -> None:
    daemon = full.serve()
    daemon.client().delete_collection("some")
    assert_refused(full, full.ledger)
    assert full.backup("--accept-empty")["collections"] == 0
    records.fill(daemon.client(), "again", 5)
    assert full.backup()["records"] == 5
    daemon.stop()


def test_ledger_of_an_older_chromad(full: Site) -> None:
    """It does not say what a backup holds; the repository does."""
    [taken] = full.ledger["taken"]
    old = {key: value for key, value in taken.items() if key not in ("collections", "records")}
    full.edit_ledger(taken=[old])
    leave(full, 40)
    assert full.backup()["shrunk"]["records"] == 100
    serve_nothing(full)
    assert_refused(full)


def test_first_backup_ever_is_of_nothing(used: Site) -> None:
    assert used.backup()["collections"] == 0
    assert used.backup()["collections"] == 0
    assert used.chromactl("status", "--json").json()["backup"]["shrunk"] is None


def test_half_of_the_records_is_enough(full: Site) -> None:
    leave(full, 50)
    assert full.backup()["shrunk"] is None


@pytest.mark.parametrize("lost", [False, True], ids=["by the ledger", "by the repository"])
def test_less_than_half(full: Site, lost: bool) -> None:
    """The one before stays, whatever the policy; also where only the repository tells of it."""
    [first] = ids(full)
    full.configure(LAST_ONE)
    leave(full, 49)
    retain(full)
    taken = full.backup()
    kept = taken["shrunk"]
    assert (kept["records"], kept["left"]) == (100, 49)
    assert datetime.fromisoformat(kept["until"]) - datetime.fromisoformat(taken["created"]) == timedelta(days=30)
    assert taken["forgotten"] == 0
    full.backup()
    if lost:
        (full.backup_dir / "ledger.json").unlink()
    else:
        retain(full)
    last = full.backup()
    assert last["forgotten"] == 2
    assert ids(full) == [first, last["id"]]
    assert full.chromactl("verify").code == 0, "which prunes"
    full.restic("check", "--read-data")
    result = full.chromactl("restore", first)
    assert result.code == 0, result.output
    daemon = full.serve()
    assert daemon.client().get_collection("some", embedding_function=None).count() == 100
    assert full.backup()["shrunk"] is None
    daemon.stop()


def test_what_is_said_of_it(full: Site) -> None:
    leave(full, 10)
    told = full.chromactl("backup")
    assert "has 100 records: it is kept until" in told.output
    daemon = full.serve()
    shrunk = daemon.status()["backup"]["shrunk"]
    assert (shrunk["from"], shrunk["to"]) == (100, 10)
    assert shrunk["kept_until"] in full.chromactl("status").output
    doctor = full.chromactl("doctor")
    assert "has 100 records, the one after it 10" in doctor.output
    with urllib.request.urlopen(f"http://127.0.0.1:{full.metrics_port}/metrics", timeout=20) as metrics:
        assert "\nchromad_backup_shrunk 1.0\n" in metrics.read().decode()
    [first, second] = ids(full)
    assert full.chromactl("backups", "forget", first, "--confirm").code == 0, "by hand it goes"
    assert ids(full) == [second]
    assert full.chromactl("status", "--json").json()["backup"]["shrunk"] is None
    daemon.stop()


def test_twice_in_a_row(full: Site) -> None:
    """Each is kept from the time when the next one came; when its time is over it goes."""
    [first] = ids(full)
    full.configure(LAST_ONE)
    leave(full, 40)
    second = full.backup()
    leave(full, 10)
    retain(full)
    third = full.backup()
    assert ids(full) == [first, second["id"], third["id"]]
    kept = full.ledger["kept"]
    assert [(each["records"], each["left"]) for each in kept] == [(100, 40), (40, 10)]
    full.edit_ledger(kept=[kept[0] | {"until": "2026-01-01T00:00:00+00:00"}, kept[1]], retained="")
    fourth = full.backup()
    assert ids(full) == [second["id"], fourth["id"]]


def test_second_repository_keeps_it_too(full: Site) -> None:
    second = full.make_repository(full.root / "second")
    full.configure(LAST_ONE | {"backup.copy_to": {"repository": str(second), "password_file": str(full.key)}})
    daemon = full.serve()
    collection = records.create(daemon.client(), "more")
    records.upsert(collection, {f"{number}": records.make(f"{number}") for number in range(400)})
    retain(full)
    full.backup()
    daemon.client().delete_collection("more")
    for _ in range(3):
        retain(full)
        full.backup()
    daemon.stop()
    tags = full.restic("snapshots", "--json", repository=second)
    assert tags.count('"short_id"') == 2
    assert "records=500" in tags


def test_backup_that_is_not_proven_supersedes_nothing(full: Site) -> None:
    leave(full, 10)
    with open(full.current / "chroma.sqlite3", "r+b") as file:
        file.write(b"scribble" * 100)
    assert full.chromactl("backup").code == 1
    assert full.ledger["kept"] == []
    assert full.backup()["shrunk"]["records"] == 100
