"""client.yml as the role writes it: who reads it, what else of the directory they see, and that one connects by it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import packages
from tests.integration.account import BIN
from tests.integration.gateway import ROLE, Answers, Gateway
from tests.integration.site import Site
from tests.integration.test_gateway_role import PROGRAM, preflight

pytestmark = pytest.mark.root

CONNECT = "from chromad_client import get_client; print(get_client().get_or_create_collection('notes').count())"
# Of a user of no group, and of one of the group
STRANGER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
MEMBER = ("setpriv", "--reuid=65534", "--regid=65534", "--groups=chromadb-clients")


class House:
    """A host's /etc for one test: what is done there is seen by nobody else, and gone with it."""

    def __init__(self, directory: Path) -> None:
        packages.need({"setfacl": "acl", "openssl": "openssl"})
        self.directory = directory
        there = directory / "etc"
        there.mkdir()
        script = (
            f"mount -t tmpfs none {there} && mkdir {there}/upper {there}/work"
            f" && mount -t overlay none -o lowerdir=/etc,upperdir={there}/upper,workdir={there}/work /etc"
            " && echo ready && exec sleep infinity"
        )
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", script], stdout=subprocess.PIPE
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == b"ready\n"
        self.sh("""
            getent group chromadb >/dev/null || groupadd --system chromadb
            getent group chromadb-gateway >/dev/null || groupadd --system chromadb-gateway
            rm -rf /etc/chromadb
            install -d -m 0750 -g chromadb /etc/chromadb
            install -d -m 0750 -g chromadb-gateway /etc/chromadb/gateway
            install -m 0640 -g chromadb /dev/null /etc/chromadb/chromad.yml
            install -m 0400 /dev/null /etc/chromadb/backup.key
            install -m 0644 /dev/null /etc/chromadb/gateway/within
        """)

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = ["nsenter", f"--target={self.process.pid}", "--mount", "--", *words]
        environment = {name: value for name, value in os.environ.items() if name != "CHROMAD_CLIENT"}
        environment |= {"ANSIBLE_ROLES_PATH": str(ROLE.parent), "ANSIBLE_NOCOLOR": "1", "HOME": str(self.directory)}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd="/", timeout=300
        )

    def sh(self, script: str) -> str:
        done = self.run("sh", "-euc", script)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def apply(self, *options: str, fails: bool = False, **variables: object) -> str:
        """What the role says when it applies its part for clients. fails: whether it has to."""
        play = self.directory / "play.yml"
        play.write_text(
            "- hosts: vectors\n  connection: local\n  gather_facts: false\n  tasks:\n"
            "    - ansible.builtin.include_role: {name: chromadb_gateway, tasks_from: client.yml}\n"
        )
        known = {
            "ansible_python_interpreter": sys.executable,
            "ansible_facts": {"os_family": "Debian"},
            "chromadb_gateway_names": ["localhost"],
            **variables,
        }
        words: list[str | Path] = [
            BIN / "ansible-playbook",
            "--inventory",
            "vectors,",
            play,
            "--extra-vars",
            json.dumps(known),
            *options,
        ]
        done = self.run(*words)
        assert (done.returncode == 0) is not fails, done.stdout + done.stderr
        return done.stdout

    def can(self, who: tuple[str, ...], *words: str) -> bool:
        return self.run(*who, *words).returncode == 0

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.end()


def test_members_of_the_group_alone_reach_it_and_nothing_else(house: House) -> None:
    house.sh("echo CA >/etc/chromadb/gateway/ca.pem && chmod 0644 /etc/chromadb/gateway/ca.pem")
    before = house.sh("cat /etc/group; getfacl -p /etc/chromadb")
    assert "changed=0" not in house.apply("--check", "--diff")
    assert house.sh("cat /etc/group; getfacl -p /etc/chromadb; ls /etc/chromadb") == (
        before + "backup.key\nchromad.yml\ngateway\n"
    )
    said = house.apply()
    # As it says that one gives applications a token
    steps = [line.strip(' ",') for line in said.splitlines() if "/etc/chromadb/token" in line and "HINT" not in line]
    assert len(steps) == 2
    house.sh("\n".join(steps).replace("chromactl token add applications --role rw", "echo chr_x"))
    said = house.apply("--diff")
    assert "changed=0" in said
    assert "There is no token" not in said
    assert house.sh("stat -c '%a %U:%G' /etc/chromadb /etc/chromadb/client.yml /etc/chromadb/token").split("\n")[
        :3
    ] == [
        "750 root:chromadb",
        "640 root:chromadb-clients",
        "640 root:chromadb-clients",
    ]
    for name in ("client.yml", "client-ca.pem", "token"):
        assert house.can(MEMBER, "cat", f"/etc/chromadb/{name}"), name
        assert not house.can(MEMBER, "sh", "-c", f">>/etc/chromadb/{name}"), name
        assert not house.can(STRANGER, "cat", f"/etc/chromadb/{name}"), name
    for path in ("chromad.yml", "backup.key", "gateway/within"):
        assert not house.can(MEMBER, "cat", f"/etc/chromadb/{path}"), path
    for who in (MEMBER, STRANGER):
        assert not house.can(who, "ls", "/etc/chromadb")
        assert not house.can(who, "touch", "/etc/chromadb/new")
    # The role chromadb sees to the mode of the directory, and takes nothing away.
    house.sh("chmod 0750 /etc/chromadb")
    assert house.can(MEMBER, "cat", "/etc/chromadb/client.yml")
    assert "changed=0" in house.apply()


def test_a_file_system_without_access_control_lists(house: House) -> None:
    house.sh("mount -t ramfs none /etc/chromadb && chmod 0750 /etc/chromadb")
    said = " ".join(house.apply(fails=True).split())
    assert "/etc/chromadb cannot have an access control list" in said
    assert "Operation not supported" in said
    assert "HINT: mount its file system with acl" in said
    assert house.sh("ls /etc/chromadb") == ""


def test_an_application_connects_by_it(house: House, site: Site) -> None:
    site.serve()
    answers = Answers(site.run / "gateway.sock", site)
    gateway = Gateway(site.port, site.run / "gateway.sock")
    try:
        own = "/etc/chromadb/gateway"
        house.sh(
            f"sh {PROGRAM} make {own} localhost && sh {PROGRAM} take {own}/own.crt {own}/own.key {gateway.certificate}"
        )
        token = gateway.token("applications", "rw")
        gateway.start()
        said = house.apply(chromadb_gateway_port=gateway.port)
        assert "There is no token for applications in /etc/chromadb/token yet. HINT: " in said
        done = house.run(*MEMBER, sys.executable, "-c", CONNECT)
        assert "/etc/chromadb/token: No such file or directory" in done.stderr
        house.sh(
            f"install -m 0640 -g chromadb-clients /dev/null /etc/chromadb/token; echo {token} >/etc/chromadb/token"
        )
        done = house.run(*MEMBER, sys.executable, "-c", CONNECT)
        assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
        done = house.run(*STRANGER, sys.executable, "-c", CONNECT)
        assert "is this user in the group chromadb-clients?" in done.stderr
    finally:
        gateway.stop()
        answers.close()


def test_a_certificate_of_the_operators(house: House) -> None:
    """The system vouches for it, or a file of theirs; the authority of before does not."""
    house.sh("echo CA >/etc/chromadb/gateway/ca.pem")
    given: dict[str, Any] = {
        "chromadb_gateway_certificate": "/srv/own.crt",
        "chromadb_gateway_names": ["2001:db8::1", "a.example.org"],
    }
    house.apply(
        **given,
        chromadb_gateway_applications_host="a.example.org",
        chromadb_gateway_applications_token_file="/srv/token",
    )
    told = house.sh("grep -v '^#' /etc/chromadb/client.yml; ls /etc/chromadb")
    assert told.splitlines()[:2] == ['endpoint: "https://a.example.org:8443"', 'token_file: "/srv/token"']
    assert "client-ca.pem" not in told
    house.apply(**given, chromadb_gateway_applications_ca_file="/srv/ca.pem")
    told = house.sh("grep -v '^#' /etc/chromadb/client.yml; ls /etc/chromadb")
    assert told.splitlines()[:2] == ['endpoint: "https://[2001:db8::1]:8443"', 'ca_file: "/srv/ca.pem"']
    assert "client-ca.pem" not in told


def test_wrong_variables(tmp_path: Path) -> None:
    asked = {
        "chromadb_gateway_port": 18443,
        "chromadb_gateway_metrics_port": 0,
        "chromadb_gateway_applications": "true",
    }
    assert preflight(tmp_path, **asked) == ""
    assert "HINT: one of chromadb_gateway_names, which are localhost" in preflight(
        tmp_path, **asked, chromadb_gateway_applications_host='"elsewhere.example.org"'
    )
    assert "HINT: one of chromadb_gateway_names" in preflight(
        tmp_path, **asked, chromadb_gateway_applications_token_file='"token"'
    )
    nowhere = '["nowhere.invalid"]'
    assert "This host has no address for nowhere.invalid" in preflight(
        tmp_path, **asked, chromadb_gateway_names=nowhere
    )
