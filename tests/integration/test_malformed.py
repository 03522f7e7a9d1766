"""Whatever is fed to the programs gives a fact, a hint and an exit code of the documented ones; the service goes on unharmed."""

import contextlib
import io
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromad import cli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration import records
from tests.integration.site import Site

# Configuration, usage, permission, try again, failed; status adds 3 and 4, doctor says 2 when something is broken.
CODES = {0, 1, 2, 3, 4, 75, 77, 78}
MEGABYTES = 45
TRIED: Counter[str] = Counter()

_many = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["../../etc/passwd", "\x00", "a" * 5000, "10m", "-1", "%s%n", "2026-13-45T99:99:99Z", "\u202e", "'; --"]
    )
)
_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
# What argv can hold: no NUL, no lone surrogates but those that stand for bytes.
_words = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    [
        "",
        "-",
        "--",
        "-1",
        "latest",
        "0" * 64,
        "../..",
        "/",
        "\n",
        "\udcff",
        "99999999999999999999",
        "2026-02-30",
        "*",
        "$(id)",
    ]
)


@pytest.fixture(scope="module")
def busy() -> Iterator[Site]:
    """A served site with records and a backup; looked at again at the end."""
    site = Site()
    records.fill(site.serve().client(), "some", 40, sync_threshold=10)
    site.backup()
    yield site
    try:
        assert site.daemon.status()["state"] == "serving"
        assert site.daemon.client().get_collection("some").count() == 40
        assert "Traceback" not in site.daemon.log
        memory = site.daemon.proc_status().split("VmRSS:")[1].split()[0]
        assert int(memory) / 1024 < MEGABYTES
        assert sum(TRIED.values()) >= 200, TRIED
    finally:
        site.remove()


def run(*words: str) -> tuple[int, str]:
    """What chromactl does with a command line, within this process: its exit code, and all that it prints."""
    output = io.StringIO()
    before, mask = sys.argv, os.umask(0o022)
    os.umask(mask)
    sys.argv = ["chromactl", *words]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            cli.ui.out.file = cli.ui.err.file = output
            cli.main()
        code: int | str | None = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
        os.umask(mask)
        cli.ui.out.file, cli.ui.err.file = sys.stdout, sys.stderr
    assert code is None or isinstance(code, int), code
    return code or 0, output.getvalue()


def assert_told(code: int, output: str) -> None:
    assert code in CODES, (code, output)
    assert "Traceback" not in output
    if code in (75, 77, 78):
        assert "HINT" in output or '"hint"' in output, output
    elif code:
        assert output.strip()


def leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything in a JSON document."""
    yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from leaves(value, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with one thing replaced."""
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = changed(copy[path[0]], path[1:], value)
    return copy


# Configuration files


@_many
@given(st.data())
def test_configuration_files(busy: Site, data: st.DataObject) -> None:
    document = json.loads(run("--config", str(busy.config), "--json", "config", "show")[1])
    path = data.draw(st.sampled_from(list(leaves(document))))
    text = json.dumps(changed(document, path, data.draw(_json)))
    spoiled = busy.root / "spoiled.yml"
    content = data.draw(
        st.sampled_from([text.encode(), text.encode()[: len(text) // 2], b"\xff" + text.encode(), b"&a [*a, *a]"])
    )
    spoiled.write_bytes(content)
    TRIED["configuration"] += 1
    code, output = run("config", "validate", str(spoiled))
    assert code in (0, 78), output
    assert_told(code, output)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"a: &a [" + b"*a," * 100 + b"]", b"x: !!python/object/apply:os.system [id]", b"\0", b"data_dir: /a\ndata_dir: /b"])  # fmt: skip
def test_files_that_are_no_configuration(busy: Site, content: bytes) -> None:
    spoiled = busy.root / "spoiled.yml"
    spoiled.write_bytes(content)
    TRIED["configuration"] += 1
    assert_told(*run("config", "validate", str(spoiled)))


@pytest.mark.parametrize("kind", ["directory", "missing", "unreadable"])
def test_paths_that_are_no_configuration(site: Site, kind: str) -> None:
    path = {"directory": site.root, "missing": site.root / "nothing", "unreadable": site.root / "closed"}[kind]
    if kind == "unreadable":
        path.write_text("{}", encoding="ascii")
        path.chmod(0)
    site.config.unlink()
    site.config.symlink_to(path)
    result = site.refused()
    assert result.code in (77, 78), result.output
    assert "HINT" in result.output
    assert "Traceback" not in result.output


# Command lines

_HARMLESS = (
    "status",
    "doctor",
    "config",
    "backups",
    "restore",
    "fence",
    "adopt",
    "checkpoint",
    "backup",
    "repair",
)


@_many
@given(st.sampled_from(_HARMLESS), st.lists(_words, min_size=1, max_size=3))
def test_arguments(busy: Site, verb: str, words: list[str]) -> None:
    # Without a dash: options are below. Nothing here permits to stop the service.
    words = [word if not word.startswith("-") else f"x{word}" for word in words]
    TRIED["arguments"] += 1
    assert_told(*run("--config", str(busy.config), verb, *words))


@pytest.mark.parametrize("word", ["", "nothing", "../..", "0" * 64, "latest latest", "\n"])
def test_drill_of_what_is_no_backup(busy: Site, word: str) -> None:
    # Not within this process: it becomes the owner of the data.
    result = busy.chromactl("verify", word)
    TRIED["arguments"] += 1
    assert result.code == 1
    assert_told(result.code, result.output)


@_many
@given(st.data())
def test_options(busy: Site, data: st.DataObject) -> None:
    verb, option = data.draw(
        st.sampled_from(
            [
                (("restore",), "--at"),
                (("restore", "--dry-run"), "--collection"),
                (("restore", "--dry-run"), "--target"),
                (("restore", "--target", "/x", "--password-file", "/x"), "--repository"),
                (("doctor",), "--output"),
                (("fence",), "--reason"),
                (("status",), "--nonsense"),
                (("backups", "forget"), "--keep"),
            ]
        )
    )
    TRIED["arguments"] += 1
    assert_told(*run("--config", str(busy.config), *verb, option, data.draw(_words)))
    run("--config", str(busy.config), "unfence")


# Messages


@_many
@given(verb=st.sampled_from(["checkpoint", "fence", "unfence", "status", "collections", "configuration"]), values=_json, key=st.sampled_from(["damaged", "reason", "verb2"]))  # fmt: skip
def test_control_messages(busy: Site, verb: str, values: Any, key: str) -> None:
    TRIED["control"] += 1
    answer = ask(busy, json.dumps({"verb": verb, key: values}).encode() + b"\n")
    assert isinstance(answer, dict)
    if "error" in answer:
        assert answer["exit_code"] in CODES
        assert answer["hint"]
    ask(busy, b'{"verb": "unfence"}\n')


@_many
@given(st.binary(max_size=400))
def test_control_bytes(busy: Site, message: bytes) -> None:
    TRIED["control"] += 1
    answer = ask(busy, message + b"\n")
    assert answer["error"]
    assert answer["hint"]


@_many
@given(st.binary(max_size=400) | st.sampled_from([b"GET", b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"/" * 66000, b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"]))  # fmt: skip
def test_http_bytes(busy: Site, message: bytes) -> None:
    TRIED["http"] += 1
    with socket.create_connection(("127.0.0.1", busy.metrics_port), timeout=20) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                answer += piece
        assert b"Traceback" not in answer


def ask(site: Site, message: bytes) -> Any:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(str(site.control))
        connection.sendall(message)
        with connection.makefile("rb") as lines:
            answer = json.loads(lines.readline())
            while "progress" in answer:
                answer = json.loads(lines.readline())
            return answer


# What chromad and chromactl keep


@_many
@given(st.data())
def test_ledger(busy: Site, data: st.DataObject) -> None:
    spoil(busy.backup_dir / "ledger.json", data, busy)


@_many
@given(st.data())
def test_manifest(busy: Site, data: st.DataObject) -> None:
    spoil(busy.current / "manifest.json", data, busy)


def spoil(path: Path, data: st.DataObject, site: Site) -> None:
    """Changes something in a file, lets the verbs that read it look at it, and puts it back."""
    before = path.read_bytes()
    document = json.loads(before)
    text = json.dumps(changed(document, data.draw(st.sampled_from(list(leaves(document)))), data.draw(_json))).encode()
    path.write_bytes(data.draw(st.sampled_from([text, text, text[: len(text) // 2], b"", b"\xff\xfe", b"[" * 50_000])))
    TRIED[path.name] += 1
    try:
        for words in (("status",), ("backup", "--dry-run"), ("backups",)):
            assert_told(*run("--config", str(site.config), *words))
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", ["chromad.json", "checkpoint.json"])
def test_state_of_the_daemon(used: Site, name: str) -> None:
    daemon = used.serve()
    records.fill(daemon.client(), "some", 20, sync_threshold=10)
    used.first_segment()
    daemon.stop()
    path = used.data / name if name == "chromad.json" else next(used.checkpoints.glob(f"*/*/{name}"))
    before = path.read_bytes()
    document = json.loads(before)
    spoiled: list[bytes] = [b"", b"{", b"\xff\xfe", b"[" * 50_000, before[: len(before) // 2]]
    values: list[Any] = [None, -1, "x", [], 10**30]
    for at in list(leaves(document))[1:]:
        spoiled += [json.dumps(changed(document, at, value)).encode() for value in values[::2]]
    for content in spoiled:
        TRIED[name] += 1
        path.write_bytes(content)
        code, output = run("--config", str(used.config), "doctor")
        assert_told(code, output)
    # And a start, which decides what it means.
    path.write_bytes(b"{")
    served = used.start()
    if name == "chromad.json":
        assert served.ended(30) in (1, 78)
        assert "HINT" in served.log
    else:
        served.ready()
        assert served.client().get_collection("some").count() == 20
    assert "Traceback" not in served.log
