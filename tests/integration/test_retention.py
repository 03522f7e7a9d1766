"""Which backups stay: those that the policy keeps of the proven ones, and what an operator does not forget."""

import os
import time
from collections.abc import Iterator

import pytest

from tests.integration import records
from tests.integration.site import Site


@pytest.fixture(scope="module")
def _three() -> Iterator[Site]:
    site = Site()
    daemon = site.serve()
    collection = records.create(daemon.client(), "some")
    for number in range(3):
        records.upsert(collection, {f"{number}": records.make(f"{number}")})
        site.backup()
    daemon.stop()
    yield site
    site.remove()


@pytest.fixture
def three(site: Site, _three: Site) -> Site:
    """A stopped site with three good backups of the last few seconds."""
    site.copy_from(_three)
    return site


def ids(site: Site) -> list[str]:
    return [each["id"] for each in site.listed()]


def keep(site: Site, last: int) -> None:
    site.configure({"backup.keep": {"last": last, "daily": 0, "weekly": 0, "monthly": 0}})


def test_older_ones_go(three: Site) -> None:
    before = ids(three)
    keep(three, 2)
    three.edit_ledger(retained="")
    taken = three.backup()
    assert taken["forgotten"] == 2
    assert ids(three) == [before[2], taken["id"]]
    assert three.chromactl("verify").code == 0


def test_once_a_day(three: Site) -> None:
    """Each look at the policy takes a moment."""
    keep(three, 1)
    assert three.ledger["retained"]
    assert three.backup()["forgotten"] == 0
    three.edit_ledger(retained="2026-01-01T00:00:00+00:00")
    assert three.backup()["forgotten"] == 4
    assert len(ids(three)) == 1


def test_what_a_killed_restic_left_goes_after_a_day(three: Site) -> None:
    """What may still be written stays, and whatever is not restic's."""
    names = ("locks/{0}-tmp-12", "data/00/{0}-tmp-3456789", "locks/{0}-tmp-x", "locks/note-tmp-1")
    old, new = ([three.backups / name.format(char * 64) for name in names] for char in "ab")
    for path in (*old, *new):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
        three.give(path)
        if path in old:
            os.utime(path, (time.time() - 90_000,) * 2)
    three.edit_ledger(retained="")
    three.backup()
    assert [path.exists() for path in old] == [False, False, True, True]
    assert all(path.exists() for path in new)


def test_only_proven_ones_count(three: Site) -> None:
    """Of those that are not, the newest stays for a look, beside what the policy keeps."""
    for each in ids(three)[1:]:
        three.restic("tag", "--remove", "proven", "--add", "unproven", each)
    assert [each["proven"] for each in three.listed()] == [True, False, False]
    proven, _, unproven = ids(three)
    assert three.chromactl("restore", "--dry-run", "--json").json()["id"] == proven
    keep(three, 2)
    three.edit_ledger(retained="")
    taken = three.backup()
    assert taken["forgotten"] == 1
    assert ids(three) == [proven, unproven, taken["id"]]


def test_backups_of_other_hosts_stay(three: Site) -> None:
    """Both of them, though the policy keeps one of each host."""
    other = ids(three)[0]
    [snapshot] = [each for each in three.listed() if each["id"] == other]
    for _ in range(2):
        three.restic("backup", "--host", "elsewhere", "--tag", "chromad", "--tag", "proven", str(three.current))
    keep(three, 1)
    three.edit_ledger(retained="")
    assert three.backup()["forgotten"] == 3
    assert sorted(each["host"] for each in three.listed()) == sorted(["elsewhere", "elsewhere", snapshot["host"]])
    assert "HOST" in three.chromactl("backups").output


def test_what_is_not_ours_stays(three: Site) -> None:
    three.restic("backup", "--tag", "proven", str(three.current))
    keep(three, 1)
    three.edit_ledger(retained="")
    three.backup()
    assert three.restic("snapshots", "--json").count('"short_id"') == 2
    assert len(ids(three)) == 1


def test_forget_does_nothing_unless_confirmed(three: Site) -> None:
    before, tree = ids(three), three.tree(three.root)
    result = three.chromactl("backups", "forget", *before[:2])
    assert result.code == 0
    assert [line.split()[2] for line in result.output.splitlines()[:2]] == before[:2]
    assert result.output.splitlines()[-1] == "--confirm does it"
    found = three.chromactl("backups", "forget", before[0], "--json").json()
    assert found == {"forgotten": [], "would_forget": [before[0]]}
    assert three.tree(three.root) == tree


def test_forget(three: Site) -> None:
    before = ids(three)
    result = three.chromactl("backups", "forget", *before[:2], "--confirm")
    assert (result.code, result.output) == (0, "2 backups are forgotten\n")
    assert ids(three) == before[2:]
    three.restic("check", "--read-data")
    assert three.chromactl("restore").code == 0


def test_last_proven_one_is_not_forgotten(three: Site) -> None:
    before = ids(three)
    three.restic("tag", "--remove", "proven", "--add", "unproven", before[2])
    before = ids(three)
    assert three.chromactl("backups", "forget", *before, "--confirm").code == 1, "unproven ones do not count"
    result = three.chromactl("backups", "forget", *before[:2], "--confirm")
    assert result.code == 1
    assert "no proven backup of " in result.output
    assert "HINT: take another one first" in result.output
    assert ids(three) == before
    assert three.chromactl("backups", "forget", before[2], before[0], "--confirm").code == 0


@pytest.mark.parametrize("name", ["0123abcd", "newest"])
def test_forget_what_is_not_there(three: Site, name: str) -> None:
    before = ids(three)
    result = three.chromactl("backups", "forget", before[0], name, "--confirm")
    assert result.code == 1
    assert f"no backup {name!r} in {three.backups}" in result.output
    assert ids(three) == before


def test_forget_where_no_backup_was_ever_taken(three: Site) -> None:
    """As on another host that has repository and key."""
    (three.checkpoints / ".backup").rename(three.root / "elsewhere")
    result = three.chromactl("backups", "forget", ids(three)[0], "--confirm")
    assert result.code == 0, result.output
    assert len(ids(three)) == 2


def test_backup_goes_on_after_all_were_forgotten_behind_its_back(three: Site) -> None:
    three.restic("forget", *ids(three))
    assert ids(three) == []
    taken = three.backup()
    assert ids(three) == [taken["id"]]
    assert three.chromactl("verify").code == 0
