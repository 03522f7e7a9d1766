"""Directories as they are in the wild: of several Chromas, damaged by a statement or two, and what is to become of each."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from chromad.chroma import sqlite

from tests.integration import old_chroma

_CACHE = Path("/var/cache/chromad-test/wild")

# Small enough to be quick, and yet with a persisted segment, a log beyond it, an index in the log alone, and an empty collection.
_WRITER = """
import json, sys
import chromadb
from chromadb.config import Settings
client = chromadb.PersistentClient(sys.argv[1], settings=Settings(anonymized_telemetry=False))
SOON = {"hnsw:sync_threshold": 10, "hnsw:batch_size": 5}
def add(collection, prefix, count):
    collection.add(ids=[f"{prefix}{n}" for n in range(count)], embeddings=[[1.0, float(n)] for n in range(count)],
                   documents=[f"document number {n}" for n in range(count)], metadatas=[{"n": n} for n in range(count)])
notes = client.create_collection("notes", metadata=SOON)
add(notes, "r", 30)
notes.update(ids=["r5"], embeddings=[[1.0, 5.5]], metadatas=[{"changed": True}])
notes.upsert(ids=["r6", "more"], embeddings=[[1.0, 6.5], [1.0, 40.0]], documents=["upserted", "more of it"])
notes.delete(ids=["r7"])
spaced = client.create_collection("spaced", metadata=SOON | {"hnsw:space": "cosine"})
add(spaced, "c", 20)
other = client.create_collection("other")
other.add(ids=["a", "b"], embeddings=[[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], documents=["first", "second"])
client.create_collection("empty", metadata={"a": 1})
if chromadb.__version__ == "1.5.9":
    lists = client.create_collection("lists", embedding_function=None)
    lists.add(ids=["l1", "l2"], embeddings=[[1.0, 0.0], [0.0, 1.0]], metadatas=[{"tags": ["x", "y"]}, {"tags": ["z"]}])
held = {}
for name in ("notes", "spaced", "other", "empty", "lists"):
    try:
        found = client.get_collection(name).get(include=["embeddings", "documents", "metadatas"])
    except Exception:
        continue
    rows = zip(found["ids"], found["embeddings"], found["documents"], found["metadatas"])
    held[name] = {each: [list(map(float, vector)), document, metadata] for each, vector, document, metadata in rows}
print(json.dumps(held))
"""

Model = dict[str, dict[str, list[Any]]]
Damage = Callable[[Path, Model], None]


@dataclass(frozen=True)
class Case:
    """A directory of one Chroma, what is done to it, and what is to come of it.

    damage: gets the directory and what it holds, which it changes where other things are to be served. code: of chromactl
    adopt. said: in its words. lost: ids whose vectors are gone, in any collection. refused: nothing is adopted.
    """

    name: str
    version: str
    damage: Damage
    code: int = 0
    said: str = ""
    lost: Callable[[str], bool] = field(default=lambda _: False)
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.version}-{self.name}"


def made(version: str) -> tuple[Path, Model]:
    """A directory that a release has written, and what that release reads from it. Not to be changed."""
    home = _CACHE / f"{version}-{hashlib.sha256(_WRITER.encode()).hexdigest()[:12]}"
    if not (home / "model.json").exists():
        try:
            _CACHE.mkdir(parents=True, exist_ok=True)
        except PermissionError:
            pytest.skip(f"no cache in {_CACHE}; run the tests as root once")
        draft = _CACHE / f".{home.name}-{os.getpid()}"
        draft.mkdir()
        argv: list[str | Path] = [old_chroma.python(version), "-c", _WRITER, draft / "data"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (draft / "model.json").write_text(done.stdout.splitlines()[-1], encoding="utf-8")
        shutil.rmtree(home, ignore_errors=True)
        draft.rename(home)
    model: Model = json.loads((home / "model.json").read_text(encoding="utf-8"))
    return home / "data", model


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database of a directory, in autocommit; what is changed stays."""
    with closing(sqlite3.connect(path / sqlite.FILE, isolation_level=None)) as connection:
        yield connection


def sql(*statements: str) -> Damage:
    """Damage by SQL."""

    def damage(path: Path, _model: Model) -> None:
        with opened(path) as connection:
            for statement in statements:
                connection.execute(statement)

    return damage


def segment_of(path: Path, name: str, scope: str = "VECTOR") -> str:
    """The id of a collection's segment."""
    with opened(path) as connection:
        (found,) = connection.execute(
            "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection WHERE c.name = ? AND s.scope = ?",
            (name, scope),
        ).fetchone()
    return str(found)


def _forget(*names: str) -> Callable[[Model], None]:
    def forget(model: Model) -> None:
        for each in names:
            del model["notes"][each]

    return forget


def _sql_and(change: Callable[[Model], None], *statements: str) -> Damage:
    def damage(path: Path, model: Model) -> None:
        sql(*statements)(path, model)
        change(model)

    return damage


def _delete_records(*names: str) -> Damage:
    """As a bulk delete that only looked at some tables does it."""

    def damage(path: Path, model: Model) -> None:
        metadata = segment_of(path, "notes", "METADATA")
        with opened(path) as connection:
            for each in names:
                (number,) = connection.execute(
                    "SELECT id FROM embeddings WHERE segment_id = ? AND embedding_id = ?", (metadata, each)
                ).fetchone()
                connection.execute("DELETE FROM embedding_fulltext_search WHERE rowid = ?", (number,))
                connection.execute("DELETE FROM embedding_metadata WHERE id = ?", (number,))
                connection.execute("DELETE FROM embeddings WHERE id = ?", (number,))
                del model["notes"][each]

    return damage


def _no_directories(path: Path, _model: Model) -> None:
    for each in path.iterdir():
        if each.is_dir():
            shutil.rmtree(each)


def _no_segment_row(scope: str, name: str = "notes") -> Damage:
    def damage(path: Path, _model: Model) -> None:
        found = segment_of(path, name, scope)
        with opened(path) as connection:
            connection.execute("DELETE FROM segments WHERE id = ?", (found,))

    return damage


def _second_segment(scope: str) -> Damage:
    def damage(path: Path, _model: Model) -> None:
        found = segment_of(path, "notes", scope)
        with opened(path) as connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(segments)")]
            rest = ", ".join(each for each in columns if each != "id")
            connection.execute(
                f"INSERT INTO segments (id, {rest}) SELECT ?, {rest} FROM segments WHERE id = ?",
                (str(uuid.uuid4()), found),
            )

    return damage


def _watermarks(value: int, then: str = "") -> Damage:
    """In the form of the file."""

    def damage(path: Path, _model: Model) -> None:
        with opened(path) as connection:
            (form,) = connection.execute("SELECT typeof(seq_id) FROM max_seq_id LIMIT 1").fetchone()
            encoded = value.to_bytes(8, "big") if form == "blob" else value
            connection.execute("UPDATE max_seq_id SET seq_id = ?", (encoded,))
            if then:
                connection.execute(then)

    return damage


def _pending(value: int) -> Damage:
    """Watermarks that are too high, and a write that was acknowledged since, but never applied."""

    def damage(path: Path, model: Model) -> None:
        _watermarks(value)(path, model)
        _log_one(path, model)

    return damage


def _log_one(path: Path, model: Model) -> None:
    with opened(path) as connection:
        (collection,) = connection.execute("SELECT id FROM collections WHERE name = 'notes'").fetchone()
        (vector,) = connection.execute(
            "SELECT vector FROM embeddings_queue WHERE topic LIKE '%' || ? AND length(vector) = 8 LIMIT 1",
            (collection,),
        ).fetchone() or (b"\0\0\x80?\0\0\x80?",)
        connection.execute(
            "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata) VALUES (0, ?, 'swallowed', ?,"
            " 'FLOAT32', ?)",
            (sqlite.topic(collection), vector, '{"chroma:document": "never applied", "n": 99}'),
        )
    model["notes"]["swallowed"] = [None, "never applied", {"n": 99}]


def _emptied_then_written(path: Path, model: Model) -> None:
    """The log is emptied by hand, and then gets a write under a seq id that was given before."""
    _empty_log(path, model)
    _log_one(path, model)
    with opened(path) as connection:
        connection.execute("UPDATE embeddings_queue SET seq_id = 1, created_at = datetime('now')")


def _last_seq_ids(path: Path, _model: Model) -> None:
    """The newest rows of the log are where no seq id follows."""
    with opened(path) as connection:
        (last,) = connection.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()
        top = (1 << 63) - 1
        connection.execute("UPDATE embeddings_queue SET seq_id = ? WHERE seq_id = ?", (top, last))
        connection.execute("UPDATE max_seq_id SET seq_id = ? WHERE seq_id = ?", (top, last))
        connection.execute("UPDATE embeddings SET seq_id = ? WHERE seq_id = ?", (top, last))


def _numbers_too_early(path: Path, _model: Model) -> None:
    """What Chroma 1.0 makes absurd watermarks of: it takes each for eight bytes."""
    with opened(path) as connection:
        for segment, value in connection.execute("SELECT segment_id, seq_id FROM max_seq_id").fetchall():
            number = int.from_bytes(value, "big")
            connection.execute("UPDATE max_seq_id SET seq_id = ? WHERE segment_id = ?", (number, segment))


def _empty_log(path: Path, model: Model) -> None:
    """What was in the log alone is gone; changes of vectors as well."""
    sql("DELETE FROM embeddings_queue")(path, model)
    model["notes"]["r5"][0], model["notes"]["r6"][0] = [1.0, 5.0], [1.0, 6.0]


def _foreign_header(path: Path, _model: Model) -> None:
    os.truncate(path / segment_of(path, "notes") / "header.bin", 50)


def _cut_links(path: Path, _model: Model) -> None:
    (path / segment_of(path, "notes") / "link_lists.bin").write_bytes(b"")


def _older_database(path: Path, model: Model) -> None:
    """A chroma.sqlite3 from before beside newer segments: imitated by taking away its newest records."""
    _delete_records("r27", "r28", "r29")(path, model)


def _zero_pages(path: Path, _model: Model) -> None:
    with opened(path) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'embeddings'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with open(path / sqlite.FILE, "r+b") as file:
        file.seek((root - 1) * size)
        file.write(bytes(size))


def _index_lacks_a_row(path: Path, _model: Model) -> None:
    """As a program leaves it that wrote the table by its pages."""
    name = "embedding_metadata_int_value"
    with opened(path) as connection:
        (text,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        connection.execute(
            "INSERT INTO embedding_metadata (id, key, int_value) SELECT id, 'by hand', 1 FROM embeddings"
            " WHERE embedding_id = 'r9'"
        )
        connection.execute(f"DROP INDEX {name}")
        connection.execute(f"{text} AND key <> 'by hand'")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (text, name))


def _by_hand(path: Path, model: Model) -> None:
    _index_lacks_a_row(path, model)
    model["notes"]["r9"][2]["by hand"] = 1


def _without_keys(*tables: str) -> Damage:
    """As a program leaves tables that it has filled anew."""

    def damage(path: Path, _model: Model) -> None:
        with opened(path) as connection:
            for table in tables:
                connection.execute(f"CREATE TABLE made_anew AS SELECT * FROM {table}")
                connection.execute(f"DROP TABLE {table}")
                connection.execute(f"ALTER TABLE made_anew RENAME TO {table}")
            if "max_seq_id" in tables:
                connection.execute("INSERT INTO max_seq_id SELECT segment_id, seq_id - 1 FROM max_seq_id")

    return damage


def _no_times(path: Path, model: Model) -> None:
    _log_one(path, model)
    sql("UPDATE embeddings_queue SET created_at = 'yesterday'")(path, model)


def _unreadable_rows(path: Path, model: Model) -> None:
    """Beside a write that was logged, and is yet to be applied."""
    _log_one(path, model)
    sql(
        "INSERT INTO embeddings_queue (operation, topic, id) SELECT 9, topic, 'nine' FROM embeddings_queue LIMIT 1",
        "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding)"
        " SELECT 2, topic, 'short', x'00', 'FLOAT32' FROM embeddings_queue LIMIT 1",
    )(path, model)


def _rename_ids(table: str) -> Damage:
    return sql(f"UPDATE {table} SET id = 'not-a-uuid' WHERE rowid = (SELECT min(rowid) FROM {table})")


def _drop_collection(path: Path, model: Model) -> None:
    """A collection that was deleted by SQL from one table."""
    sql("DELETE FROM collections WHERE name = 'spaced'")(path, model)
    del model["spaced"]


def _ghost_lists(path: Path, model: Model) -> None:
    sql(
        "INSERT INTO embedding_metadata_array (id, key, string_value) SELECT max(id) + 1, 'tags', 'ghost' FROM embeddings"
    )(path, model)


def _ghost_values(path: Path, model: Model) -> None:
    sql("INSERT INTO embedding_metadata (id, key, string_value) SELECT max(id) + 1, 'ghost', 'boo' FROM embeddings")(
        path, model
    )


def _renamed_directory(path: Path, _model: Model) -> None:
    """A restore by hand under another name: the files are there, nobody knows whose."""
    found = segment_of(path, "notes")
    (path / found).rename(path / str(uuid.uuid4()))
    with opened(path) as connection:
        connection.execute("DELETE FROM segments WHERE id = ?", (found,))
        connection.execute("DELETE FROM max_seq_id WHERE segment_id = ?", (found,))


def _in_segment(name: str) -> bool:
    """Whether a record's vector is in the segment's files alone, where the log is purged."""
    return name not in {"r29", "c19", "r5", "r6", "more", "a", "b", "l1", "l2"}


def _in_log(name: str) -> bool:
    """Whether a record's vector is in the log alone."""
    return name in {"more", "a", "b", "l1", "l2"}


_ABSURD = 1229782938249408562

CASES = [
    # 1: watermarks
    Case("absurd watermark", "1.5.9", _watermarks(_ABSURD), said="would be acknowledged and never applied"),
    Case("absurd watermark and a write", "1.5.9", _pending(_ABSURD), said="never applied"),
    Case("watermark a little too high and a write", "1.5.9", _pending(1000), said="never applied"),
    Case("absurd watermark and a write", "0.4.24", _pending(_ABSURD), said="never applied"),
    Case("absurd watermark", "0.6.3", _watermarks((1 << 63) - 1), said="never applied"),
    Case("watermark a little too high", "1.0.20", _watermarks(500), said="never applied"),
    Case("log emptied", "1.5.9", _empty_log, 1, "have no vector any more", _in_log),
    Case("log emptied and written to", "1.5.9", _emptied_then_written, 1, "never applied", _in_log),
    Case("log emptied", "0.5.23", _empty_log, 1, "have no vector any more", _in_log),
    Case("watermarks that are numbers too early", "0.6.3", _numbers_too_early, said="another form"),
    Case("last seq ids there are", "1.5.9", _last_seq_ids, said="no log reaches"),
    Case("no table of watermarks", "1.5.9", sql("DROP TABLE max_seq_id"), said="max_seq_id is missing"),
    # 3: full-text index
    Case("full-text index dropped", "1.5.9", sql("DROP TABLE embedding_fulltext_search"), said="full-text index"),
    Case(
        "full-text index zeroed",
        "1.5.9",
        sql(
            "DELETE FROM embedding_fulltext_search_idx",
            "UPDATE embedding_fulltext_search_data SET block = zeroblob(length(block)) WHERE id > 10",
        ),
        said="full-text index",
    ),
    Case("full-text data gone", "0.6.3", sql("DELETE FROM embedding_fulltext_search_data"), said="full-text index"),
    Case(
        "full-text settings gone", "0.4.24", sql("DROP TABLE embedding_fulltext_search_config"), said="full-text index"
    ),
    Case(
        "full-text index has other rows",
        "1.0.20",
        sql(
            "DELETE FROM embedding_fulltext_search WHERE rowid = 3",
            "INSERT INTO embedding_fulltext_search (rowid, string_value) SELECT max(id) + 1, 'ghost' FROM embeddings",
        ),
        said="full-text index",
    ),
    # 4: segments that are not there
    Case("no directories", "1.5.9", _no_directories, 1, "cannot be had", _in_segment),
    Case("no directories", "0.6.3", _no_directories, 1, "cannot be had", _in_segment),
    Case("no directories, log never purged", "0.4.24", _no_directories),
    # 5: lists
    Case("list values of nobody", "1.5.9", _ghost_lists, said="list values"),
    # 6: ids of index and records
    Case("records deleted by SQL", "1.5.9", _delete_records("r1", "r2", "r3"), said="what does not exist"),
    Case("records deleted by SQL", "0.4.24", _delete_records("r1", "r2", "r3"), said="what does not exist"),
    Case("newest records deleted by SQL", "0.5.23", _older_database, said="what does not exist"),
    Case("newest records deleted by SQL", "1.0.20", _older_database, said="what does not exist"),
    # System tables
    Case("no metadata segment", "1.5.9", _no_segment_row("METADATA"), said="no metadata segment"),
    Case("no metadata segment", "0.4.24", _no_segment_row("METADATA"), said="no metadata segment"),
    Case("no vector segment", "1.5.9", _no_segment_row("VECTOR"), said="no vector segment"),
    Case("no vector segment, in the log alone", "0.6.3", _no_segment_row("VECTOR", "other"), said="no vector segment"),
    Case("directory renamed", "1.0.20", _renamed_directory, said="no vector segment"),
    Case("no segment at all", "1.5.9", sql("DELETE FROM segments"), 1, refused=True, said="cannot be told which"),
    Case("two vector segments", "0.5.23", _second_segment("VECTOR"), said="the empty ones are left out"),
    Case("two metadata segments", "1.5.9", _second_segment("METADATA"), said="the empty ones are left out"),
    Case("no tenant", "1.0.20", sql("DELETE FROM tenants"), said="the tenant 'default_tenant'"),
    Case("no database", "0.6.3", sql("DELETE FROM databases"), said="is missing; they are served in"),
    Case("collection deleted from one table", "1.5.9", _drop_collection, said="are no more"),
    Case("values of nobody", "0.4.24", _ghost_values, said="records that are no more"),
    Case("no dimension", "1.5.9", sql("UPDATE collections SET dimension = NULL"), said="dimension is missing"),
    Case("another dimension", "0.6.3", sql("UPDATE collections SET dimension = 7 WHERE name = 'notes'"), said="is 7"),
    Case(
        "settings of the log garbled",
        "1.0.20",
        sql("UPDATE embeddings_queue_config SET config_json_str = '{'"),
        said="the log's settings",
    ),
    Case("no settings of the log", "1.5.9", sql("DELETE FROM embeddings_queue_config"), said="the log's settings"),
    Case(
        "no settings' table",
        "1.5.9",
        sql("DROP TABLE segment_metadata", "DROP TABLE maintenance_log"),
        said="is missing",
    ),
    Case(
        "settings of a collection garbled",
        "1.5.9",
        sql("UPDATE collections SET schema_str = 'x' WHERE name = 'notes'"),
        1,
        refused=True,
        said="cannot be read",
    ),
    Case(
        "no records' table",
        "1.0.20",
        sql("DROP TABLE embedding_metadata"),
        1,
        refused=True,
        said="embedding_metadata is missing",
    ),
    Case(
        "migrations forgotten",
        "1.5.9",
        sql("DELETE FROM migrations WHERE dir = 'sysdb' AND version = 5"),
        1,
        refused=True,
        said="lacks 1 of sysdb",
    ),
    Case("ids that are none", "1.5.9", _rename_ids("collections"), 1, refused=True, said="is no UUID"),
    Case(
        "tables made anew without keys",
        "1.5.9",
        _without_keys("max_seq_id", "embedding_metadata"),
        said="without its key",
    ),
    Case("records made anew without a key", "1.0.20", _without_keys("embeddings"), 1, refused=True, said="primary key"),
    Case("no times in the log", "0.6.3", _no_times, said="time that is none"),
    Case("rows that nobody reads", "1.5.9", _unreadable_rows, 1, said="engine cannot read"),
    Case("no watermarks", "1.0.20", sql("DELETE FROM max_seq_id"), said="nothing says up to where"),
    # SQLite itself
    Case("a page of zeros", "1.5.9", _zero_pages, 1, refused=True, said="HINT"),
    Case("an index that lacks a row", "1.5.9", _by_hand, said="an index of"),
    Case("indexes dropped", "1.5.9", sql("DROP INDEX embedding_metadata_int_value"), said="indexes are missing"),
    # Segments' files
    Case("header cut", "1.0.20", _foreign_header),
    Case("links cut", "0.5.23", _cut_links),
]

# Those that each run of the tests tries
CORE = [
    "absurd watermark",
    "absurd watermark and a write",
    "log emptied and written to",
    "watermarks that are numbers too early",
    "full-text index zeroed",
    "full-text data gone",
    "no directories",
    "records deleted by SQL",
    "no metadata segment",
    "no vector segment",
    "no segment at all",
    "no dimension",
]
