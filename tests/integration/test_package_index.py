"""A host takes its packages from an index behind a proxy, and gets the keys of its backups: of the secrets in the roles' variables nothing
is to be read in what plays say, in command lines or in the journal."""

import base64
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.hosts import network
from tests.hosts.host import Host, inventory
from tests.hosts.system import prepare_controller
from tests.hosts.wheelhouse import wheelhouse
from tests.integration.account import AS_ROOT, BIN

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
CERTIFICATES = "/etc/index.pem"


_KNOWN = ["reader:index-secret-real", "host:proxy-secret-real"]


class _Proxy(BaseHTTPRequestHandler):
    """A proxy, before an index of the wheels in `files`, which has no name but there."""

    files: Path
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        asked = [self.headers.get("Authorization", ""), self.headers.get("Proxy-Authorization", "")]
        said = [base64.b64decode(each.removeprefix("Basic ")).decode() for each in asked]
        self.asked.append((said[0], said[1]))
        url = urlsplit(self.path)
        name = unquote(url.path.rstrip("/").rpartition("/")[2])
        if url.hostname != "packages.test" or said != _KNOWN:
            self._answer(407 if said[1] != _KNOWN[1] else 401, b"")
        elif url.path.startswith("/files/"):
            self._answer(200, (self.files / name).read_bytes())
        else:
            wanted = [each.name for each in self.files.iterdir() if _normal(each.name.split("-")[0]) == _normal(name)]
            self._answer(200, "".join(f'<a href="/files/{each}">{each}</a>' for each in wanted).encode())

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        if code == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def bare() -> Iterator[Host]:
    if not AS_ROOT:
        pytest.skip("boots a host, which takes root")
    prepare_controller()
    host = Host("package-index")
    host.down()
    host.up("debian12", wheels=False)
    _on(host, f"sudo cp /etc/ssl/certs/ca-certificates.crt {CERTIFICATES}")
    yield host
    host.down()


@pytest.fixture(scope="module")
def proxy(bare: Host) -> Iterator[str]:
    _Proxy.files, _Proxy.asked = wheelhouse("debian12"), []
    server = ThreadingHTTPServer((str(network.bridge().ip), 0), _Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"{server.server_address[0]!s}:{server.server_address[1]}"
    server.shutdown()


def test_every_variable_that_may_hold_a_secret_is_planted(bare: Host) -> None:
    specs = [yaml.safe_load(path.read_text()) for path in ANSIBLE.glob("roles/*/meta/argument_specs.yml")]
    options = {name: option for spec in specs for name, option in spec["argument_specs"]["main"]["options"].items()}
    # What is refused when it has one has no place for it; everything else says so, or takes what cannot hold one.
    assert {name for name, option in options.items() if option.get("no_log")} == set(_planted(bare, "", "x"))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("chromadb_backup_repository", "rest:https://vault:SECRET@vault.test:8000/one/"),
        ("chromadb_backup_copy_repository", "s3:https://name:SECRET@bucket.test/one"),
        ("chromadb_backup_copy_repository", "rest:https://vault:SECRET/of@it@vault.test/one/"),
        ("chromadb_backup_repository", "rclone:,type=s3,secret_access_key=SECRET:one"),
        ("chromadb_pip_arguments", ["--extra-index-url", "https://reader:SECRET@packages.test/simple/"]),
        ("chromadb_pip_arguments", ["--proxy", "host:SECRET@proxy.test:3128"]),
    ],
)
def test_where_secrets_have_no_place_they_are_refused_and_not_said(
    bare: Host, tmp_path: Path, variable: str, value: str | list[str]
) -> None:
    secret = "refused-secret"
    planted = json.loads(json.dumps({variable: value}).replace("SECRET", secret))
    done, seen = _play(bare, tmp_path, planted, "--check")
    assert done.returncode != 0
    assert "HINT: " in done.stdout
    assert "changed=0 " in done.stdout
    _assert_unsaid(done.stdout + done.stderr + seen, [secret])


def test_what_fails_says_why_and_no_password(bare: Host, proxy: str, tmp_path: Path) -> None:
    planted = _index(proxy, "elsewhere.test", "failing")
    done, seen = _play(bare, tmp_path, planted | _PIP)
    assert done.returncode != 0
    assert "Packages could not be installed" in done.stdout
    assert "No matching distribution found" in done.stdout
    assert '"lock_timeout": 61' in done.stdout
    _assert_unsaid(done.stdout + done.stderr + seen, _secrets(planted))


def test_dry_run_on_a_bare_host_says_no_secret(bare: Host, proxy: str, tmp_path: Path) -> None:
    planted = _planted(bare, proxy, "dry")
    done, seen = _play(bare, tmp_path, planted | _PIP | _second(bare), "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    _assert_unsaid(done.stdout + done.stderr + seen, _secrets(planted))


def test_packages_come_from_it_and_secrets_stay(bare: Host, proxy: str, tmp_path: Path) -> None:
    planted = _planted(bare, proxy, "real")
    done, seen = _play(bare, tmp_path, planted | _PIP | _second(bare))
    assert done.returncode == 0, done.stdout + done.stderr
    assert tuple(_KNOWN) in _Proxy.asked
    # The arguments of pip, and its certificates: of the first by the list of processes, of the others by the environment.
    assert re.search(r"pip.* install .*--timeout 61 ", seen)
    assert f"PIP_CERT={CERTIFICATES}" in seen
    # They have come to where they belong,
    for path in ("backup.key", "backup.env", "backup_ssh_key", "on-failure"):
        assert re.search("-secret-real|PRIVATE KEY", _on(bare, f"sudo cat /etc/chromadb/{path}")), path
    # and have stayed there, while a backup is taken into both repositories and a failure is told.
    verbs = "sudo chromactl backup; sudo systemctl start chromadb-failure@chromadb.service; sudo chromactl config show"
    with _watching() as meanwhile:
        told = _on(bare, verbs)
    elsewhere = (
        "/opt/chromadb/venv/pyvenv.cfg /etc/apt /etc/systemd /tmp /var/tmp /run /home/admin/.ansible /root/.ansible"
    )
    left = _on(
        bare,
        f"sudo journalctl --boot --no-pager --output export --all; sudo grep --recursive --text -e -secret- {elsewhere}",
    )
    _assert_unsaid(done.stdout + done.stderr + seen + told + left + "".join(meanwhile), _secrets(planted))
    assert json.loads(_on(bare, "sudo chromactl --json backups"))["backups"][0]["proven"]


@pytest.mark.one_a_day
@pytest.mark.parametrize("playbook", ["site.yml", "upgrade.yml", "remove.yml"])
def test_dry_runs_with_other_secrets_say_neither(bare: Host, proxy: str, tmp_path: Path, playbook: str) -> None:
    """A difference would have both."""
    former, planted = _planted(bare, proxy, "real"), _planted(bare, proxy, "other")
    # One that differs from what is there is refused.
    planted["chromadb_backup_key"] = former["chromadb_backup_key"]
    done, seen = _play(bare, tmp_path, planted | _PIP | _second(bare), "--check", playbook=playbook)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0 " not in done.stdout or playbook == "upgrade.yml"
    _assert_unsaid(done.stdout + done.stderr + seen, [*_secrets(former), *_secrets(planted)])


# What goes with them: arguments of pip, and a second repository, which the host has itself.
_PIP: dict[str, object] = {
    "chromadb_pip_cert": CERTIFICATES,
    "chromadb_apt_lock_timeout": 61,
    "chromadb_pip_arguments": ["--timeout", "61", "--retries", "0", "--trusted-host", "packages.test"],
}


def _second(host: Host) -> dict[str, object]:
    server = (host.files / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    return {
        "chromadb_backup_copy_repository": "sftp:admin@127.0.0.1:second",
        "chromadb_backup_known_hosts": f"127.0.0.1 {server}",
    }


def _index(proxy: str, host: str, which: str) -> dict[str, object]:
    """An index behind a proxy. which: a word that all these secrets have, and no others."""
    return {
        "chromadb_index_url": f"http://reader:index-secret-{which}@{host}/simple/",
        "chromadb_proxy_env": {"http_proxy": f"http://host:proxy-secret-{which}@{proxy}"},
    }


def _planted(host: Host, proxy: str, which: str) -> dict[str, object]:
    """All variables that may hold secrets, with some."""
    return _index(proxy, "packages.test", which) | {
        "chromadb_failure_command": f"#!/bin/sh\nTOKEN=command-secret-{which}\n",
        "chromadb_backup_key": f"key-secret-{which}",
        "chromadb_backup_environment": {
            "AWS_SECRET_ACCESS_KEY": f"bucket-secret-{which}",
            "RESTIC_REST_PASSWORD": f"rest-secret-{which}",
        },
        "chromadb_backup_ssh_key": (host.directory / "key").read_text(),
    }


def _secrets(planted: dict[str, object]) -> list[str]:
    lines = str(planted.get("chromadb_backup_ssh_key", "")).splitlines()
    # Whoever has the first line of it knows what kind of key it is.
    return [*re.findall(r"\w+-secret-\w+", json.dumps(planted)), *lines[2:-1]]


def _assert_unsaid(text: str, secrets: list[str]) -> None:
    """As they are, or within what somebody has encoded in base64."""
    assert secrets
    words = {
        base64.b64encode(b"x" * shift + each.encode())[4:-4].decode(): each for each in secrets for shift in range(3)
    }
    assert [secret for secret in secrets if secret in text] == []
    assert [secret for word, secret in words.items() if word in text] == []


def _play(
    host: Host, tmp_path: Path, variables: dict[str, object], *options: str, playbook: str = "site.yml"
) -> "tuple[subprocess.CompletedProcess[str], str]":
    """Gives what the play has said, and the command lines of all processes here and there meanwhile, with PIP_CERT of their environments."""
    hosts = json.loads(inventory([host]))
    hosts["chromadb"]["hosts"][host.name] |= variables
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    settings = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    with _watching() as seen:
        done = subprocess.run(
            [
                BIN / "ansible-playbook",
                "-vvv",
                "--diff",
                *options,
                "-i",
                tmp_path / "hosts.json",
                f"playbooks/{playbook}",
            ],
            cwd=ANSIBLE,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
    return done, "".join(seen)


@contextmanager
def _watching() -> Iterator[set[str]]:
    """Collects the command lines of all processes here and there, with PIP_CERT of their environments. The host's are this machine's too."""
    look = 'while sleep 0.2; do cat /proc/[0-9]*/cmdline | tr "\\0" " "; cat /proc/[0-9]*/environ | tr "\\0" "\\n" | grep ^PIP_CERT; done'
    watch = subprocess.Popen(
        ["sh", "-c", look], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    )
    said: set[str] = set()
    reader = threading.Thread(target=lambda: said.update(watch.stdout or []))
    reader.start()
    try:
        yield said
        time.sleep(1)
    finally:
        watch.terminate()
        reader.join()


def _on(host: Host, command: str) -> str:
    done = subprocess.run(host.ssh_command(command), capture_output=True, text=True, errors="replace", check=False)
    return done.stdout


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
