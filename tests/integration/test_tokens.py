"""chromactl token before a real HAProxy: a change holds for the next request, whoever is killed leaves nothing behind that lasts,
and no secret is anywhere but where it is wanted."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from chromad.config import GatewaySettings
from chromad.gateway import admin, token_store, tokens

from tests import packages
from tests.integration.account import BIN, popen, stranger, until
from tests.integration.commands import Commands
from tests.integration.site import Result, free_port
from tests.integration.test_malformed_arguments import NASTY
from tests.integration.test_secrets import watched

CONFIGURATION = """
global
  stats socket {root}/admin.sock mode 600 level admin
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend door
  bind 127.0.0.1:{port}
  http-request set-var(txn.rights) req.hdr(x-chroma-token),sha2(256),hex,map_str({root}/gateway/tokens.map)
  http-request deny deny_status 401 unless {{ var(txn.rights) -m found }}
  http-request return status 200 content-type text/plain lf-string "%[var(txn.rights)]"
"""
ALL = "default_tenant/default_database"


class Host:
    """What the role would have made: a configuration, the gateway's directory, and HAProxy."""

    def __init__(self) -> None:
        packages.need({"haproxy": "haproxy"})
        self.root = Path(tempfile.mkdtemp(prefix="chromad-tokens-"))
        self.root.chmod(0o755)
        self.directory = self.root / "gateway"
        self.directory.mkdir(mode=0o750)
        self.admin = self.root / "admin.sock"
        self.port = free_port()
        self.config = self.root / "chromad.yml"
        gateway = {
            "directory": str(self.directory),
            "admin_socket": str(self.admin),
            "socket": str(self.root / "gateway.sock"),
        }
        self.config.write_text(yaml.safe_dump({"data_dir": str(self.root / "data"), "gateway": gateway}))
        (self.root / "haproxy.cfg").write_text(CONFIGURATION.format(root=self.root, port=self.port))
        self.gateway: subprocess.Popen[bytes] | None = None

    def start(self) -> "Host":
        assert self.chromactl("list").code == 0, "it makes the map that HAProxy needs"
        with open(self.root / "log", "ab") as log:
            argv = ["haproxy", "-db", "-f", str(self.root / "haproxy.cfg")]
            self.gateway = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
        until(self._answers, "HAProxy")
        return self

    def _answers(self) -> bool:
        assert self.gateway
        assert self.gateway.poll() is None, (self.root / "log").read_text()
        return self.admin.exists() and admin.holds(self.admin, self.map, {}) is not None

    def stop(self) -> None:
        if self.gateway:
            self.gateway.kill()
            self.gateway.wait()
        self.gateway = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.root)

    @property
    def map(self) -> Path:
        return self.directory / token_store.MAP

    def argv(self, *words: str) -> list[str | Path]:
        return [BIN / "chromactl", "--config", self.config, "token", *words]

    def chromactl(self, *words: str) -> Result:
        """Both streams."""
        done = subprocess.run(self.argv(*words), capture_output=True, text=True, check=False, timeout=120)
        assert "Traceback" not in done.stderr
        assert "foresaw" not in done.stderr
        return Result(done.returncode, done.stdout + done.stderr)

    def text(self, *words: str) -> str:
        """The new text of a token: all that is on standard output."""
        done = subprocess.run(self.argv(*words), capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"chr_[A-Za-z0-9_-]{43}\n", done.stdout)
        assert done.stdout.strip() not in done.stderr
        return done.stdout.strip()

    def add(self, name: str, *words: str) -> str:
        return self.text("add", name, "--role", "rw", *words)

    @property
    def settings(self) -> GatewaySettings:
        return GatewaySettings(directory=self.directory, admin_socket=self.admin)

    def put(self, name: str) -> str:
        """As `add`, without a process of its own."""
        text, now = tokens.make_text(), tokens.moment(datetime.now(UTC))
        made = tokens.Token(name=name, role="rw", scopes=(ALL,), created=now, secrets=(tokens.hashed(text),))
        assert not token_store.change(self.settings, lambda found: found.with_token(made)).problem
        return text

    def take(self, name: str) -> None:
        """Revokes it, if it is there."""
        assert not token_store.change(self.settings, lambda found: found.without(name)).problem

    def ask(self, text: str, connection: http.client.HTTPConnection | None = None) -> tuple[int, str]:
        """What the gateway says to a request with a token."""
        used = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            used.request("GET", "/", headers={"X-Chroma-Token": text})
            answer = used.getresponse()
            return answer.status, answer.read().decode()
        finally:
            if not connection:
                used.close()

    def tell(self, command: str) -> str:
        """HAProxy's own answer to a command."""
        return admin._ask(self.admin, command) or ""

    def known(self) -> dict[str, str]:
        """What the running gateway has."""
        found = admin._read_map(self.admin, self.map)
        assert found is not None
        assert len(found) == len(dict(found))
        return dict(found)

    def assert_files_whole(self) -> dict[str, str]:
        """Document and map say the same: what it is."""
        wanted = token_store.read(self.directory).entries()
        assert self.map.read_text() == "".join(f"{key} {value}\n" for key, value in wanted.items())
        return wanted

    def assert_whole(self) -> None:
        """The gateway says so as well."""
        assert self.known() == self.assert_files_whole()


@pytest.fixture
def host() -> Iterator[Host]:
    """A gateway's directory; nothing runs yet."""
    made = Host()
    yield made
    made.remove()


@pytest.fixture
def running(host: Host) -> Host:
    return host.start()


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    made = Commands()
    yield made
    made.close()


pytestmark = pytest.mark.root


def test_a_change_holds_for_the_next_request_and_drops_no_connection(running: Host) -> None:
    other = running.add("other", "--expires", "90d", "--from", "127.0.0.0/8")
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    connection.connect()
    at_first = connection.sock.getsockname()
    ended = threading.Event()
    seen: set[tuple[int, bool]] = set()

    def go_on() -> None:
        mine = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
        mine.connect()
        mine.auto_open = False
        while not ended.is_set():
            status, rights = running.ask(other, mine)
            seen.add((status, rights.startswith(f"other|rw|{ALL}|")))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        first = running.add("app")
        assert running.ask(first, connection) == (200, f"app|rw|{ALL}|0|*")
        second = running.text("rotate", "app")
        assert running.ask(second, connection) == (200, f"app|rw|{ALL}|0|*")
        status, rights = running.ask(first, connection)
        assert (status, int(rights.split("|")[3]) > 0) == (200, True)
        third = running.text("rotate", "app", "--keep", "0s")
        assert [running.ask(each, connection)[0] for each in (first, second, third)] == [401, 401, 200]
        assert running.chromactl("revoke", "app").code == 0
        assert [running.ask(each, connection)[0] for each in (first, second, third)] == [401, 401, 401]
    finally:
        ended.set()
        thread.join()
    assert seen == {(200, True)}
    assert connection.sock.getsockname() == at_first
    connection.close()
    running.assert_whole()


def test_tokens_are_there_after_a_start_of_the_gateway(host: Host) -> None:
    text = host.add("app", "--tenant", "a", "--database", "b", "--database", "c")
    assert "the gateway does not run" in host.chromactl("add", "another", "--role", "metrics").output
    host.start()
    assert host.ask(text) == (200, "app|rw|a/b,a/c|0|*")
    host.assert_whole()


@pytest.mark.parametrize(
    "left",
    [
        "del map {map} {key}",
        "set map {map} {key} app|admin|*/*|0|*",
        "add map {map} {key} x",
        "set map {map} {key} a\\ b",
    ],
)
def test_gateway_that_has_something_else_is_put_right(running: Host, left: str) -> None:
    text = running.add("app")
    running.add("other")
    running.tell(left.format(map=running.map, key=tokens.hashed(text).sha256))
    running.tell(f"add map {running.map} {'0' * 64} old|admin|*/*|0|*")
    assert running.chromactl("list").code == 0
    running.assert_whole()


KILLED = """
import os, signal, sys
at, words = int(sys.argv[1]), sys.argv[2:]
count = 0
def hook(event, arguments):
    global count
    if event in ("os.rename", "os.chmod", "os.chown", "os.remove", "socket.connect") or (
        event in ("open", "fcntl.flock") and "tokens" in str(arguments[0] if event == "open" else "tokens")
    ):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
sys.argv = ["chromactl", *words]
from chromad import chromactl
chromactl.main()
"""


@pytest.mark.parametrize("verb", ["add", "rotate", "revoke"])
def test_killed_at_each_step(running: Host, verb: str) -> None:
    """What is asked next of the tokens puts right what was left."""
    stays = running.put("stays")
    options = ["--role", "ro"] if verb == "add" else []
    killed = 0
    for at in range(1, 200):
        before = "" if verb == "add" else running.put("app")
        words = ["--config", str(running.config), "token", verb, "app", *options]
        argv = [sys.executable, "-c", KILLED, str(at), *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        there = [each["name"] for each in running.chromactl("list", "--json").json()["tokens"]]
        running.assert_whole()
        assert (running.ask(stays)[0], "stays" in there) == (200, True)
        if verb == "revoke":
            # All of it or nothing of it
            assert running.ask(before)[0] == (200 if "app" in there else 401)
        elif verb == "rotate":
            assert running.ask(before)[0] == 200
        running.take("app")
    else:
        pytest.fail("it never came to its end")
    assert killed > 10
    # What was begun a moment ago may be another writer's.
    time.sleep(1.1)
    running.put("later")
    running.assert_whole()
    left = {path.name for path in running.directory.iterdir()}
    assert left == {token_store.FILE, token_store.MAP, token_store.LOCK}


def test_text_is_nowhere(running: Host) -> None:
    """Neither in a command line, nor in a file, nor in what the gateway says."""
    with watched("chr_") as watch:
        texts = [running.add("app"), running.text("rotate", "app")]
        texts.append(running.chromactl("add", "other", "--role", "ro", "--json").json()["token"])
        for each in texts:
            assert running.ask(each)[0] == 200
        outputs = [running.chromactl("list", *words).output for words in ([], ["--json"])]
        outputs += [running.chromactl("revoke", "app").output, running.tell(f"show map {running.map}")]
    assert {"chromactl", "haproxy"} & watch.seen, "the watch is fast enough"
    assert not watch.commands
    assert not watch.environments
    for path in running.root.rglob("*"):
        if path.is_file():
            outputs.append(path.read_text())
            assert not path.stat().st_mode & 0o007 or path.parent == running.root
    for each in texts:
        assert not any(each in output for output in outputs)


def test_gateway_that_does_not_answer(running: Host) -> None:
    """The files are written, the text is not lost, and the exit code says that it does not hold yet."""
    assert running.gateway
    running.gateway.send_signal(signal.SIGSTOP)
    done = subprocess.run(running.argv("add", "app", "--role", "ro"), capture_output=True, text=True, check=False)
    as_json = running.chromactl("add", "other", "--role", "ro", "--json")
    running.gateway.send_signal(signal.SIGCONT)
    assert done.returncode == 75
    assert re.fullmatch(r"chr_[A-Za-z0-9_-]{43}\n", done.stdout)
    assert "app is made" in done.stderr
    assert "the gateway gave no answer" in done.stderr
    assert "HINT: the files are written" in done.stderr
    assert as_json.code == 75
    assert as_json.json()["token"].startswith("chr_")
    assert "gave no answer" in as_json.json()["problem"]
    assert running.chromactl("list").code == 0
    running.assert_whole()
    assert running.ask(done.stdout.strip())[0] == 200


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_text_of_one_who_is_interrupted_is_not_lost(running: Host, words: list[str]) -> None:
    assert running.gateway
    running.gateway.send_signal(signal.SIGSTOP)
    argv = running.argv("add", "app", "--role", "ro", *words)
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: "app" in running.map.read_text(), "the files")
    process.send_signal(signal.SIGINT)
    running.gateway.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted by SIGINT: app is made" in output + errors
    found = re.search(r"chr_[A-Za-z0-9_-]{43}", output)
    assert found
    assert running.ask(found[0])[0] == 200
    running.assert_whole()


def test_gateway_of_another_directory(running: Host) -> None:
    other = running.root / "other"
    other.mkdir(mode=0o750)
    running.config.write_text(running.config.read_text().replace(str(running.directory), str(other)))
    result = running.chromactl("list")
    assert result.code == 1
    assert f"does not show the map {other}/tokens.map" in result.output
    assert "HINT" in result.output


def test_gateway_that_refuses(host: Host) -> None:
    """As one that takes the values of its map for numbers."""
    path = host.root / "haproxy.cfg"
    path.write_text(path.read_text().replace("map_str(", "map_str_int("))
    host.start()
    done = subprocess.run(host.argv("add", "app", "--role", "ro"), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(r"chr_[A-Za-z0-9_-]{43}\n", done.stdout)
    assert "app is made" in done.stderr
    assert f"did not take over all of {host.map}" in done.stderr
    assert "HINT" in done.stderr
    host.assert_files_whole()
    assert host.chromactl("list").code == 1


def test_what_listens_there_is_no_gateway(host: Host) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.admin))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"\x1b[2J hello\n")

        thread = threading.Thread(target=answer)
        thread.start()
        result = host.chromactl("list")
        thread.join()
    assert result.code == 1
    assert "\x1b" not in result.output
    assert "HINT" in result.output


def test_two_admins_at_once(running: Host) -> None:
    adding = [
        subprocess.Popen(running.argv("add", f"app{number}", "--role", "ro"), stdout=subprocess.PIPE, text=True)
        for number in range(6)
    ]
    texts = [each.communicate(timeout=120)[0].strip() for each in adding]
    assert [each.returncode for each in adding] == [0] * 6
    assert [running.ask(each)[1].split("|")[0] for each in texts] == [f"app{number}" for number in range(6)]
    running.assert_whole()


def test_list(running: Host) -> None:
    assert "there are no tokens" in running.chromactl("list").output
    running.add("app", "--expires", "90d", "--from", "10.0.0.0/8", "--from", "::1")
    running.add("brief", "--expires", "2d")
    running.text("add", "page", "--role", "metrics")
    running.text("rotate", "app")
    found = {each["name"]: each for each in running.chromactl("list", "--json").json()["tokens"]}
    app = found["app"]
    assert (app["role"], app["scopes"], app["networks"]) == ("rw", [ALL], ["10.0.0.0/8", "::1/128"])
    assert {name: each["state"] for name, each in found.items()} == {
        "app": "active",
        "brief": "expires",
        "page": "active",
    }
    assert app["former_until"]
    shown = running.chromactl("list").output
    assert re.search(rf"app +rw +{ALL} +10.0.0.0/8 +{re.escape(app['expires'])} +active, its former text", shown)
    assert re.search(r"page +metrics +never +active", shown)


def test_token_for_a_certificate(running: Host) -> None:
    """It has no text, and what the gateway finds it by is nothing that a request could bring."""
    done = subprocess.run(
        running.argv("add", "batch", "--role", "rw", "--certificate"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "batch is made, for a certificate with CN=batch: rw in" in done.stderr
    assert running.known() == {"certificate:batch": f"batch|rw|{ALL}|0|*"}
    running.assert_whole()
    for text in ("batch", "certificate:batch", ""):
        assert running.ask(text)[0] == 401
    [found] = running.chromactl("list", "--json").json()["tokens"]
    assert (found["certificate"], found["state"], found["former_until"]) == (True, "active", None)
    assert re.search(rf"batch +rw +{ALL} +never +active, by certificate", running.chromactl("list").output)
    rotated = running.chromactl("rotate", "batch")
    assert (rotated.code, "HINT: the authority of the certificate renews it" in rotated.output) == (78, True)
    for words in (["--certificate"], []):
        again = running.chromactl("add", "batch", "--role", "ro", *words)
        assert (again.code, "HINT: chromactl token revoke batch first" in again.output) == (78, True)
    made = running.chromactl("add", "brief", "--role", "ro", "--certificate", "--expires", "90d", "--json").json()
    assert (made["name"], made["token"], made["certificate"]) == ("brief", None, True)
    assert running.chromactl("revoke", "batch").code == 0
    assert list(running.known()) == ["certificate:brief"]


def test_expired_token_is_shown_and_cannot_be_rotated(running: Host) -> None:
    running.add("app", "--expires", "90d")
    path = running.directory / token_store.FILE
    path.write_text(re.sub(r'"expires": "2\d{3}', '"expires": "2020', path.read_text()))
    # Long ago: it is forgotten.
    assert running.chromactl("list", "--json").json()["tokens"] == []
    running.add("app", "--expires", "1d")
    document = json.loads(path.read_text())
    document["tokens"][0]["expires"] = document["tokens"][0]["created"]
    path.write_text(json.dumps(document))
    assert running.chromactl("list", "--json").json()["tokens"][0]["state"] == "expired"
    result = running.chromactl("rotate", "app")
    assert result.code == 78
    assert "has expired" in result.output
    assert "HINT: say for how long it is to live" in result.output
    renewed = running.text("rotate", "app", "--expires", "90d")
    assert running.ask(renewed)[0] == 200
    assert [each["state"] for each in running.chromactl("list", "--json").json()["tokens"]] == ["active"]
    running.assert_whole()


def test_doctor(running: Host) -> None:
    def said() -> dict[str, tuple[str, str]]:
        argv = [str(BIN / "chromactl"), "--config", str(running.config), "doctor", "--json"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        found = {each["name"]: each for each in json.loads(done.stdout)}
        return {name: (found[name]["status"], found[name]["fact"]) for name in ("tokens", "gateway") if name in found}

    text = running.add("app", "--expires", "90d")
    running.add("other")
    assert said() == {
        "tokens": ("ok", "2 tokens, none expires within 14 days"),
        "gateway": ("ok", "it runs and has the tokens"),
    }
    running.add("brief", "--expires", "2d")
    running.tell(f"del map {running.map} {tokens.hashed(text).sha256}")
    found = said()
    assert (found["tokens"][0], found["gateway"][0]) == ("warn", "fail")
    assert "brief expires " in found["tokens"][1]
    assert "app" not in found["tokens"][1]
    assert running.chromactl("list").code == 0
    assert said()["gateway"][0] == "ok"
    status = [str(BIN / "chromactl"), "--config", str(running.config), "status"]
    shown = subprocess.run(status, capture_output=True, text=True, check=False, timeout=120).stdout
    assert re.search(r"^  gateway +it runs and has the tokens *$", shown, re.MULTILINE)
    assert re.search(r"^  tokens +brief expires ", shown, re.MULTILINE)
    document = subprocess.run([*status, "--json"], capture_output=True, text=True, check=False, timeout=120).stdout
    assert json.loads(document)["gateway"]["gateway"] == "it runs and has the tokens"
    running.stop()
    assert said()["gateway"] == ("warn", "it does not run: nobody gets in")
    (running.directory / token_store.FILE).write_text("{")
    assert said()["tokens"][0] == "fail"
    shutil.rmtree(running.directory)
    assert said() == {}


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        (["add", "App", "--role", "ro"], 2, "is no name of a token"),
        (["add", "there", "--role", "ro"], 78, "there is a token there"),
        (["add", "app", "--role", "root"], 2, "--role"),
        (["add", "app"], 2, "--role"),
        (["add", "app", "--role", "ro", "--tenant", "a/b"], 2, "is no tenant"),
        (["add", "app", "--role", "ro", "--expires", "2020-01-01"], 2, "is over"),
        (["add", "app", "--role", "ro", "--from", "10.0.0.1/8"], 2, "is an address in a network"),
        (["revoke", "app"], 78, "there is no token app"),
        (["rotate", "app"], 78, "there is no token app"),
        (["rotate", "there", "--keep", "long"], 2, "--keep"),
    ],
)
def test_what_cannot_be_meant(host: Host, words: list[str], code: int, fact: str) -> None:
    host.add("there")
    before = (host.directory / token_store.FILE).read_bytes()
    result = host.chromactl(*words)
    assert result.code == code
    assert fact in result.output
    as_json = host.chromactl(*words, "--json")
    assert (as_json.code, as_json.json()["exit_code"]) == (code, code)
    assert (host.directory / token_store.FILE).read_bytes() == before


@pytest.mark.parametrize("word", [word for word in NASTY if word.strip()])
def test_anything_on_the_command_line(host: Host, commands: Commands, word: str) -> None:
    host.put("there")
    for codes, words in (
        ((0, 2), ["add", "--role=ro", "--", word]),
        ((2,), ["add", "app", f"--role={word}"]),
        ((2,), ["add", "app", "--role=ro", f"--expires={word}"]),
        ((2,), ["add", "app", "--role=ro", f"--from={word}"]),
        ((2,), ["rotate", "there", f"--keep={word}"]),
        ((0, 78), ["revoke", "--", word]),
        ((0, 2), ["add", "app", "--role=ro", f"--tenant={word}", f"--database={word}"]),
    ):
        told = commands.run("chromactl", "--config", str(host.config), "token", *words)
        assert told.code in codes, (words, told.output)
        assert "\x1b" not in told.output
        assert told.code == 0 or "HINT" in told.output or "Usage" in told.output
    host.assert_files_whole()


def test_no_gateway(host: Host) -> None:
    host.directory.rmdir()
    result = host.chromactl("add", "app", "--role", "ro")
    assert result.code == 78
    assert "this host has no gateway" in result.output
    assert "chr_" not in result.output


def test_for_root_alone(host: Host) -> None:
    for words in (["list"], ["add", "app", "--role", "ro"], ["revoke", "app"], ["rotate", "app"]):
        process = popen(host.argv(*words), stranger(), subprocess.PIPE)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 77, output
        assert b"only root" in output
        assert b"HINT: sudo chromactl" in output


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, True), (0o600, False)])
def test_file_that_others_can_read(host: Host, mode: int, warned: bool) -> None:
    path = host.root / "text"
    with open(path, "w") as file:
        os.fchmod(file.fileno(), mode)
        done = subprocess.run(host.argv("add", "app", "--role", "ro"), stdout=file, stderr=subprocess.PIPE, check=True)
    assert (b"umask 077" in done.stderr) is warned
    assert re.fullmatch(r"chr_[A-Za-z0-9_-]{43}\n", path.read_text())


def test_text_that_could_not_be_written_is_said(host: Host) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(host.argv("add", "app", "--role", "ro"), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"the text of app could not be written" in done.stderr
    assert b"HINT: nobody has it" in done.stderr


def test_many_tokens(running: Host) -> None:
    """Ten thousand: a change is a matter of a second or two."""
    path = running.directory / token_store.FILE
    running.add("app")
    [one] = json.loads(path.read_text())["tokens"]
    more = [
        {**one, "name": f"app-{number}", "secrets": [{"sha256": f"{number:064X}", "expires": ""}]}
        for number in range(10_000)
    ]
    path.write_text(json.dumps({"format": 1, "tokens": [one, *more]}))
    assert running.chromactl("list", "--json").code == 0
    running.assert_whole()
    text = running.add("last")
    assert running.ask(text)[0] == 200
    assert running.chromactl("revoke", "last").code == 0
    assert running.ask(text)[0] == 401
    running.assert_whole()
