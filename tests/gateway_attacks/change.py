"""A run of the playbook that changes nearly all that a gateway trusts and shows, as an administrator runs it who wants to see what it does."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.gateway_attacks.trusted import Trusted
from tests.gateway_host import GatewayHost
from tests.hosts.host import inventory

_ROOT = Path(__file__).resolve().parents[2]
_PLAY = _ROOT / "tests/molecule/gateway/converge.yml"
# Without it there is a new certificate.
_NAMES = "/etc/chromadb/gateway/own.names"


def run(host: GatewayHost, trusted: Trusted, token: str) -> str:
    """New keys of the identity provider, a new authority of clients, a new certificate of the gateway's, and applications with a token.

    Gives what ansible-playbook has printed with --diff -v.
    """
    host.sudo(f"rm -f {_NAMES} /etc/chromadb/client.yml; umask 077; cat >/etc/chromadb/token", token + "\n")
    with tempfile.TemporaryDirectory(prefix="chromad-change-") as name:
        directory = Path(name)
        (directory / "hosts.json").write_text(inventory([host.host]))
        trusted.write(directory / "trusted")
        variables = {
            "trusted": directory / "trusted",
            "chromadb_gateway_applications": "true",
            "chromadb_gateway_applications_host": "127.0.0.1",
        }
        done = subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                *("-i", directory / "hosts.json", "--diff", "-v", "--tags", "gateway"),
                *(word for each, value in variables.items() for word in ("-e", f"{each}={value}")),
                _PLAY,
            ],
            cwd=_ROOT / "ansible",
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(_ROOT / "ansible/ansible.cfg")},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    said = done.stdout + done.stderr
    if done.returncode:
        raise SystemExit(f"the playbook has failed: {said[-3000:]}")
    # Otherwise it has printed nothing of what it could.
    # The authority of clients is not among these, since a unit takes it at once.
    for task in (
        "Put it on the host",
        "Take the keys of the identity provider",
        "Take the certificate",
        "Write client.yml",
    ):
        part = said.partition(f"{task}]")[2].partition("\nTASK [")[0]
        if not part or "changed: [" not in part:
            raise SystemExit(f"the playbook has not changed what {task!r} is for: {part[:1000]}")
    return said
