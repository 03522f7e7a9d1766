"""Databases, manifests, ledgers, checkpoints and notes that a service user has written to lead root's verbs elsewhere."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .canaries import ABSENT, CLOSED, OPEN, READABLE, SECRET
from .layout import CHECKPOINTS, DATA, QUARANTINE, RESTORE

_DATABASE = DATA / "chroma.sqlite3"
_CURRENT = CHECKPOINTS / ".backup/current"
_LEDGER = CHECKPOINTS / ".backup/ledger.json"
# Names that would be paths elsewhere, or are none
PATHS = {
    "absolute": str(OPEN / "inner"),
    "closed": str(CLOSED),
    "upwards": "../" * 8 + str(OPEN / "inner")[1:],
    "parent": "..",
    "itself": ".",
    "empty": "",
    "below": "a/../../b",
    "long": "a" * 300,
    "escape": "\x1b]0;owned\x07\x1b[31m",
    "option": "--target=/etc/attacked",
}
# Verbs that read what is crafted
_ALL = (
    "status",
    "doctor --deep",
    "checkpoint",
    "compact",
    "backup --full",
    "restore",
    "repair",
    "adopt in place",
    "upgrade",
)
_STATE = ("status, stopped", "doctor --fix", "backup", "restore, stopped", "repair", "upgrade")
_OF_BACKUPS = ("backup", "verify", "backups forget", "status, stopped")
_OF_RESTORES = ("restore, stopped", "restore --target", "restore --dry-run", "doctor --fix", "adopt", "upgrade")


@dataclass(frozen=True)
class Craft:
    """make: writes it, as the service user, while the service is stopped. verbs: that it is tried on."""

    name: str
    make: Callable[[], None]
    verbs: tuple[str, ...]


def crafts() -> Iterator[Craft]:
    """All of them."""
    for name, text in PATHS.items():
        for column in ("segments.id", "collections.id", "segments.collection", "databases.name", "collections.name"):
            some = _ALL if column in ("segments.id", "collections.id") else _ALL[2:6]
            yield Craft(f"{column} {name}", _in_database(column, text), some)
    for name, text in PATHS.items():
        yield Craft(f"mark {name}", _in_json(DATA / "chromad.json", _mark(text)), _STATE)
        yield Craft(f"data_id {name}", _in_json(DATA / "chromad.json", _set(text, "data_id")), _STATE[:4])
        yield Craft(f"engine_version {name}", _in_json(DATA / "chromad.json", _set(text, "engine_version")), _STATE)
        yield Craft(f"history {name}", _in_json(CHECKPOINTS / "history.json", _set([text], "data_ids")), _STATE[:4])
        yield Craft(f"ledger {name}", _in_json(_LEDGER, _ledger(text)), _OF_BACKUPS)
        yield Craft(
            f"manifest file {name}", _in_json(_CURRENT / "manifest.json", _manifest_file(text)), _OF_BACKUPS[:2]
        )
        yield Craft(f"manifest id {name}", _in_json(_CURRENT / "manifest.json", _manifest_id(text)), _OF_BACKUPS[:2])
        yield Craft(f"checkpoint {name}", _checkpoint(text), ("checkpoint", "backup --full", "repair", "doctor --deep"))
    for victim in (OPEN / "inner", CLOSED, Path("/etc")):
        yield Craft(f"note of {victim}", _note(victim), _OF_RESTORES)
        yield Craft(f"copy is a link to {victim}", _copy(victim), _OF_RESTORES)
        yield Craft(
            f"segment is a link to {victim}", _orphan(victim), ("doctor --fix", "repair", "checkpoint", "upgrade")
        )
        yield Craft(f"quarantine has a link to {victim}", _quarantined(victim), ("repair", "doctor --fix"))
    yield Craft("former data that nobody had", _former, _OF_RESTORES)
    yield Craft("a deep tree", _deep, ("doctor --fix", "restore, stopped", "upgrade", "adopt in place"))
    yield Craft("a sparse file", _sparse, ("doctor --deep", "backup --full", "upgrade"))
    yield Craft("another set of tables", _tables, ("backup --full", "doctor --deep", "repair", "adopt in place"))
    yield Craft("a trigger on everything", _trigger, ("backup --full", "repair", "adopt in place", "upgrade"))


# Databases


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """The service's, to be changed at will."""
    with closing(sqlite3.connect(_DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        yield connection


def _in_database(column: str, text: str) -> Callable[[], None]:
    table, _, name = column.partition(".")

    def make() -> None:
        with database() as connection:
            where = "WHERE scope = 'VECTOR'" if table == "segments" else ""
            [first] = connection.execute(f"SELECT min(rowid) FROM {table} {where}").fetchone()
            [old] = connection.execute(f"SELECT {name} FROM {table} WHERE rowid = ?", [first]).fetchone()
            connection.execute(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", [text, first])
            if column == "segments.id":
                for other in ("max_seq_id", "segment_metadata"):
                    connection.execute(f"UPDATE {other} SET segment_id = ? WHERE segment_id = ?", [text, old])
            if column == "collections.id":
                connection.execute("UPDATE segments SET collection = ? WHERE collection = ?", [text, old])

    return make


def _tables() -> None:
    with database() as connection:
        connection.execute("ALTER TABLE segments RENAME TO former")
        connection.execute(
            "CREATE VIEW segments AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) "
            "SELECT '../' || i AS id, type, scope, collection FROM former, n"
        )


def _trigger() -> None:
    with database() as connection:
        for table in ("segments", "max_seq_id", "embeddings_queue", "embeddings", "collections"):
            for when in ("INSERT", "UPDATE", "DELETE"):
                connection.execute(
                    f"CREATE TRIGGER evil_{table}_{when} AFTER {when} ON {table} BEGIN "
                    f"UPDATE segments SET id = '{OPEN}/inner' WHERE scope = 'VECTOR'; END"
                )


# JSON

Change = Callable[[dict[str, Any]], None]


def _in_json(path: Path, change: Change) -> Callable[[], None]:
    def make() -> None:
        document = json.loads(path.read_bytes())
        change(document)
        path.chmod(0o640)
        path.write_text(json.dumps(document), encoding="utf-8")

    return make


def _set(value: object, key: str) -> Change:
    return lambda document: document.update({key: value})


def _mark(text: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        mark = document["mark"] or {"database": {}, "segments": {}}
        status = READABLE.stat()
        facts = [status.st_ino, status.st_size, status.st_mtime_ns]
        mark["segments"][text] = {"header.bin": facts}
        mark["database"][text] = facts
        for files in mark["segments"].values():
            files[text] = facts
        document["mark"] = mark

    return change


def _ledger(text: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        for key, value in document.items():
            if isinstance(value, str):
                document[key] = text
            for entry in value if isinstance(value, list) else ():
                if isinstance(entry, dict) and "id" in entry:
                    entry["id"] = text

    return change


def _manifest_file(text: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        document["files"][0]["path"] = text
        document["files"].append({"path": os.path.join(text, "secret"), "size": 1, "sha256": "0" * 64})

    return change


def _manifest_id(text: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        document["collections"][0] |= {"id": text, "segment": text}
        document["data_id"] = text

    return change


def _checkpoint(text: str) -> Callable[[], None]:
    def change(document: dict[str, Any]) -> None:
        document["files"][0]["name"] = text
        document["segment"] = text

    def make() -> None:
        for path in CHECKPOINTS.glob("*/*/checkpoint.json"):
            path.parent.chmod(0o750)
            _in_json(path, change)()

    return make


# What lies about


def _inode(victim: Path) -> int:
    """What the service user knows of it: of what is closed to it, it can only guess."""
    try:
        return victim.stat().st_ino
    except PermissionError:
        return 2


def _note(victim: Path) -> Callable[[], None]:
    def make() -> None:
        for number, former in enumerate((0, _inode(victim), DATA.stat().st_ino)):
            copy = RESTORE / f"staging-20200101T00000{number}.000000Z"
            copy.mkdir()
            facts = {"former": former, "data_dir": str(victim), "stopped": True, "collection": "x"}
            copy.with_name(f"{copy.name}.note").write_text(json.dumps(facts), encoding="utf-8")

    return make


def _copy(victim: Path) -> Callable[[], None]:
    def make() -> None:
        for number, end in enumerate(("", ".former", ".restic", ".fetched")):
            stem = f"staging-20200101T00000{number}.000000Z"
            (RESTORE / f"{stem}{end}").symlink_to(victim)
            facts = {"former": _inode(victim) if end == ".former" else 0, "data_dir": str(DATA), "stopped": False}
            (RESTORE / f"{stem}.note").write_text(json.dumps(facts), encoding="utf-8")
        (RESTORE / "replaced-20200101T000000.000000Z").symlink_to(victim)
        (RESTORE / "failed-20200101T000000.000000Z").symlink_to(victim)

    return make


def _former() -> None:
    (RESTORE / "staging-20200101T000000.000000Z.former").mkdir()
    facts = {"former": DATA.stat().st_ino, "data_dir": str(DATA), "stopped": False, "collection": ""}
    (RESTORE / "staging-20200101T000000.000000Z.note").write_text(json.dumps(facts), encoding="utf-8")


def _orphan(victim: Path) -> Callable[[], None]:
    def make() -> None:
        (DATA / "11111111-2222-4333-8444-555555555555").symlink_to(victim)
        inner = DATA / "66666666-2222-4333-8444-555555555555"
        inner.mkdir()
        for name in ("header.bin", "data_level0.bin", "length.bin", "link_lists.bin", "index_metadata.pickle"):
            (inner / name).symlink_to(victim if os.path.isfile(victim) else SECRET)
        (CHECKPOINTS / "11111111-2222-4333-8444-555555555555").symlink_to(victim)

    return make


def _quarantined(victim: Path) -> Callable[[], None]:
    def make() -> None:
        with database() as connection:
            ids = [each for [each] in connection.execute("SELECT id FROM segments WHERE scope = 'VECTOR'")]
        for each in ids:
            for why in ("broken", "rebuilt", "orphan"):
                (QUARANTINE / f"{each}-{why}-20200101T000000.000000Z").symlink_to(victim)
            (QUARANTINE / f".{each}-moving").symlink_to(ABSENT)

    return make


def _deep() -> None:
    top = DATA / "11111111-2222-4333-8444-555555555555"
    for start in (top, RESTORE / "staging-20200101T000000.000000Z"):
        start.mkdir()
        os.chdir(start)
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
    (RESTORE / "staging-20200101T000000.000000Z.note").write_text(
        json.dumps({"former": 0, "data_dir": "", "stopped": False, "collection": ""}), encoding="utf-8"
    )


def _sparse() -> None:
    for directory in DATA.glob("*-*-*-*-*"):
        with open(directory / "link_lists.bin", "r+b") as file:
            file.truncate(1 << 42)
