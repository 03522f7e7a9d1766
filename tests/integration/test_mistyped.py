"""Command lines that cannot be meant: an empty value is no missing one, what excludes each other is refused, and a dry run says
what the real one would stumble over. Nothing of it touches anything."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from chromad import cli
from chromad.config import Listen
from chromad.engine.api import Api

from tests.integration import records
from tests.integration.account import until
from tests.integration.commands import Commands, Told
from tests.integration.site import Site


def options() -> list[list[str]]:
    """Each option and argument that takes a value, as the words before it."""
    found = [["--config"]]
    top: Any = typer.main.get_command(cli.app)
    walk = [([verb], top.get_command(None, verb)) for verb in cli.VERBS]
    while walk:
        path, command = walk.pop()
        walk += [([*path, name], each) for name, each in getattr(command, "commands", {}).items()]
        for each in command.params:
            if each.param_type_name == "argument":
                found.append(path)
            elif not each.is_flag and not each.count:
                found += [[*path, name] for name in each.opts if name.startswith("--")]
    return found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Two collections of a name in two databases, and a backup of them; in the service there are other ones."""
    made = Site()
    daemon = made.serve()
    client = daemon.client()
    records.fill(client, "notes", 20)
    records.fill(client, "only", 20)
    made.backup()
    yield made
    assert made.asides() == []
    for name in ("notes", "only"):
        assert client.get_collection(name, embedding_function=None).count() == 20
    made.remove()


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    made = Commands()
    yield made
    made.close()


def run(site: Site, commands: Commands, *words: str) -> Told:
    return commands.run("chromactl", "--config", str(site.config), *words)


def assert_usage(told: Told, said: str) -> None:
    assert told.code == 2, told.output
    assert "ERROR: " in told.output
    assert said in told.output
    assert "HINT: " in told.output


@pytest.mark.parametrize("words", options(), ids=" ".join)
def test_empty_values(site: Site, commands: Commands, words: list[str]) -> None:
    for value in ("", " ", "\t\n"):
        assert_usage(commands.run("chromactl", *words, value), "is empty")
        if words[-1].startswith("--"):
            assert_usage(
                commands.run("chromactl", *words[:-1], f"{words[-1]}={value}"), f"the value of {words[-1]} is empty"
            )


def test_every_kind_of_value_is_tried() -> None:
    tried = {words[-1] for words in options()}
    assert {"--config", "--collection", "--at", "--target", "--into", "--reason", "forget", "--password-file"} <= tried


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["restore", "0123abcd", "--at", "2026-01-01"], "--at and an ID exclude each other"),
        (["restore", "latest", "--at", "2026-01-01"], "--at and an ID exclude each other"),
        (["restore", "--target", "/none/x", "--collection", "notes"], "exclude each other"),
        (["restore", "--target", "/none/x", "--stop"], "--target and --stop exclude each other"),
        (["restore", "--collection", "notes", "--stop"], "--collection and --stop exclude each other"),
        (["restore", "--into", "x"], "--into names a collection"),
        (["restore", "--repository", "/none"], "--repository needs --password-file and --target"),
        (["restore", "--password-file", "/none"], "--repository needs --password-file and --target"),
        (["restore", "--at", "yesterday"], "'yesterday' is not a time"),
        (["restore", "--at", "2999-01-01"], "has yet to come"),
        (["status", "--watch"], "--watch needs a terminal"),
        (["doctor", "--yes"], "--yes answers what --fix asks"),
    ],
)
def test_what_cannot_be_meant(site: Site, commands: Commands, words: list[str], said: str) -> None:
    assert_usage(run(site, commands, *words), said)
    told = run(site, commands, *words, "--json")
    assert (told.code, json.loads(told.output)["exit_code"]) == (2, 2)


def test_id_beside_a_time_that_a_backup_reaches(site: Site) -> None:
    """The time chooses a backup as well, and not the one that was asked for."""
    [listed] = site.listed()
    at = (datetime.fromisoformat(listed["created"]) + timedelta(seconds=1)).isoformat()
    until(lambda: datetime.now(UTC) > datetime.fromisoformat(at) + timedelta(seconds=1), "the end of that second")
    for name in (listed["id"], "0123abcd"):
        refused_alike(site, 2, "--at and an ID exclude each other", "restore", name, "--at", at)


@pytest.mark.parametrize(
    "words",
    [
        ["restore", "--nothing"],
        ["doctor", "--output", "xml"],
        ["backups", "show"],
        ["nothing"],
        ["status", "more"],
        ["status", "--watch"],
        ["doctor", "--output", "nagios"],
        ["restore", "--at"],
        ["restore", "--at", ""],
    ],
)
def test_usage_errors_for_machines(site: Site, commands: Commands, words: list[str]) -> None:
    for told in (run(site, commands, "--json", *words), run(site, commands, *words, "--json")):
        if words == ["restore", "--at"] and told is not None and "not a time" in told.output:
            continue  # it took --json for the time
        assert told.code == 2, told.output
        assert json.loads(told.output).keys() == {"error", "hint", "exit_code"}


def test_ids_by_their_beginning(site: Site) -> None:
    [listed] = site.listed()
    for name in (listed["id"][:4], "latest", "oldest"):
        assert site.chromactl("backups", "show", name, "--json").json()["id"] == listed["id"]
        told = site.chromactl("backups", "forget", name)
        assert (told.code, "no proven backup of" in told.output) == (1, True), told.output
    assert "no backup" in site.chromactl("backups", "show", listed["id"][:3]).output


# Dry runs


def refused_alike(site: Site, code: int, said: str, *words: str) -> None:
    """Dry and real runs end alike. The real one is one that touches nothing."""
    for extra in (["--dry-run"], []):
        told = site.chromactl(*words, *extra)
        assert told.code == code, told.output
        assert said in told.output


def test_dry_run_of_one_collection(site: Site) -> None:
    refused_alike(site, 1, "the backup has no collection 'no/such/thing'", "restore", "--collection", "no/such/thing")
    refused_alike(site, 78, "the service has a collection 'only' already", "restore", "--collection", "only")
    refused_alike(site, 78, "has a collection 'only' already", "restore", "--collection", "notes", "--into", "only")
    assert site.chromactl("restore", "--collection", "notes", "--into", "new", "--dry-run").code == 0


def test_dry_run_into_a_directory(site: Site) -> None:
    for target, code, said in (
        (str(site.data), 78, "is data_dir"),
        (str(site.checkpoints / "look"), 78, "lies inside"),
        ("look", 78, "is relative"),
        (f"{site.root}/none/look", 78, "does not exist"),
    ):
        refused_alike(site, code, said, "restore", "--target", target)


def test_dry_run_beside_a_running_service(site: Site) -> None:
    found = site.chromactl("restore", "--dry-run", "--json")
    assert (found.code, found.json()["would_stop_the_service"]) == (0, True)


def test_dry_run_while_a_backup_runs(site: Site) -> None:
    import fcntl

    with open(site.backup_dir / "backup.lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (["restore"], ["backup"], ["restore", "--collection", "notes", "--into", "x"]):
            told = site.chromactl(*words, "--dry-run")
            assert told.code == 75, told.output
            assert "in use for a backup, a drill or a restore" in told.output


def test_dry_run_of_a_backup(site: Site) -> None:
    plan = site.chromactl("backup", "--full", "--dry-run", "--json").json()
    assert plan["bytes"] < (4 << 20), "the ballast is not read"
    key = site.key.read_bytes()
    site.key.chmod(0o600)
    site.key.write_text("another\n")
    refused_alike(site, 78, "the key does not open the repository", "backup")
    site.key.write_bytes(key)
    site.edit_ledger(problem="", suspect=False)


def test_dry_run_of_a_backup_of_a_damaged_database(site: Site) -> None:
    """What a backup with a base of its own refuses."""
    one = "WHERE id = (SELECT max(id) FROM segments WHERE scope = 'METADATA')"
    with closing(sqlite3.connect(site.data / "chroma.sqlite3", isolation_level=None)) as connection:
        connection.execute(f"UPDATE segments SET collection = collection || '-' {one}")
        refused_alike(site, 1, "the database is not worth keeping as it is", "backup", "--full")
        connection.execute(f"UPDATE segments SET collection = rtrim(collection, '-') {one}")
    site.edit_ledger(problem="", suspect=False)


def test_dry_run_to_a_time(site: Site) -> None:
    """Across another history of the data: what the logs would tell is told."""
    other = Site()
    try:
        daemon = other.serve()
        records.fill(daemon.client(), "twice", 20)
        other.backup()
        at = datetime.now(UTC) + timedelta(seconds=1)
        daemon.stop()
        other.data.joinpath("chromad.json").write_text(
            json.dumps(json.loads(other.data.joinpath("chromad.json").read_text()) | {"data_id": "0" * 32})
        )
        while datetime.now(UTC) < at + timedelta(seconds=1):
            pass
        words = ["restore", "--at", at.strftime("%Y-%m-%dT%H:%M:%SZ")]
        refused_alike(other, 1, "does not hold the data that were backed up", *words)
        assert other.asides() == []
        told = other.chromactl(*words, "--inexact", "--dry-run")
        assert (told.code, "not exact: " in told.output) == (0, True)
    finally:
        other.remove()


def test_dry_run_of_an_ambiguous_name(site: Site) -> None:
    other = Site()
    try:
        daemon = other.serve()
        records.fill(daemon.client(), "notes", 5)
        Api(Listen(port=other.port)).request("POST", "tenants/default_tenant/databases", {"name": "second"})
        records.fill(daemon.client(database="second"), "notes", 5)
        other.backup()
        refused_alike(other, 2, "several collections have the name 'notes'", "restore", "--collection", "notes")
    finally:
        other.remove()
