"""A gateway for one test: the role's own HAProxy configuration and Lua file before a real service, with tokens of one's own.

A stand-in answers the questions that HAProxy puts to chromad, from the database of the site.
"""

import contextlib
import hashlib
import json
import secrets
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chromadb
import httpx
import yaml
from ansible.parsing.dataloader import DataLoader  # type: ignore[import-untyped]
from ansible.template import Templar, trust_as_template  # type: ignore[import-untyped]
from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings

from tests import packages
from tests.integration.account import until
from tests.integration.certificates import make_certificate
from tests.integration.clients import close
from tests.integration.site import Site, free_port

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

ROLE = Path(__file__).resolve().parents[2] / "ansible/roles/chromadb_gateway"
NAMES = ["localhost", "127.0.0.1"]


class Answers:
    """What chromad says of its collections, on its socket. fences, generation: what it says to these; None: it does not say."""

    def __init__(self, path: Path, site: Site) -> None:
        self.fences = "-"
        self.generation = "1"
        self.asked: list[str] = []
        self.trouble = ""
        self._site = site
        self._path = path
        self._listening: socket.socket | None = None
        self.open()

    def open(self) -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self._path))
        self._path.chmod(0o666)
        listening.listen(64)
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def close(self) -> None:
        """Nobody answers any more."""
        assert self._listening
        self._path.unlink(missing_ok=True)
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            for line in stream:
                words = line.decode("ascii").split()
                self.asked.append(line.decode("ascii").strip())
                with contextlib.suppress(BrokenPipeError):
                    stream.write(self._answer(words).encode("ascii") + b"\n")
                    stream.flush()

    def _answer(self, words: list[str]) -> str:
        if words == ["fences"]:
            return self.fences
        if words == ["generation"]:
            return self.generation
        if len(words) == 2 and words[0] == "owner":
            return self.trouble or self._owner(words[1])
        return "!unknown"

    def _owner(self, collection: str) -> str:
        connection = sqlite3.connect(f"file:{self._site.data}/chroma.sqlite3?mode=ro", uri=True, timeout=30)
        try:
            row = connection.execute(
                "SELECT databases.tenant_id, databases.name FROM collections JOIN databases"
                " ON collections.database_id = databases.id WHERE collections.id = ?",
                (collection,),
            ).fetchone()
        finally:
            connection.close()
        return "/".join(row) if row else "-"


class Token(str):
    """The text of a token; `line` of the map."""

    line: str


class Gateway:
    """HAProxy with the role's configuration, on a port of the loopback address."""

    def __init__(
        self,
        engine_port: int,
        answers: Path,
        variables: Mapping[str, object] = {},
        files: Mapping[str, bytes] = {},
    ) -> None:
        """files: that lie beside the configuration, by name."""
        packages.need({"haproxy": "haproxy", "openssl": "openssl"})
        self.root = Path(tempfile.mkdtemp(prefix="chromad-gateway-"))
        self.port, self.metrics_port = free_port(), free_port()
        self.certificate = self.root / "tls.pem"
        self.map = self.root / "tokens.map"
        self.admin = self.root / "admin.sock"
        self._tokens: dict[str, Token] = {}
        self._log = self.root / "log"
        make_certificate(self.certificate)
        self.map.touch()
        for name, content in files.items():
            (self.root / name).write_bytes(content)
        for path in (ROLE / "files").glob("*.lua"):
            (self.root / path.name).write_bytes(path.read_bytes())
        known = {
            "chromadb_listen_port": engine_port,
            "chromadb_gateway_listen": ["127.0.0.1"],
            "chromadb_gateway_port": self.port,
            "chromadb_gateway_metrics_port": self.metrics_port,
            "chromadb_gateway_names": NAMES,
            "_chromadb_gateway_dir": str(self.root),
            "_chromadb_gateway_run": str(self.root),
            "_chromadb_gateway_answers": str(answers.parent),
        }
        self.configuration = self.root / "haproxy.cfg"
        self.configuration.write_text(rendered("haproxy.cfg.j2", {**known, **variables}))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Gateway":
        with open(self._log, "ab") as output:
            self.process = subprocess.Popen(
                ["haproxy", "-W", "-db", "-f", self.configuration], stdout=output, stderr=subprocess.STDOUT
            )
        until(self._answers, f"HAProxy\n{self.log}", 20)
        # The master executes itself once more, and hears of no reload meanwhile.
        time.sleep(0.5)
        return self

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        shutil.rmtree(self.root)

    def check(self) -> str:
        """What HAProxy has against its configuration."""
        done = subprocess.run(
            ["haproxy", "-c", "-q", "-f", self.configuration], capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    @property
    def workers(self) -> list[int]:
        """Also those that are on their way out."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(each) for each in children]

    def reload(self) -> None:
        """As the unit does it; waits for the new worker to listen."""
        assert self.process
        # One that is asked for right after another one is not heard, see start.
        time.sleep(0.5)
        before = set(self.workers)
        self.process.send_signal(signal.SIGUSR2)

        def told() -> bool:
            pid = self.told("show info").split("\nPid: ")[1].split()[0]
            return int(pid) not in before

        until(told, f"a new worker\n{self.log[-3000:]}", 20)

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.log
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return "Loading success" in self.log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def logged(self) -> list[dict[str, Any]]:
        """The access log."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def told(self, command: str) -> str:
        """What HAProxy says to a command on its socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.admin))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def token(
        self,
        name: str,
        role: str,
        scopes: str = "*/*",
        expires: float = 0,
        networks: str = "*",
        text: str = "",
        tell: bool = True,
        certificate: bool = False,
    ) -> Token:
        """A new token, which holds from now on. tell: HAProxy, not the file alone. certificate: for one of a client."""
        token = Token(text or f"chr_{secrets.token_urlsafe(32)}")
        key = f"certificate:{name}" if certificate else hashlib.sha256(token.encode()).hexdigest().upper()
        token.line = f"{key} {name}|{role}|{scopes}|{int(expires)}|{networks}"
        self._tokens[key] = token
        self._write()
        if self.process and tell:
            assert not self.told(f"add map {self.map} {token.line}").strip()
        return token

    def change(self, token: Token, value: str) -> None:
        """Gives it other rights, in the file alone."""
        token.line = f"{token.line.split()[0]} {value}"
        self._write()

    def revoke(self, token: Token, tell: bool = True) -> None:
        key = token.line.split()[0]
        del self._tokens[key]
        self._write()
        if tell:
            assert not self.told(f"del map {self.map} {key}").strip()

    def _write(self) -> None:
        self.map.write_text("".join(f"{each.line}\n" for each in self._tokens.values()))

    def http(self, token: str | None = None, **options: Any) -> httpx.Client:
        """Requests that come with the token, if there is one."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            verify=options.pop("verify", None) or ssl.create_default_context(cafile=self.certificate),
            headers={**headers, **options.pop("headers", {})},
            timeout=120,
            **options,
        )

    @contextmanager
    def client(
        self, token: str, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE
    ) -> Iterator["ClientAPI"]:
        """The official client."""
        settings = Settings(anonymized_telemetry=False, chroma_server_ssl_verify=str(self.certificate))
        client = chromadb.HttpClient(
            "127.0.0.1",
            self.port,
            ssl=True,
            headers={"Authorization": f"Bearer {token}"},
            settings=settings,
            tenant=tenant,
            database=database,
        )
        try:
            yield client
        finally:
            close(client)


def rendered(template: str, variables: Mapping[str, object]) -> str:
    """What a template of the role comes to, with its defaults and these variables."""
    return text((ROLE / "templates" / template).read_text(), variables)


def text(source: str, variables: Mapping[str, object]) -> str:
    """The same for a template that is in no file."""
    return str(_templar(variables).template(trust_as_template(source)))


def variable(name: str, variables: Mapping[str, object]) -> object:
    """What a variable of the role comes to, likewise."""
    return _templar(variables).template(trust_as_template("{{ " + name + " }}"))


def _templar(variables: Mapping[str, object]) -> Templar:
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    internal = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    internal = {key: trust_as_template(value) if isinstance(value, str) else value for key, value in internal.items()}
    known = {"ansible_managed": "by a role", "inventory_hostname": "localhost", "role_path": str(ROLE)}
    return Templar(loader=DataLoader(), variables={**known, **defaults, **internal, **variables})


def later(seconds: float) -> float:
    """A time from now, as tokens expire."""
    return time.time() + seconds
