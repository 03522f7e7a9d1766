"""Backups that a service user has forged, which has the key while it takes one; a control socket on which it tells lies."""

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from .canaries import CLOSED, OPEN, READABLE, SECRET
from .crafted import PATHS, Craft
from .layout import ASIDE, BACKUPS, CHECKPOINTS, RUN, run

_CURRENT = CHECKPOINTS / ".backup/current"
_READERS = ("backups", "backups show", "verify", "restore, stopped", "restore --target", "restore --collection")
SOCKET = RUN / "chromad.sock"


def backups(key: str) -> Iterator[Craft]:
    """The newest backup of the repository is one of these."""
    for name in ("absolute", "upwards", "parent", "empty", "escape"):
        yield Craft(f"backup: file {name}", _stored(key, _manifest(_first_file(PATHS[name]))), _READERS)
        yield Craft(f"backup: id {name}", _stored(key, _manifest(_first_id(PATHS[name]))), _READERS)
    for name in ("absolute", "closed", "upwards"):
        yield Craft(f"backup: segment {name}", _stored(key, _more_segments(PATHS[name])), _READERS)
    yield Craft("backup: restic tells of elsewhere", _as_it_is, ("restore, false restic",))
    yield Craft("backup: another time", _stored(key, _nothing), _READERS)
    yield Craft("backup: links", _stored(key, _links), _READERS)
    yield Craft("backup: hard links", _stored(key, _hard_links), _READERS)
    yield Craft("backup: a pipe", _stored(key, _pipe), _READERS)
    yield Craft("backup: its manifest is a link", _stored(key, _manifest_link), _READERS)
    yield Craft("backup: of elsewhere", _stored(key, _nothing, OPEN), _READERS)
    yield Craft("backup: of everything", _stored(key, _nothing, Path("/etc")), _READERS[:3])
    yield Craft(
        "backup: strange tags", _stored(key, _nothing, None, "created=2999-01-01T00:00:00+00:00", "base=x"), _READERS
    )
    yield Craft("backup: strange host", _stored(key, _nothing, None, "--host", PATHS["escape"]), _READERS)


def _stored(key: str, change: Callable[[Path], None], other: Path | None = None, *words: str) -> Callable[[], None]:
    def make() -> None:
        os.environ |= {"RESTIC_PASSWORD": key, "HOME": str(ASIDE)}
        restic = ("restic", "--no-cache", "--repo", str(BACKUPS))
        newest = json.loads(run(*restic, "snapshots", "--json"))[-1]
        tags = [word for tag in newest["tags"] if not tag.startswith("created=") for word in ("--tag", tag)]
        tags += ["--tag", "created=2990-01-01T00:00:00+00:00"]
        host = ["--host", newest["hostname"]]
        if words[:1] == ("--host",):
            host = list(words)
        else:
            tags += [part for word in words for part in ("--tag", word)]
        kept = ASIDE / "current"
        shutil.copytree(_CURRENT, kept)
        for path in (_CURRENT, *_CURRENT.rglob("*")):
            path.chmod(0o750 if path.is_dir() else 0o640)
        change(_CURRENT)
        # What cannot be read is left out, with an error
        with_errors = ["sh", "-c", '"$@" || test $? = 3', "sh"]
        run(*with_errors, *restic, "backup", *host, *tags, str(other or _CURRENT))
        shutil.rmtree(_CURRENT)
        kept.rename(_CURRENT)

    return make


def _manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def make(current: Path) -> None:
        path = current / "manifest.json"
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document), encoding="utf-8")

    return make


def _first_file(text: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["files"][0].update({"path": text})


def _first_id(text: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["collections"][0].update({"id": text, "segment": text})


def _more_segments(text: str) -> Callable[[Path], None]:
    """The base knows a segment that the log does not: of a collection that was deleted, whose directory has to go."""

    def make(current: Path) -> None:
        path = current / "chroma.sqlite3"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            scope = "urn:chroma:segment/vector/hnsw-local-persisted"
            row = [text, scope, "VECTOR", "11111111-2222-4333-8444-555555555555"]
            connection.execute("INSERT INTO segments (id, type, scope, collection) VALUES (?, ?, ?, ?)", row)
            connection.commit()
        _manifest(partial(_hash, path))(current)

    return make


def _hash(path: Path, document: dict[str, Any]) -> None:
    content = path.read_bytes()
    for entry in document["files"]:
        if entry["path"] == path.name:
            entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _links(current: Path) -> None:
    for number, path in enumerate(sorted(path for path in current.rglob("*") if path.is_file())):
        if path.name != "manifest.json":
            path.unlink()
            path.symlink_to((SECRET, READABLE, CLOSED)[number % 3])


def _hard_links(current: Path) -> None:
    for path in sorted(path for path in current.rglob("*") if path.is_file()):
        os.link(path, path.with_name(f"{path.name}-2"))


def _pipe(current: Path) -> None:
    (current / "log.sqlite3").unlink()
    os.mkfifo(current / "log.sqlite3")


def _manifest_link(current: Path) -> None:
    (current / "manifest.json").unlink()
    (current / "manifest.json").symlink_to(SECRET)


def _nothing(_current: Path) -> None:
    pass


def _as_it_is() -> None:
    pass


# The control socket

_ASKING = (
    *("status", "fence", "unfence", "checkpoint", "compact", "doctor", "backup", "restore", "restore --collection"),
    *("verify-persistence", "adopt", "upgrade --dry-run"),
)
_TRUE: dict[str, Any] = {
    "state": "serving",
    "supervised": True,
    "fences": {},
    "pid": 1,
    "data_dir": str(OPEN),
    "host": "127.0.0.1",
    "port": 8000,
    "collections": 1,
    "records": 1,
    "cold_ids": [],
    "quarantined": [],
    "backup": {},
}
_ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\x1b[31mhello\n",
    "a number": b"7\n",
    "an empty one": b"{}\n",
    "other types": b'{"state": ["serving"], "fences": 7, "error": {"a": 1}, "hint": 3, "exit_code": "x"}\n',
    "an odd progress": b'{"progress": 7}\n{"progress": ["\x1b[31m", "a", null]}\n{}\n',
    "deep": b"[" * 100_000 + b"\n",
    "status": json.dumps(_TRUE).encode() + b"\n",
    "paths": json.dumps({**_TRUE, "state": "\x1b[31m", "fences": {"operator": "../.."}, "pid": -1}).encode() + b"\n",
}


def liars() -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """Answers of a control socket that is not the daemon's, and the verbs that ask there."""
    for name, answer in _ANSWERS.items():
        yield f"socket says {name}", answer, _ASKING


def lie(answer: bytes, seconds: float) -> None:
    """Answers in the daemon's place, as the service user, for so long at most."""
    SOCKET.unlink(missing_ok=True)
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(SOCKET))
        listener.listen(128)
        listener.settimeout(1.0)
        while time.monotonic() < end:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=_answer, args=(connection, answer), daemon=True).start()


def _answer(connection: socket.socket, answer: bytes) -> None:
    try:
        with connection:
            connection.recv(65536)
            connection.sendall(answer)
            time.sleep(1 if answer else 30)
    except OSError:
        pass
