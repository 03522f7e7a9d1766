"""What happens to a backup between its proof and the repository: it does not count as proven, and nothing is built on it."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.integration import records
from tests.integration.account import until
from tests.integration.site import Site

# Flips a bit in the middle of a file, and leaves its time as it was
_FLIP = """
import os, sys
path = sys.argv[1]
status = os.stat(path)
with open(path, "r+b") as file:
    file.seek(status.st_size // 2)
    byte = file.read(1)[0]
    file.seek(-1, 1)
    file.write(bytes([byte ^ 1]))
os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
"""


@pytest.fixture(scope="module")
def good() -> Iterator[Site]:
    """A served site with a good backup."""
    site = Site()
    records.fill(site.serve().client(), "persisted", 120, sync_threshold=50)
    site.backup()
    yield site
    site.remove()


def write(site: Site) -> int:
    """Writes one record more; gives how many there are then."""
    collection = site.daemon.client().get_collection("persisted", embedding_function=None)
    key = f"after-{collection.count()}"
    records.upsert(collection, {key: records.make(key)})
    return collection.count()


def around_restic(site: Site, verb: str, commands: str) -> dict[str, str]:
    """An environment in which these commands of a shell run before a verb of restic; $directory is what is backed up."""
    place = site.root / "bin"
    place.mkdir(exist_ok=True)
    (place / "flip.py").write_text(_FLIP, encoding="ascii")
    script = place / "restic"
    script.write_text(
        f"#!/bin/sh\nfor directory; do :; done\ncase \" $* \" in *' {verb} '*)\n{commands}\n;; esac\n"
        'exec /usr/bin/restic "$@"\n',
        encoding="ascii",
    )
    script.chmod(0o755)
    return {"PATH": f"{place}:{os.environ['PATH']}"}


def flip(name: str) -> str:
    return f"python3 $(dirname $0)/flip.py $(ls $directory/{name} | head -n 1)"


def assert_not_proven(
    site: Site,
    said: str,
    environment: dict[str, str],
    *words: str,
    why: str = "what was stored is not what was proven",
) -> None:
    """It is told, is not what a restore takes, lets nothing be purged, and the next one begins anew."""
    held, before = write(site), site.ledger
    result = site.chromactl("backup", *words, environment=environment)
    assert result.code == 1, result.output
    assert "is stored, but not proven: " in result.output
    assert why in result.output
    assert said in result.output
    assert "HINT: " in result.output
    assert "Traceback" not in result.output
    listed = site.listed()
    assert not listed[-1]["proven"]
    assert listed[-1]["id"] in result.output
    good = next(each["id"] for each in reversed(listed) if each["proven"])
    assert site.chromactl("restore", "--dry-run", "--json").json()["id"] == good == before["taken"][-1]["id"]
    assert site.ledger["last_seq_id"] == before["last_seq_id"]
    assert site.ledger["suspect"]
    assert not site.ledger["taken"][-1]["proven"]
    taken = site.backup()
    assert taken["base"]
    assert taken["records"] == held


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        ("printf '{' >$directory/manifest.json", "manifest.json is damaged"),
        ('sed -i \'s/"persisted"/"another"/\' $directory/manifest.json', "says something else"),
        ("rm $directory/manifest.json", "manifest.json"),
        (flip("log.sqlite3"), "log.sqlite3 is not what the manifest says"),
        (flip("chroma.sqlite3"), "chroma.sqlite3 is not what the manifest says"),
        ("rm $directory/*/length.bin", "length.bin is missing"),
    ],
    ids=["no-json", "other-name", "no-manifest", "log", "database", "segment"],
)
def test_changed_after_the_proof(good: Site, commands: str, said: str) -> None:
    assert_not_proven(good, said, around_restic(good, "backup", commands))


@pytest.mark.parametrize("name", ["chroma.sqlite3", "*/data_level0.bin"])
def test_new_base_changed_after_the_proof(good: Site, name: str) -> None:
    environment = around_restic(good, "backup", flip(name))
    assert_not_proven(good, "is not what the manifest says", environment, "--full")


@pytest.mark.parametrize(("name", "words"), [("log.sqlite3", ()), ("chroma.sqlite3", ("--full",))])
def test_stored_otherwise_than_it_was_proven(good: Site, name: str, words: tuple[str, ...]) -> None:
    """What restic has read was sound, and what it gives back is not."""
    garble = f'case "$directory" in */{name}) /usr/bin/restic "$@" | tr a b; exit ;; esac'
    assert_not_proven(good, f"{name} is not what the manifest says", around_restic(good, "dump", garble), *words)


def test_killed_before_it_was_read_back(good: Site) -> None:
    """It is in the repository, and nowhere as proven."""
    write(good)
    before = good.listed()
    # The process above the shell is the one that works.
    result = good.chromactl("backup", environment=around_restic(good, "dump", "kill -KILL $PPID; exit 1"))
    assert result.code in (-signal.SIGKILL, 1), result.output
    until(lambda: good.chromactl("backup", "--dry-run").code == 0, "the end of restic")
    [unread] = good.listed()[len(before) :]
    assert not unread["proven"]
    last = next(each["id"] for each in reversed(before) if each["proven"])
    assert good.chromactl("restore", "--dry-run", "--json").json()["id"] == last
    held = write(good)
    assert good.backup()["records"] == held
    assert [each["proven"] for each in good.listed()[-2:]] == [False, True]


def test_repository_that_cannot_be_read(good: Site) -> None:
    environment = around_restic(good, "dump", "echo Fatal: the disk is gone >&2; exit 1")
    assert_not_proven(good, "the disk is gone", environment)


def test_repository_that_takes_no_new_tag(good: Site) -> None:
    """What was read back does not count as proven when the repository cannot be told so."""
    assert_not_proven(good, "", around_restic(good, "tag", "echo Fatal: no >&2; exit 1"), why="restic tag: no")
    assert_not_proven(good, "", around_restic(good, "tag", "exit 0"), why="did not take the tag proven")


def test_repository_that_removes_nothing(good: Site) -> None:
    """The former snapshot stays beside the one that is proven."""
    held, before = write(good), good.listed()
    keep = 'cp -a {0}/snapshots {0}/kept; /usr/bin/restic "$@"; cp -an {0}/kept/. {0}/snapshots; exit'
    result = good.chromactl("backup", "--json", environment=around_restic(good, "tag", keep.format(good.backups)))
    assert result.code == 0, result.output
    assert result.json()["records"] == held
    found = good.listed()[len(before) :]
    assert sorted(each["proven"] for each in found) == [False, True]
    assert next(each["id"] for each in found if each["proven"]) == result.json()["id"]
