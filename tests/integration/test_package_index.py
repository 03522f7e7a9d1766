"""A host takes its packages from an index behind a proxy, both with passwords, which nobody else gets to read."""

import base64
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.hosts import network
from tests.hosts.host import Host, inventory
from tests.hosts.system import prepare_controller
from tests.hosts.wheelhouse import wheelhouse
from tests.integration.account import AS_ROOT, BIN

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
SECRETS = ("index-secret", "proxy-secret")
CERTIFICATES = "/etc/index.pem"


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
        if url.hostname != "packages.test" or said != ["reader:index-secret", "host:proxy-secret"]:
            self._answer(407 if said[1] != "host:proxy-secret" else 401, b"")
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


def test_what_fails_says_why_and_no_password(bare: Host, proxy: str, tmp_path: Path) -> None:
    done, seen = _install(bare, proxy, tmp_path, index="http://reader:index-secret@elsewhere.test/simple/")
    assert done.returncode != 0
    assert "Packages could not be installed" in done.stdout
    assert "No matching distribution found" in done.stdout
    assert '"lock_timeout": 61' in done.stdout
    assert [secret for secret in SECRETS if secret in done.stdout + done.stderr + seen] == []


def test_packages_come_from_it_and_passwords_stay(bare: Host, proxy: str, tmp_path: Path) -> None:
    done, seen = _install(bare, proxy, tmp_path, index="http://reader:index-secret@packages.test/simple/")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("reader:index-secret", "host:proxy-secret") in _Proxy.asked
    # The arguments of pip, and its certificates: of the first by the list of processes, of the others by the environment.
    assert re.search(r"pip.* install .*--timeout 61 ", seen)
    assert f"PIP_CERT={CERTIFICATES}" in seen
    journal = _on(
        bare, "sudo journalctl --boot --no-pager; sudo grep -r secret /opt/chromadb/venv/pyvenv.cfg /etc/apt /tmp"
    )
    text = done.stdout + done.stderr + seen + journal
    assert [secret for secret in SECRETS if secret in text] == []


def _install(host: Host, proxy: str, tmp_path: Path, index: str) -> "tuple[subprocess.CompletedProcess[str], str]":
    """Gives what the play has said, and the command lines of all processes here and there meanwhile, with PIP_CERT of their environments."""
    hosts = json.loads(inventory([host]))
    hosts["chromadb"]["hosts"][host.name] |= {
        "chromadb_index_url": index,
        "chromadb_proxy_env": {"http_proxy": f"http://host:proxy-secret@{proxy}"},
        "chromadb_pip_cert": CERTIFICATES,
        "chromadb_apt_lock_timeout": 61,
        "chromadb_pip_arguments": ["--timeout", "61", "--retries", "0", "--trusted-host", "packages.test"],
    }
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    look = 'while sleep 0.2; do cat /proc/[0-9]*/cmdline | tr "\\0" " "; cat /proc/[0-9]*/environ | tr "\\0" "\\n" | grep ^PIP_CERT; done'
    # The host's processes are processes of this machine too.
    watch = subprocess.Popen(
        ["sh", "-c", look], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    )
    said: set[str] = set()
    reader = threading.Thread(target=lambda: said.update(watch.stdout or []))
    reader.start()
    settings = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    try:
        done = subprocess.run(
            [BIN / "ansible-playbook", "-vvv", "--diff", "-i", tmp_path / "hosts.json", "playbooks/site.yml"],
            cwd=ANSIBLE,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        time.sleep(1)
    finally:
        watch.terminate()
        reader.join()
    return done, "".join(said)


def _on(host: Host, command: str) -> str:
    return subprocess.run(host.ssh_command(command), capture_output=True, text=True, check=False).stdout


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
