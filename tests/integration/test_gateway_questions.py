"""What the daemon answers the gateway: whose a collection is at each moment of its life, and that nobody who asks badly does harm."""

import json
import os
import signal
import socket
import stat
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chromad.chroma import sqlite
from chromad.host import disks

from tests.integration import records
from tests.integration.account import until
from tests.integration.site import Site

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def connect(site: Site) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(20)
    connection.connect(str(door(site)))
    return connection


def door(site: Site) -> Path:
    return site.run / "gateway.sock"


def ask(site: Site, *questions: str) -> list[str]:
    """The answers to some questions on one connection."""
    with connect(site) as connection, connection.makefile("rw", newline="\n") as lines:
        lines.write("".join(f"{each}\n" for each in questions))
        lines.flush()
        return [lines.readline().removesuffix("\n") for _ in questions]


def owner(site: Site, uuid: object) -> str:
    return ask(site, f"owner {uuid}")[0]


def generation(site: Site) -> str:
    found = ask(site, "generation")[0]
    assert not found.startswith("!"), found
    return found


def api(site: Site, method: str, path: str, document: dict[str, Any] | None = None) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{site.port}/api/v2{path}",
        method=method,
        data=json.dumps(document).encode() if document else None,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        answer.read()


def make(site: Site) -> Site:
    site.configure({"gateway.socket": str(door(site)), "engine.allow_reset": True})
    return site


@pytest.fixture
def own(site: Site) -> Site:
    """A site whose daemon answers a gateway."""
    return make(site)


@pytest.fixture(scope="module")
def asked() -> Iterator[Site]:
    """One that serves all tests that change nothing."""
    made = make(Site())
    made.serve()
    yield made
    assert made.daemon.process.poll() is None
    made.daemon.stop()
    assert not door(made).exists()
    made.remove()


def test_no_socket_unless_it_is_asked_for(serving: Site) -> None:
    assert not door(serving).exists()


def test_owner_at_each_moment_of_a_collection(own: Site) -> None:
    daemon = own.serve()
    api(own, "POST", "/tenants", {"name": "tenant-a"})
    api(own, "POST", "/tenants/tenant-a/databases", {"name": "other"})
    there = daemon.client("tenant-a", "other")
    first = records.create(there, "first").id
    assert owner(own, first) == "tenant-a/other"
    there.get_collection("first", embedding_function=None).modify(name="renamed")
    assert owner(own, first) == "tenant-a/other"
    here = daemon.client()
    same_name = records.create(here, "renamed").id
    assert owner(own, same_name) == "default_tenant/default_database"
    there.delete_collection("renamed")
    assert owner(own, first) == "-"
    again = records.create(there, "renamed").id
    assert ask(own, f"owner {again}", f"owner {first}") == ["tenant-a/other", "-"]
    api(own, "DELETE", "/tenants/tenant-a/databases/other")
    assert owner(own, again) == "-"
    assert owner(own, same_name) == "default_tenant/default_database"


def test_generation_is_another_one_after_reset_restart_and_restore(own: Site) -> None:
    daemon = own.serve()
    held = records.create(daemon.client(), "held").id
    first = generation(own)
    own.backup()
    records.upsert(records.create(daemon.client(), "more"), {"a": records.make("a")})
    assert generation(own) == first, "what clients write changes nothing"
    daemon.client().reset()
    second = generation(own)
    assert (second != first, owner(own, held)) == (True, "-")
    daemon.client().reset()
    assert generation(own) != second
    daemon.stop()
    assert own.chromactl("restore", "latest").code == 0
    own.serve()
    third = generation(own)
    assert third not in (first, second)
    assert owner(own, held) == "default_tenant/default_database"
    own.daemon.stop()
    own.serve()
    assert generation(own) != third


def test_fences(own: Site) -> None:
    own.serve()
    assert ask(own, "fences") == ["-"]
    assert own.chromactl("fence", "--reason", "moving, it's done by 14:00").code == 0
    assert ask(own, "fences") == ["503 moving, it's done by 14:00"]
    assert own.chromactl("unfence").code == 0
    assert ask(own, "fences") == ["-"]
    # Half of what is used: it is full by that.
    percent = max(int(disks.usage(own.data).percent / 2), 2)
    own.configure({"disk": {"fence_percent": percent, "release_percent": percent - 1, "warn_percent": 1}})
    own.daemon.send(signal.SIGHUP)
    until(lambda: ask(own, "fences")[0].startswith("507 "), "the disk's fence")
    assert f"{own.data}: " in ask(own, "fences")[0]
    assert own.chromactl("fence", "--reason", "both").code == 0
    assert ask(own, "fences") == ["503 both"]


def test_mode_and_group(own: Site) -> None:
    """The directory hands its group on, so that nobody has to give the socket away."""
    directory = own.run / "door"
    directory.mkdir()
    os.chown(directory, own.account.uid, os.getgid())
    directory.chmod(0o2750)
    own.configure({"gateway.socket": str(directory / "gateway.sock")})
    own.serve()
    status = (directory / "gateway.sock").stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, own.account.uid, os.getgid())


def test_socket_that_was_left_behind_is_replaced(own: Site) -> None:
    first = own.serve()
    first.process.kill()
    first.process.wait()
    assert door(own).exists()
    own.serve()
    assert owner(own, UNKNOWN) == "-"


def test_socket_where_it_cannot_be(own: Site) -> None:
    own.configure({"gateway.socket": str(own.root / "none" / "gateway.sock")})
    own.assert_refused(77, "gateway.socket", "must exist and belong to the service user")


def test_while_it_starts_it_says_so(own: Site) -> None:
    daemon = own.start()
    until(
        lambda: owner_or_nothing(own).startswith("!the service is "), "an answer of a daemon that starts", pause=0.001
    )
    daemon.ready()
    assert owner(own, UNKNOWN) == "-"


def owner_or_nothing(site: Site) -> str:
    try:
        return owner(site, UNKNOWN)
    except OSError:
        return ""


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("", "!unknown"),
        ("x" * 200, "!unknown"),
        ("Owner x", "!unknown"),
        ("fences now", "!unknown"),
        ("generation 1", "!unknown"),
        ("\x00\x1b[2J", "!unknown"),
        ("owner", "-"),
        ("owner ", "-"),
        (f"owner {UNKNOWN}", "-"),
        (f"owner  {UNKNOWN}", "-"),
        (f"owner {UNKNOWN} ", "-"),
        (f"owner {UNKNOWN}\r", "-"),
        ("owner ' OR 1=1 --", "-"),
        (f"owner {'9' * 200}", "-"),
        ("fences\r", "-"),
    ],
)
def test_question(asked: Site, question: str, answer: str) -> None:
    assert ask(asked, question) == [answer]


def test_id_in_another_spelling_is_nobodys(asked: Site) -> None:
    """The engine would take it."""
    uuid = str(records.create(asked.daemon.client(), "spelled").id)
    assert owner(asked, uuid) == "default_tenant/default_database"
    for other in (uuid.upper(), uuid.replace("-", ""), f"{{{uuid}}}", f"urn:uuid:{uuid}", f" {uuid}"):
        assert owner(asked, other) == "-"


def test_name_that_is_no_part_of_a_path_is_nobodys(asked: Site) -> None:
    """It could pass for another tenant's database, or for the next answer."""
    api(asked, "POST", "/tenants", {"name": "one/two\nthree"})
    api(asked, "POST", "/tenants/one%2Ftwo%0Athree/databases", {"name": "its"})
    api(asked, "POST", "/tenants/one%2Ftwo%0Athree/databases/its/collections", {"name": "odd"})
    [uuid] = [each.id for each in sqlite.collections(asked.data) if each.name == "odd"]
    assert ask(asked, f"owner {uuid}", "fences") == ["-", "-"]


def test_bytes_that_are_no_text(asked: Site) -> None:
    with connect(asked) as connection, connection.makefile("rb") as lines:
        connection.sendall(b"\xff\xfe\nfences\n")
        assert [lines.readline(), lines.readline()] == [b"!unknown\n", b"-\n"]


def test_long_line_ends_its_connection_alone(asked: Site) -> None:
    with connect(asked) as other, connect(asked) as connection:
        connection.sendall(b"owner " + b"x" * 1000)
        assert connection.makefile("rb").read() == b"!a question has 256 bytes at most\n"
        other.sendall(b"fences\n")
        assert other.recv(100) == b"-\n"


def test_half_a_question_and_silence_hold_nobody_up(asked: Site) -> None:
    with ExitStack() as held:
        for number in range(100):
            connection = held.enter_context(connect(asked))
            connection.sendall(b"owner 0000"[: number % 11])
        started = time.monotonic()
        assert ask(asked, "fences", f"owner {UNKNOWN}") == ["-", "-"]
        assert time.monotonic() - started < 5


def test_who_does_not_read_is_not_read_any_more(asked: Site) -> None:
    with connect(asked) as connection:
        connection.settimeout(2)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 64 << 20:
                sent += connection.send(b"\n" * 65536)
        assert sent < 1 << 20
        assert ask(asked, "fences") == ["-"]
    rss = next(line for line in asked.daemon.proc_status().splitlines() if line.startswith("VmRSS"))
    assert int(rss.split()[1]) < 200 << 10


def test_more_connections_than_it_holds(asked: Site) -> None:
    """The one that was still for the longest time goes."""
    with ExitStack() as held:
        first = held.enter_context(connect(asked))
        first.sendall(b"fences\n")
        assert first.recv(10) == b"-\n"
        for _ in range(300):
            held.enter_context(connect(asked))
        assert ask(asked, "fences") == ["-"]
        assert first.recv(10) == b""


def test_many_at_once(asked: Site) -> None:
    uuid = records.create(asked.daemon.client(), "many").id
    questions = [f"owner {uuid}", f"owner {UNKNOWN}"] * 500
    assert ask(asked, *questions) == ["default_tenant/default_database", "-"] * 500


def test_each_of_many_connections_is_answered(asked: Site) -> None:
    """As when all that the gateway remembers is void at once."""
    uuid = records.create(asked.daemon.client(), "busy").id
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda _: owner(asked, uuid), range(2000)))
    assert found == ["default_tenant/default_database"] * 2000


def test_few_descriptors(own: Site) -> None:
    daemon = own.start(wrapper=["prlimit", "--nofile=60"]).ready()
    with ExitStack() as held:
        for _ in range(80):
            held.enter_context(connect(own))
        assert ask(own, "fences") == ["-"]
    assert daemon.status()["state"] == "serving"
    daemon.stop()
    assert "gateway questions failed" not in daemon.log


def test_nothing_of_it_keeps_the_wal_from_being_emptied(own: Site) -> None:
    daemon = own.serve()
    uuid = records.create(daemon.client(), "asked").id
    with connect(own) as connection:
        connection.sendall(f"owner {uuid}\n".encode())
        assert connection.recv(100) == b"default_tenant/default_database\n"
        daemon.stop()
    assert "keeps SQLite's WAL" not in daemon.log
