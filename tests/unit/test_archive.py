"""The log archive: what a database has logged since the newest mark, cut at a second and put into a copy of the base."""

import json
import shutil
import sqlite3
import uuid
import zlib
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from chromad.chroma import sqlite
from chromad.errors import BackupError
from chromad.store import archive

from tests.segments.workload import Workload

NOON = datetime(2100, 1, 1, 12, tzinfo=UTC)


def segment(name: str, scope: str = "METADATA") -> str:
    """The id of a segment of a collection."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name}-{scope}"))


class Data:
    """A data directory with its archive, and what clients do to it."""

    def __init__(self, directory: Path, path: Path) -> None:
        self.directory = directory
        self.path = path
        self.begun = 0

    def begin(self) -> int:
        """Makes the archive, with this as its base."""
        with sqlite.connect(self.directory) as connection:
            self.begun = archive.create(self.path, connection, NOON.isoformat())
        return self.begun

    def mark(self, hour: int) -> int:
        with sqlite.connect(self.directory) as connection:
            return archive.append(self.path, connection, (NOON + timedelta(hours=hour)).isoformat())

    def marked(self, hour: int) -> archive.Mark:
        """The newest mark up to an hour."""
        found, _ = archive.around(self.path, NOON + timedelta(hours=hour))
        assert found
        return found

    def run(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.directory / sqlite.FILE)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def collection(self, name: str) -> str:
        """Makes another one, as a copy of the first; gives its topic."""
        self.run(
            "INSERT INTO collections SELECT ?, ?, dimension, database_id, config_json_str, schema_str"
            " FROM collections LIMIT 1",
            name,
            name,
        )
        for scope in ("VECTOR", "METADATA"):
            self.run(
                "INSERT INTO segments SELECT ?, type, scope, ? FROM segments WHERE scope = ? LIMIT 1",
                segment(name, scope),
                name,
                scope,
            )
        return f"persistent://default/default/{name}"

    def write(self, topic: str, key: str, second: int = 0) -> None:
        self.run(
            "INSERT INTO embeddings_queue (created_at, operation, topic, id) VALUES (?, 2, ?, ?)",
            f"{NOON + timedelta(seconds=second):%Y-%m-%d %H:%M:%S}",
            topic,
            key,
        )

    def drop(self, topic: str) -> None:
        """As the engine deletes a collection."""
        name = topic.rpartition("/")[2]
        self.run("DELETE FROM embeddings_queue WHERE topic = ?", topic)
        self.run("DELETE FROM segments WHERE collection = ?", name)
        self.run("DELETE FROM collections WHERE id = ?", name)

    def log(self, after: int = 0) -> list[tuple[object, ...]]:
        return self.run("SELECT * FROM embeddings_queue WHERE seq_id > ? ORDER BY seq_id", after)

    def archived(self) -> list[str]:
        with closing(sqlite3.connect(self.path)) as connection:
            return [key for (key,) in connection.execute("SELECT id FROM log ORDER BY seq_id")]


@pytest.fixture
def data(recorded: tuple[Path, Workload], tmp_path: Path) -> Data:
    directory = tmp_path / "data"
    directory.mkdir()
    shutil.copy(recorded[0] / sqlite.FILE, directory)
    return Data(directory, tmp_path / archive.FILE)


@pytest.fixture
def topic(data: Data) -> str:
    """Of a collection that was empty when the first mark was set."""
    topic = data.collection("a")
    assert data.begin() == sqlite.last_seq_id(data.directory)
    return topic


@pytest.fixture
def copied(data: Data, topic: str, tmp_path: Path) -> Data:
    """A copy of the base."""
    directory = tmp_path / "copy"
    shutil.copytree(data.directory, directory)
    return Data(directory, tmp_path / "unused")


def test_what_came_since_the_mark(data: Data, topic: str) -> None:
    assert data.archived() == []
    first = sqlite.last_seq_id(data.directory)
    data.write(topic, "x")
    data.write(topic, "y")
    assert data.mark(1) == archive.last_seq_id(data.path) == first + 2
    assert data.archived() == ["x", "y"]
    assert archive.rows(data.path) == 2
    data.write(topic, "z")
    data.mark(2)
    assert data.archived() == ["x", "y", "z"]
    assert [data.marked(hour).last_seq_id for hour in (0, 1, 2)] == [first, first + 2, first + 3]


def test_mark_knows_the_collections(data: Data, topic: str) -> None:
    data.collection("b")
    data.mark(1)
    before, after = archive.around(data.path, NOON)
    assert before
    assert after
    assert after.taken == "2100-01-01T13:00:00+00:00"
    assert after.collections().keys() - before.collections().keys() == {"b"}
    assert after.collections()["b"][0] == "b"


def test_failure_leaves_no_trace(data: Data, topic: str) -> None:
    def fail(_connection: sqlite3.Connection) -> None:
        raise KeyError

    data.write(topic, "x")
    before = data.path.read_bytes()
    with sqlite.connect(data.directory) as connection, pytest.raises(KeyError):
        archive.append(data.path, connection, NOON.isoformat(), fail)
    assert data.path.read_bytes() == before
    data.mark(1)
    assert data.archived() == ["x"]


def test_collection_that_was_written_last_is_gone(data: Data, topic: str) -> None:
    data.write(topic, "x")
    data.mark(1)
    other = data.collection("b")
    data.drop(topic)
    data.write(other, "y")
    with pytest.raises(archive.Broken, match="seq ids may be used again"):
        data.mark(2)


def test_other_collections_may_go(data: Data, topic: str) -> None:
    other = data.collection("b")
    data.write(other, "x")
    data.write(topic, "y")
    data.mark(1)
    data.drop(other)
    data.write(topic, "z")
    data.mark(2)
    assert data.archived() == ["x", "y", "z"]


def test_purged_rows_are_not_missed(data: Data, topic: str) -> None:
    data.write(topic, "x")
    data.write(topic, "y")
    data.mark(1)
    data.run("DELETE FROM embeddings_queue WHERE id = 'x'")
    data.write(topic, "z")
    data.mark(2)
    assert data.archived() == ["x", "y", "z"]


def test_cut(data: Data, topic: str) -> None:
    base = sqlite.last_seq_id(data.directory)
    for second in (1, 1, 3):
        data.write(topic, "x", second)
    data.mark(1)
    found = [archive.cut(data.path, NOON + timedelta(seconds=second)) - base for second in (0, 1, 2, 3, 4)]
    assert found == [0, 2, 2, 3, 3]


def test_cut_where_the_clock_was_set_back(data: Data, topic: str) -> None:
    base = sqlite.last_seq_id(data.directory)
    for second in (1, 5, 2):
        data.write(topic, "x", second)
    data.mark(1)
    assert archive.cut(data.path, NOON + timedelta(seconds=3)) == base + 1


def test_topics(data: Data, topic: str) -> None:
    other = data.collection("b")
    data.write(topic, "x")
    data.write(other, "y")
    last = data.mark(1)
    assert archive.topics(data.path, last) == {"a", "b"}
    assert archive.topics(data.path, last - 1) == {"a"}


def test_copy_of_the_base_gets_the_log(data: Data, topic: str, copied: Data) -> None:
    data.write(topic, "x")
    data.write(data.collection("b"), "y")
    last = data.mark(1)
    assert archive.apply(copied.directory, data.path, last, archive.newest(data.path).catalog) == []
    assert copied.log() == data.log()
    for table in ("collections", "segments", "databases", "tenants"):
        assert copied.run(f"SELECT * FROM {table}") == data.run(f"SELECT * FROM {table}")


def test_up_to_a_row(data: Data, topic: str, copied: Data) -> None:
    data.write(topic, "x")
    data.write(topic, "y")
    last = data.mark(1)
    archive.apply(copied.directory, data.path, last - 1, data.marked(0).catalog)
    assert copied.log() == data.log()[:-1]


def test_segments_that_are_no_more(data: Data, topic: str, copied: Data) -> None:
    """Nothing is left of a collection that was deleted after the base: no record of it comes up in another one."""
    data.write(data.collection("b"), "x")
    data.mark(1)
    before = {each for (each,) in copied.run("SELECT id FROM segments WHERE collection NOT IN ('a')")}
    (first,) = copied.run("SELECT id FROM collections WHERE id NOT IN ('a')")
    catalog = archive.newest(data.path).catalog
    for table, column in (("collections", "id"), ("segments", "collection"), ("collection_metadata", "collection_id")):
        place = catalog[table]["columns"].index(column)
        catalog[table]["rows"] = [row for row in catalog[table]["rows"] if row[place] != first[0]]
    assert copied.run("SELECT count(*) FROM embeddings")[0][0]
    # Whatever hangs on a record goes with it: the next one gets its row id.
    copied.run("INSERT INTO embedding_metadata (id, key, string_value) SELECT id, 'k', 'former' FROM embeddings")
    copied.run("INSERT INTO embedding_metadata_array (id, key, string_value) SELECT id, 'l', 'former' FROM embeddings")
    copied.run("INSERT INTO embedding_fulltext_search (rowid, string_value) SELECT id, 'former' FROM embeddings")
    marked = "SELECT segment_id FROM max_seq_id"
    assert before & {each for (each,) in copied.run(marked)}
    assert set(archive.apply(copied.directory, data.path, sqlite.last_seq_id(data.directory), catalog)) == before
    for table in ("embeddings", "embedding_metadata", "embedding_metadata_array", "embedding_fulltext_search"):
        assert copied.run(f"SELECT count(*) FROM {table}") == [(0,)]
    assert not before & {each for (each,) in copied.run(marked)}
    assert copied.run("SELECT DISTINCT topic FROM embeddings_queue") == [("persistent://default/default/b",)]


def test_tables_of_another_engine(data: Data, topic: str, copied: Data) -> None:
    copied.run("ALTER TABLE collections ADD COLUMN novelty")
    with pytest.raises(BackupError, match="collections is not that of the base"):
        archive.apply(copied.directory, data.path, 0, archive.newest(data.path).catalog)


def test_around(data: Data, topic: str) -> None:
    data.mark(1)
    data.mark(2)
    times = [
        tuple(mark and mark.taken[11:16] for mark in archive.around(data.path, NOON + timedelta(minutes=minutes)))
        for minutes in (-1, 0, 30, 60, 119, 120, 1000)
    ]
    one, two, three = "12:00", "13:00", "14:00"
    assert times == [(None, one), (one, two), (one, two), (two, three), (two, three), (three, None), (three, None)]


def test_values_that_json_does_not_have(data: Data, topic: str, copied: Data) -> None:
    """Old Chroma took them in through SQLite; they come back as they were."""
    for key, value in (("real", 9e999), ("low", -9e999), ("blob", b"\x00\xff")):
        data.run("INSERT INTO collection_metadata (collection_id, key, float_value) VALUES ('a', ?, ?)", key, value)
    last = data.mark(1)
    archive.apply(copied.directory, data.path, last, archive.newest(data.path).catalog)
    held = "SELECT * FROM collection_metadata WHERE collection_id = 'a' ORDER BY key"
    assert copied.run(held) == data.run(held)
    assert len(data.run(held)) == 3
    with closing(sqlite3.connect(data.path)) as connection:
        for (packed,) in connection.execute("SELECT catalog FROM marks"):
            json.loads(zlib.decompress(packed), parse_constant=pytest.fail)


def test_collection_that_was_empty_gets_its_dimension(data: Data, topic: str, copied: Data) -> None:
    """The engine replays nothing into a collection without one."""
    catalog = data.marked(0).catalog
    place = catalog["collections"]["columns"].index("dimension")
    for row in catalog["collections"]["rows"]:
        row[place] = None
    data.run(
        "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding) VALUES (2, ?, 'x', ?, 'FLOAT32')",
        topic,
        bytes(28),
    )
    archive.apply(copied.directory, data.path, data.mark(1), catalog)
    assert copied.run("SELECT dimension FROM collections WHERE id = 'a'") == [(7,)]


def test_gaps(data: Data, topic: str) -> None:
    other = data.collection("b")
    first = data.begun
    for each in (topic, other, other, topic):
        data.write(each, "x")
    data.drop(other)
    last = data.mark(1)
    assert [archive.gaps(data.path, first, first + count) for count in (0, 1, 2, 3, 4)] == [0, 0, 1, 2, 2]
    assert archive.gaps(data.path, last, first) == 0


class TestKept:
    """Whether the log after a seq id is whole."""

    def check(self, data: Data, backed_up: int = 0) -> None:
        with sqlite.connect(data.directory) as connection:
            archive.check_kept(connection, data.begun, backed_up)

    def record(self, data: Data, seq_id: int) -> None:
        """As the metadata segment notes a write."""
        data.run(
            "INSERT INTO embeddings (segment_id, embedding_id, seq_id) VALUES (?, ?, ?)",
            segment("a"),
            f"{seq_id}",
            seq_id,
        )
        data.run("INSERT OR REPLACE INTO max_seq_id VALUES (?, ?)", segment("a"), seq_id)

    def test_nothing_is_gone(self, data: Data, topic: str) -> None:
        self.check(data, data.begun + 9)
        for number in range(3):
            data.write(topic, f"{number}")
            self.record(data, data.begun + 1 + number)
        self.check(data)
        self.check(data, data.begun + 9)

    def test_collection_is_gone(self, data: Data, topic: str) -> None:
        data.write(data.collection("b"), "x")
        data.write(topic, "y")
        data.drop("persistent://default/default/b")
        self.check(data)
        self.check(data, data.begun)

    def test_purged_after_a_later_backup(self, data: Data, topic: str) -> None:
        """Rows of deletes leave no record that would tell."""
        for number in range(3):
            data.write(topic, f"{number}")
        data.run("DELETE FROM embeddings_queue WHERE seq_id = ?", data.begun + 1)
        with pytest.raises(archive.Broken, match="purged after a later backup"):
            self.check(data, data.begun + 2)
        self.check(data, data.begun)

    def test_purged_without_a_ledger(self, data: Data, topic: str) -> None:
        for number in range(3):
            data.write(topic, f"{number}")
            self.record(data, data.begun + 1 + number)
        data.run("DELETE FROM embeddings_queue WHERE seq_id = ?", data.begun + 2)
        with pytest.raises(archive.Broken, match="that wrote 1 records are gone"):
            self.check(data)

    def test_all_are_gone(self, data: Data, topic: str) -> None:
        data.write(topic, "x")
        self.record(data, data.begun + 1)
        data.run("DELETE FROM embeddings_queue WHERE seq_id > ?", data.begun)
        with pytest.raises(archive.Broken, match="that were applied are gone"):
            self.check(data)

    def test_numbers_of_old_chroma(self, data: Data, topic: str) -> None:
        """Until 0.5 seq ids were bytes, which SQLite takes for greater than any number."""
        data.run(
            "INSERT INTO embeddings (segment_id, embedding_id, seq_id) VALUES (?, 'old', ?)",
            segment("a"),
            bytes(7) + b"\x01",
        )
        data.write(topic, "x")
        data.write(data.collection("b"), "y")
        data.write(topic, "z")
        data.drop("persistent://default/default/b")
        self.check(data)


@pytest.mark.parametrize("content", [b"", b"nonsense", bytes(8192)])
@pytest.mark.parametrize("read", [archive.last_seq_id, archive.newest, archive.rows])
def test_damaged(tmp_path: Path, content: bytes, read: Callable[[Path], object]) -> None:
    (tmp_path / archive.FILE).write_bytes(content)
    with pytest.raises(BackupError):
        read(tmp_path / archive.FILE)


def test_damaged_catalog(data: Data, topic: str) -> None:
    with closing(sqlite3.connect(data.path)) as connection, connection:
        connection.execute("UPDATE marks SET catalog = x'00'")
    with pytest.raises(BackupError, match="is damaged"):
        archive.newest(data.path)


@pytest.mark.parametrize("document", ["[]", "{}", "1", '{"tenants": []}', "{"])
def test_catalog_that_is_none(data: Data, topic: str, document: str) -> None:
    with closing(sqlite3.connect(data.path)) as connection, connection:
        connection.execute("UPDATE marks SET catalog = ?", (zlib.compress(document.encode()),))
    with pytest.raises(BackupError, match="is damaged"):
        archive.newest(data.path)


@pytest.mark.parametrize("taken", ["", "now", "2100-01-01T12:00:00", 5, None])
def test_mark_without_a_time(data: Data, topic: str, taken: object) -> None:
    with closing(sqlite3.connect(data.path)) as connection, connection:
        connection.execute("UPDATE marks SET taken = ?", (taken,))
    with pytest.raises(BackupError, match="is damaged"):
        archive.around(data.path, NOON)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="is missing"):
        archive.last_seq_id(tmp_path / archive.FILE)


@pytest.mark.parametrize("name", ["{victim}", "../victim", "..", "", "a/b", "A0000000-0000-0000-0000-000000000000"])
def test_segments_of_the_base_that_are_paths(data: Data, topic: str, copied: Data, tmp_path: Path, name: str) -> None:
    """What belongs to segments that are no more is removed by their names."""
    victim = tmp_path / "victim"
    victim.mkdir()
    data.mark(1)
    copied.run("INSERT INTO segments SELECT ?, type, scope, 'x' FROM segments LIMIT 1", name.format(victim=victim))
    before = copied.log()
    with pytest.raises(BackupError, match="has the segment"):
        archive.apply(copied.directory, data.path, 0, archive.newest(data.path).catalog)
    assert victim.is_dir()
    assert copied.log() == before
