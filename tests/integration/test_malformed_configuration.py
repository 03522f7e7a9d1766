"""Whatever a configuration file holds or is: chromactl and chromad refuse it with a fact and a hint, a running daemon goes on."""

import os
import signal
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from chromad import config
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.account import BIN, need_closed_doors, until
from tests.integration.commands import LIMIT, Commands, Told
from tests.integration.malformed import JSON, Fed, assert_told, changed, leaves, many, need_whole_file
from tests.integration.site import Site

LETTERS = "abcdefghi"


def nested(entry: str) -> bytes:
    """Nine of nine of nine …"""
    lines = [
        f"{name}: &{name} {entry.replace('*', ', '.join([f'*{before}'] * 9))}" for before, name in pairwise(LETTERS)
    ]
    return "\n".join(["a: &a {x: 1}", *lines, f"warm: {{collections: [*{LETTERS[-1]}]}}"]).encode()


# What is in the message, and the file
FILES = [
    ("not valid YAML", b"listen: {port: 1"),
    ("nested too deeply", b"[" * 100_000),
    ("nested too deeply", b"{a: " * 5000),
    ("unknown key", b"".join(b" " * depth + b"a:\n" for depth in range(450))),
    ("special characters are not allowed", b"a: \0"),
    ("special characters are not allowed", b"log_level: \x1b[31m"),
    ("not UTF-8", b"\xff\xfeg"),
    ("not UTF-8", "log_level: ü".encode("latin-1")),
    ("'warm.collections.0'", nested("[*]")),
    ("keys cannot be merged", nested("{<<: [*]}")),
    ("undefined alias", b"data_dir: *data"),
    ("could not determine a constructor", b"data_dir: !!python/object/apply:os.system [id]"),
    ("could not determine a constructor", b"data_dir: !x y"),
    ("write plain keys and values", b"warm: {timeout: !!timestamp x}"),
    ("Exceeds the limit", b"listen: {port: " + b"9" * 5000 + b"}"),
    ("'data_dir' is given twice", b"data_dir: /a\ndata_dir: /b"),
    ("unhashable key", b"? [a]\n: 1"),
    ("expected a single document", b"--- {}\n--- {}\n"),
    ("larger than 128 KiB", b"#" * 1_000_000),
    ("and 3950 more", b"".join(b"key%d: 1\n" % number for number in range(4000))),
    ("holds a list", b"- data_dir\n"),
    ("holds a str", b"data_dir"),
    ("Keys should be strings", b'!!binary "AA==": 1\n1: 2\nnull: 3\n'),
    ("unable to parse raw data", b'"\\ud800": 1\n'),
    (r"At '\x1b[31m'", b'"\\e[31m": 1\n'),
    (r"At '\x07\x00'", b'"\\a\\0": 1\n'),
    ("cannot be printed", b'data_dir: "/\\udcff"\n'),
    ("'data_dir': Input is not", b"data_dir: " + b"[" * 200 + b"]" * 200),
    ("'listen.port'", b"listen: {port: 1e999}"),
    ("at most a year", b"checkpoint: {interval: .nan}\nwarm: {timeout: .inf}"),
    ("'disk.command.0'", b'disk: {command: ["\\0"]}'),
    ("'backup.options.a'", b'backup: {options: {a: "\\0"}}'),
    ("'engine.allow_reset'", b"engine: {allow_reset: perhaps}"),
    ("lies inside", b"checkpoint_dir: /opt/chromadb/data/x"),
]


@pytest.fixture(scope="module")
def fed() -> Iterator[Fed]:
    site = Site()
    found = Fed(site)
    yield found
    try:
        found.assert_unharmed()
    finally:
        site.remove()


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    made = Commands()
    yield made
    made.close()


def facts(output: str) -> str:
    """What was said, without how: chromad begins its lines with a time."""
    return output.partition("ERROR")[2].lstrip(": ").partition("HINT")[0].rpartition("\n")[0].strip()


def assert_refused(fed: Fed, commands: Commands, path: Path) -> Told:
    """Both programs refuse the file, with the same words."""
    fed.count += 1
    checked = commands.run("chromactl", "config", "validate", str(path))
    assert_told(checked, 78)
    started = commands.run("chromad", "--config", str(path))
    assert_told(started, 78)
    assert facts(started.output) == facts(checked.output)
    assert "\x1b" not in checked.output + started.output
    return checked


@pytest.mark.parametrize(("said", "content"), FILES, ids=range(len(FILES)))
def test_file_that_is_no_configuration(fed: Fed, commands: Commands, tmp_path: Path, said: str, content: bytes) -> None:
    path = tmp_path / "chromad.yml"
    path.write_bytes(content)
    assert said in assert_refused(fed, commands, path).output


@many(120)
@given(st.data())
def test_anything_in_place_of_a_value(fed: Fed, commands: Commands, data: st.DataObject) -> None:
    document = config.load(fed.site.config).model_dump(mode="json")
    path = data.draw(st.sampled_from(list(leaves(document))[1:]))
    text = yaml.safe_dump(changed(document, path, data.draw(JSON)), allow_unicode=True)
    file = fed.site.root / "changed.yml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    checked = commands.run("chromactl", "config", "validate", str(file))
    fed.count += 1
    assert_told(checked, 0, 78)
    if checked.code:
        assert_refused(fed, commands, file)


@many(120)
@given(st.data())
def test_bytes_in_place_of_others(fed: Fed, commands: Commands, data: st.DataObject) -> None:
    text = fed.site.config.read_bytes()
    start = data.draw(st.integers(0, len(text)))
    spoiled = text[:start] + data.draw(st.binary(max_size=4)) + text[start + data.draw(st.integers(0, 40)) :]
    file = fed.site.root / "spoiled.yml"
    file.write_bytes(spoiled)
    fed.count += 1
    assert_told(commands.run("chromactl", "config", "validate", str(file)), 0, 78)


def execute(fed: Fed, program: str, path: Path) -> Told:
    """The program as it is installed, by the service user."""
    words = ["config", "validate"] if program == "chromactl" else ["--config"]
    process = fed.site.spawn([BIN / program, *words, path])
    output, _ = process.communicate(timeout=LIMIT)
    fed.count += 1
    return Told(process.returncode, output.decode())


@pytest.mark.parametrize("program", ["chromactl", "chromad"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("directory", "Is a directory"),
        ("pipe", "not a regular file"),
        ("zero", "not a regular file"),
        ("socket", "No such device or address"),
        ("loop", "Too many levels of symbolic links"),
        ("none", "does not exist"),
        ("long", "File name too long"),
        ("below", "Not a directory"),
        ("bytes", "does not exist"),
    ],
)
def test_path_of_no_file(fed: Fed, program: str, kind: str, said: str) -> None:
    path = fed.site.root / f"{kind}-{program}"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path, 0o666)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
        path.chmod(0o666)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "long":
        path = path.with_name("x" * 300)
    elif kind == "below":
        path = fed.site.config / path.name
    elif kind == "bytes":
        path = path.with_name("\udcff\x1b[31m")
    told = execute(fed, program, path)
    assert_told(told, 78)
    assert said in told.output
    assert "\x1b" not in told.output


def test_file_that_may_not_be_read(fed: Fed) -> None:
    need_closed_doors()
    path = fed.site.root / "closed.yml"
    path.write_text("{}", encoding="ascii")
    path.chmod(0)
    for program in ("chromactl", "chromad"):
        assert_told(execute(fed, program, path), 77)


@pytest.mark.parametrize("content", [None, *(content for _, content in FILES[::4])], ids=range(10))
def test_reload_of_such_a_file_changes_nothing(fed: Fed, content: bytes | None) -> None:
    daemon, file = fed.site.daemon, fed.site.config
    aside = file.with_name("aside.yml")
    file.rename(aside)
    try:
        if content is None:
            os.mkfifo(file, 0o666)
        else:
            file.write_bytes(content)
        times = daemon.log.count("reload: nothing changed")
        daemon.send(signal.SIGHUP)
        until(lambda: daemon.log.count("reload: nothing changed") > times, "the reload")
    finally:
        file.unlink()
        aside.rename(file)
    fed.count += 1
    assert daemon.status()["state"] == "serving"
    until(lambda: daemon.notify.lines[-1] != "RELOADING=1", "the end of the reload")


def test_enough_were_fed(fed: Fed, request: pytest.FixtureRequest) -> None:
    need_whole_file(request)
    assert fed.count >= 300
