"""The log after a backup may be gone for good: that is told, whoever remembers it, and never gives less in silence."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.integration import opened, records, seconds
from tests.integration.records import Record
from tests.integration.site import Site

Model = dict[str, dict[str, Record]]


def put(site: Site, count: int, version: int) -> dict[str, Record]:
    collection = site.daemon.client().get_collection("persisted", embedding_function=None)
    written = {key: records.make(key, version) for key in (f"{version}-{number}" for number in range(count))}
    records.upsert(collection, written)
    return written


@pytest.fixture
def purged(site: Site) -> tuple[Site, Model]:
    """A backup, writes, another one that lets them be purged, and one write more; gives what the first one holds."""
    site.serve()
    held = records.fill(site.daemon.client(), "persisted", 110, sync_threshold=50)
    site.backup()
    put(site, 300, 1)
    site.backup()
    assert site.chromactl("checkpoint", "--json").json()["purged"]
    put(site, 1, 2)
    return site, {"persisted": held}


def forget(site: Site) -> None:
    second = site.listed()[-1]["id"]
    assert site.chromactl("backups", "forget", second, "--confirm").code == 0


def forget_without_a_ledger(site: Site) -> None:
    forget(site)
    (site.backup_dir / "ledger.json").unlink()


def switch(site: Site) -> None:
    """To a repository that has the first backup alone."""
    forget(site)
    other = site.root / "other"
    site.backups.rename(other)
    site.configure({"backup.repository": str(other)})


@pytest.mark.parametrize("lose", [forget, forget_without_a_ledger, switch])
def test_later_backup_is_gone(purged: tuple[Site, Model], lose: Callable[[Site], None]) -> None:
    site, held = purged
    lose(site)
    words = ["--at", seconds.iso(seconds.done())]
    before = site.tree().keys()
    result = site.chromactl("restore", "--target", f"{site.root}/look", *words)
    assert result.code == 1, result.output
    assert "it cannot be exact:" in result.output
    assert "cannot be joined" in result.output
    assert "purged" in result.output
    assert "HINT: --inexact restores it all the same; nothing was touched" in result.output
    assert not (site.root / "look").exists()
    assert site.tree().keys() == before
    opened.assert_restored(site, held, *words, "--inexact")


def test_deletes_that_were_purged(site: Site) -> None:
    """They leave no record that would tell; the ledger does."""
    site.serve()
    held = records.fill(site.daemon.client(), "persisted", 110, sync_threshold=50)
    site.backup()
    collection = site.daemon.client().get_collection("persisted", embedding_function=None)
    collection.delete(ids=sorted(held)[:60])
    site.backup()
    assert site.chromactl("checkpoint", "--json").json()["purged"]
    put(site, 1, 2)
    forget(site)
    result = site.chromactl("restore", "--target", f"{site.root}/look", "--at", seconds.iso(seconds.done()))
    assert result.code == 1, result.output
    assert "purged after a later backup" in result.output


def test_collection_that_left_nothing_but_a_gap(site: Site) -> None:
    """One that was made, filled and deleted after the backup: its rows are gone, and nobody knows what they were."""
    client = site.serve().client()
    model: Model = {"kept": records.fill(client, "kept", 5)}
    site.backup()
    records.fill(client, "brief", 3)
    words = ["--at", seconds.iso(seconds.done())]
    more = {"last": records.make("last")}
    records.upsert(client.get_collection("kept", embedding_function=None), more)
    client.delete_collection("brief")
    result = site.chromactl("restore", "--target", f"{site.root}/look", *words)
    assert result.code == 1, result.output
    assert "3 rows of the log after" in result.output
    assert "are gone, as those of collections that were deleted later are" in result.output
    opened.assert_restored(site, model, *words, "--inexact")


@pytest.mark.parametrize("name", ["chroma.sqlite3", "log.sqlite3", "manifest.json"])
def test_log_of_the_later_backup_is_damaged(joined: tuple[Site, int], name: str) -> None:
    """What is fetched of it is compared with its manifest, as all of the first one is."""
    site, second = joined
    place = site.root / "bin"
    place.mkdir(exist_ok=True)
    script = place / "restic"
    # One byte of what `dump` gives of this file is another one. Of a manifest the first: nothing is compared with what it
    # says of samples, which its middle may be.
    where = "0" if name == "manifest.json" else "len(content) // 2"
    script.write_text(
        f"#!/bin/sh\ncase \" $* \" in *' dump '*'/{name} ') /usr/bin/restic \"$@\" | python3 {place}/flip.py ;;\n"
        '*) exec /usr/bin/restic "$@" ;; esac\n',
        encoding="ascii",
    )
    script.chmod(0o755)
    (place / "flip.py").write_text(
        f"import sys\ncontent = bytearray(sys.stdin.buffer.read())\ncontent[{where}] ^= 1\n"
        "sys.stdout.buffer.write(content)\n",
        encoding="ascii",
    )
    words = ["restore", "--target", f"{site.root}/look", "--at", seconds.iso(second)]
    result = site.chromactl(*words, environment={"PATH": f"{place}:{os.environ['PATH']}"})
    assert result.code == 1, result.output
    assert "damaged" in result.output
    assert name in result.output
    assert not (site.root / "look").exists()


@pytest.fixture(scope="module")
def joined() -> Iterator[tuple[Site, int]]:
    """A second whose log is in the base of the backup after it."""
    site = Site()
    records.fill(site.serve().client(), "persisted", 10)
    site.backup()
    put(site, 3, 1)
    second = seconds.done()
    put(site, 3, 2)
    site.backup("--full")
    found = site.chromactl("restore", "--dry-run", "--json", "--at", seconds.iso(second)).json()
    assert found["log_of"]
    yield site, second
    site.remove()
