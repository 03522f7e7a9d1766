"""Back to any second: a scripted history with backups in between, compared with a model of what each second held."""

import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from tests.integration import opened, records
from tests.integration.records import Record
from tests.integration.site import Site

Model = dict[str, dict[str, Record]]
PROBES = 10


@dataclass
class History:
    """What collections hold from a second (Unix time) on; each second has one request at most."""

    site: Site
    held: Model = field(default_factory=dict)
    states: dict[int, Model] = field(default_factory=dict)
    backups: list[int] = field(default_factory=list)

    def put(self, name: str, *keys: str, version: int = 0) -> int:
        """Makes the collection where it is missing."""
        client = self.site.daemon.client()
        written = {key: records.make(key, version) for key in keys}
        threshold = 50 if name == "persisted" else 1000
        collection = (
            client.get_collection(name, embedding_function=None)
            if name in self.held
            else records.create(client, name, threshold)
        )
        second = self._next_second()
        records.upsert(collection, written)
        return self._note(second, name, self.held.get(name, {}) | written)

    def delete(self, name: str, *keys: str) -> int:
        collection = self.site.daemon.client().get_collection(name, embedding_function=None)
        second = self._next_second()
        collection.delete(ids=list(keys))
        return self._note(second, name, {key: record for key, record in self.held[name].items() if key not in keys})

    def backup(self, *words: str) -> str:
        """Gives why it has a base of its own."""
        taken = self.site.backup(*words)
        self.backups.append(int(datetime.fromisoformat(taken["created"]).timestamp()))
        return str(taken["base"])

    def at(self, second: int) -> Model:
        """What there was at the end of a second."""
        return self.states[max(each for each in self.states if each <= second)]

    def assert_restored(self, second: int) -> None:
        """A collection that the next backup knows, and that has no record yet, may have been there: it comes back empty."""
        later = min((each for each in self.backups if each > second), default=max(self.states))
        unknown: Model = {name: {} for name in self.at(later) if name not in self.at(second)}
        if second in self.backups:
            unknown = {}
        words = ["--inexact"] if unknown else []
        opened.assert_restored(self.site, self.at(second) | unknown, "--at", iso(second), *words)

    def _next_second(self) -> int:
        """Waits until a second begins in which nothing was written yet."""
        time.sleep(1 - time.time() % 1 + 0.02)
        return int(time.time())

    def _note(self, second: int, name: str, held: dict[str, Record]) -> int:
        assert int(time.time()) == second, "the machine is too slow to tell seconds apart"
        self.held = self.held | {name: held}
        self.states[second] = self.held
        return second


def iso(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()


def keys(name: str, *numbers: int) -> list[str]:
    return [f"{name}-{number}" for number in range(*numbers)]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    site = Site()
    site.serve()
    made = History(site)
    made.put("persisted", *keys("p", 120))
    made.put("in-log", *keys("l", 20))
    made.put("often", *keys("o", 10))
    made.backup()
    made.put("persisted", *keys("p", 100, 160), version=1)
    made.put("often", *keys("o", 5, 15), version=1)
    made.delete("in-log", *keys("l", 5))
    assert made.backup() == ""
    made.put("persisted", *keys("p", 160), version=666)  # the bad update
    made.delete("persisted", *keys("p", 10, 160))  # the mass delete
    made.put("in-log", *keys("l", 3, 25), version=1)
    assert made.backup("--full") == "asked for"
    assert site.chromactl("checkpoint", "--json").json()["purged"], "the live log is no help for what was before"
    made.put("later", *keys("n", 15))
    made.put("persisted", *keys("p", 5, 60), version=2)
    assert made.backup() == ""
    made.put("often", *keys("o", 30), version=2)
    made.delete("later", *keys("n", 3))
    yield made
    site.remove()


def test_ten_random_seconds(history: History) -> None:
    span = range(history.backups[0], max(history.states) + 1)
    probes = random.Random(4).sample(span, PROBES)
    # The second of a backup is special: it may go on after the backup was taken.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(history.assert_restored, [*probes, history.backups[0], history.backups[2]]))


def test_plan(history: History) -> None:
    """Says where the log comes from: the backup's own, the next base, the live database."""

    def plan(second: int) -> tuple[bool, bool]:
        found = history.site.chromactl("restore", "--dry-run", "--json", "--at", iso(second)).json()
        assert found["at"] == iso(second)
        return found["log_of"] is not None, found["live_log"]

    first, second, third, fourth = history.backups
    assert plan(second - 1) == (False, False)
    assert plan(third - 1) == (True, False)
    assert plan(fourth - 1) == (False, False)
    assert plan(max(history.states)) == (False, True)
    assert first < second < third < fourth


def test_before_the_first_backup(history: History) -> None:
    before = history.site.tree()
    result = history.site.chromactl("restore", "--at", iso(history.backups[0] - 1), "--target", "/nowhere/look")
    assert result.code == 1
    assert f"no backup reaches back to {iso(history.backups[0] - 1)[:19]}Z" in result.output
    assert f"the oldest backup is of {iso(history.backups[0])}" in result.output
    assert "HINT: name a later time" in result.output
    assert history.site.tree() == before


def test_in_place_with_the_service_down(history: History) -> None:
    """On a copy of the site, so that the others find theirs as it was."""
    second = history.backups[1] - 1
    history.site.daemon.stop()
    other = Site()
    try:
        other.copy_from(history.site)
        result = other.chromactl("restore", "--at", iso(second), "--json")
        assert result.code == 0, result.output
        assert result.json()["notes"] == []
        opened.assert_holds(other.serve().client(), history.at(second))
        assert other.backup()["base"] == "the data have another history"
        result = other.chromactl("restore", "--at", iso(max(history.states)), "--target", f"{other.root}/look")
        assert result.code == 1
        assert "it cannot be exact:" in result.output
        assert "another history of the data began" in result.output
    finally:
        other.remove()
        history.site.serve()


def test_one_collection(history: History) -> None:
    """Into the running service, as it was before the bad update."""
    second = history.backups[1]
    words = ["--collection", "persisted", "--into", "before", "--at", iso(second)]
    result = history.site.chromactl("restore", *words)
    assert result.code == 0, result.output
    client = history.site.daemon.client()
    records.assert_equal(client, "before", history.at(second)["persisted"])
    client.delete_collection("before")


def test_elsewhere_there_is_no_live_log(history: History) -> None:
    """With repository and key alone what came after the last backup is missing, and that is said."""
    site = history.site
    words = ["--repository", str(site.backups), "--password-file", str(site.key), "--target", f"{site.root}/look"]
    result = site.chromactl("restore", *words, "--at", iso(max(history.states)))
    assert result.code == 1
    assert f"what came after the backup of {iso(history.backups[-1])} is missing" in result.output
    assert "HINT: --inexact restores it all the same" in result.output
    assert not (site.root / "look").exists()
    result = site.chromactl("restore", *words, "--at", iso(history.backups[-1] - 1))
    assert result.code == 0, result.output
    shutil.rmtree(site.root / "look")


def test_backup_that_was_forgotten(history: History) -> None:
    """The one before it leads to its seconds where the same base has a later backup; else it is said that log is missing."""
    other = Site()
    try:
        other.copy_from(history.site)
        listed = [each["id"] for each in other.listed()]
        assert other.chromactl("backups", "forget", listed[1], "--confirm").code == 0
        words = ["--at", iso(history.backups[1] - 1)]
        result = other.chromactl("restore", "--target", f"{other.root}/look", *words)
        assert result.code == 1
        assert "part of the log was purged" in result.output
        opened.assert_restored(other, history.at(history.backups[0]), *words, "--inexact")
    finally:
        other.remove()


def test_collections_that_come_and_go(history: History) -> None:
    """Last in this file, since it goes on with the history. What the log does not say is said before anything is done."""
    site, client = history.site, history.site.daemon.client()
    history.put("renamed", *keys("r", 5))
    history.put("replaced", *keys("f", 5))
    deleted = history.put("deleted", *keys("d", 5))
    history.put("persisted", "end-of-backup")
    assert history.backup() == ""
    before = history.put("deleted", *keys("d", 5, 8))
    client.get_collection("renamed", embedding_function=None).modify(name="new-name")
    client.delete_collection("replaced")
    del history.held["replaced"]
    again = history.put("replaced", *keys("g", 7))
    brief = history.put("brief", *keys("b", 7))
    client.delete_collection("brief")
    history.put("persisted", "after-brief")
    client.delete_collection("deleted")
    assert history.backup() == ""

    target = ["--target", f"{site.root}/look"]
    result = site.chromactl("restore", *target, "--at", iso(before))
    assert result.code == 1
    assert "it cannot be exact:" in result.output
    assert "the collection 'deleted' was deleted between" in result.output
    assert "the collection 'renamed' was renamed to 'new-name'" in result.output
    assert not (site.root / "look").exists()

    model = {name: held for name, held in history.at(brief).items() if name != "brief"}
    model["deleted"] = history.at(deleted)["deleted"]
    opened.assert_restored(site, model, "--at", iso(brief), "--inexact")
    assert history.at(again)["replaced"].keys() == set(keys("g", 7))

    model = {"new-name" if name == "renamed" else name: held for name, held in history.held.items()}
    del model["deleted"], model["brief"]
    opened.assert_restored(site, model)
