"""A booted host with a gateway, as its administrator and its clients have it."""

import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING

import chromadb
from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT, Settings

from tests.hosts.host import Host
from tests.integration.clients import close

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

PORT = 8443


class GatewayHost:
    """HOST by its name; the gateway has an authority of its own, and its certificate is for the host's address as well."""

    def __init__(self, name: str) -> None:
        self.host = Host(name)
        self.address = str(IPv4Interface(self.host.facts["address"]).ip)
        # It goes with this object.
        self._directory = tempfile.TemporaryDirectory(prefix="chromad-gateway-host-")
        self.certificate = Path(self._directory.name, "ca.pem")
        self.certificate.write_text(self.sudo("cat /etc/chromadb/gateway/ca.pem"))

    def run(self, command: str, given: str = "", *, check: bool = True) -> str:
        """What a command of the administrator's prints. Raises SystemExit with what it says when it fails."""
        done = subprocess.run(
            self.host.ssh_command(command),
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            check=False,
        )
        if check and done.returncode:
            raise SystemExit(f"{command[:200]}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def sudo(self, command: str, given: str = "", *, check: bool = True) -> str:
        """The same as root, in a shell."""
        return self.run(f"sudo sh -ec {shlex.quote(command)}", given, check=check)

    @contextmanager
    def client(
        self, token: str, tenant: str = DEFAULT_TENANT, database: str = DEFAULT_DATABASE
    ) -> Iterator["ClientAPI"]:
        """The official client, on this machine."""
        settings = Settings(anonymized_telemetry=False, chroma_server_ssl_verify=str(self.certificate))
        headers = {"Authorization": f"Bearer {token}"}
        client = chromadb.HttpClient(
            self.address, PORT, ssl=True, headers=headers, settings=settings, tenant=tenant, database=database
        )
        try:
            yield client
        finally:
            close(client)
