"""The role of the gateway: its program for certificates, and what it refuses before it changes anything."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import packages
from tests.integration.account import BIN
from tests.integration.certificates import make_certificate
from tests.integration.gateway import ROLE

ROOT = ROLE.parents[2]
PROGRAM = ROLE / "files/certificate"
NAMES = ["vectors1.example.org", "192.0.2.1", "2001:db8::1"]
ALTERNATIVES = "DNS:vectors1.example.org,IP:192.0.2.1,IP:2001:db8::1"


@pytest.fixture(scope="module", autouse=True)
def _openssl() -> None:
    packages.need({"openssl": "openssl", "haproxy": "haproxy"})


def program(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", PROGRAM, *words], capture_output=True, text=True, check=False, timeout=60)


def pair(directory: Path, name: str, *options: str, names: str = ALTERNATIVES) -> tuple[Path, Path]:
    """A certificate and its key."""
    make_certificate(directory / f"{name}.pem", *options, names=names)
    return directory / f"{name}.crt", directory / f"{name}.key"


def test_sound_certificate(tmp_path: Path) -> None:
    done = program("check", *pair(tmp_path, "good"), *NAMES)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _missing(directory: Path) -> tuple[Path, Path]:
    return directory / "none.crt", pair(directory, "good")[1]


def _no_file(directory: Path) -> tuple[Path, Path]:
    return directory, pair(directory, "good")[1]


def _no_certificate(directory: Path) -> tuple[Path, Path]:
    certificate, key = pair(directory, "good")
    certificate.write_text("nonsense")
    return certificate, key


def _anothers_key(directory: Path) -> tuple[Path, Path]:
    return pair(directory, "good")[0], pair(directory, "other")[1]


def _no_key(directory: Path) -> tuple[Path, Path]:
    certificate, _ = pair(directory, "good")
    return certificate, certificate


def _passphrase(directory: Path) -> tuple[Path, Path]:
    certificate, key = pair(directory, "good")
    command: list[str | Path] = [
        "openssl",
        "pkey",
        "-in",
        key,
        "-aes256",
        "-passout",
        "pass:secret",
        "-out",
        directory / "locked.key",
    ]
    subprocess.run(command, check=True)
    return certificate, directory / "locked.key"


def _expired(directory: Path) -> tuple[Path, Path]:
    certificate, key = pair(directory, "old")
    command: list[str | Path] = [
        "openssl",
        "x509",
        "-in",
        certificate,
        "-signkey",
        key,
        "-days",
        "-1",
        "-out",
        directory / "expired.crt",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return directory / "expired.crt", key


def _other_name(directory: Path) -> tuple[Path, Path]:
    return pair(directory, "elsewhere", names="DNS:vectors2.example.org,IP:192.0.2.1,IP:2001:db8::1")


def _other_address(directory: Path) -> tuple[Path, Path]:
    return pair(directory, "elsewhere", names="DNS:vectors1.example.org,IP:192.0.2.1,IP:2001:db8::2")


@pytest.mark.parametrize(
    ("case", "fact"),
    [
        (_missing, "none.crt does not exist"),
        (_no_file, "cannot be read"),
        (_no_certificate, "holds no certificate"),
        (_anothers_key, "other.key is not the key of"),
        (_no_key, "holds no private key"),
        (_passphrase, "or one with a passphrase"),
        (_expired, "has expired: "),
        (_other_name, "is not for vectors1.example.org: DNS:vectors2.example.org"),
        (_other_address, "is not for 2001:db8::1: "),
    ],
)
def test_wrong_certificate(tmp_path: Path, case: Callable[[Path], tuple[Path, Path]], fact: str) -> None:
    done = program("check", *case(tmp_path), *NAMES)
    assert done.returncode == 1
    assert fact in done.stderr
    assert "HINT: " in done.stderr
    assert "PRIVATE KEY" not in done.stderr + done.stdout


def test_what_is_no_good_replaces_nothing(tmp_path: Path) -> None:
    target = tmp_path / "tls.pem"
    certificate, key = pair(tmp_path, "good")
    assert program("take", certificate, key, target).stdout == "changed\n"
    assert program("take", certificate, key, target).stdout == ""
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    before = target.read_bytes()
    assert before == certificate.read_bytes() + key.read_bytes()
    # The first file of a renewal
    pair(tmp_path, "new")[0].rename(certificate)
    assert program("take", certificate, key, target).returncode == 1
    assert target.read_bytes() == before
    (tmp_path / "new.key").rename(key)
    assert program("take", certificate, key, target).stdout == "changed\n"
    assert target.read_bytes() != before
    assert sorted(path.name for path in tmp_path.glob(".new*")) == []


def test_authority_of_its_own(tmp_path: Path) -> None:
    assert program("make", tmp_path, *NAMES).stdout == "changed\n"
    authority, certificate = (tmp_path / "ca.pem").read_bytes(), (tmp_path / "own.crt").read_bytes()
    assert program("make", tmp_path, *NAMES).stdout == ""
    assert program("check", tmp_path / "own.crt", tmp_path / "own.key", *NAMES).returncode == 0
    command: list[str | Path] = [
        "openssl",
        "verify",
        "-x509_strict",
        "-CAfile",
        tmp_path / "ca.pem",
        tmp_path / "own.crt",
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert (
        stat.S_IMODE((tmp_path / "ca.key").stat().st_mode)
        == stat.S_IMODE((tmp_path / "own.key").stat().st_mode)
        == 0o600
    )
    # For other names there is another one; clients need no other authority.
    assert program("make", tmp_path, "vectors2.example.org").stdout == "changed\n"
    assert (tmp_path / "ca.pem").read_bytes() == authority
    assert (tmp_path / "own.crt").read_bytes() != certificate
    assert program("check", tmp_path / "own.crt", tmp_path / "own.key", "vectors2.example.org").returncode == 0
    # One that was cut off between its files
    (tmp_path / "own.key").unlink()
    assert program("make", tmp_path, "vectors2.example.org").stdout == "changed\n"
    assert program("check", tmp_path / "own.crt", tmp_path / "own.key").returncode == 0


def preflight(directory: Path, **variables: object) -> str:
    """What the role says before it changes anything, on this machine."""
    play = directory / "play.yml"
    play.write_text(
        "- hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:\n"
        "    - ansible.builtin.include_role: {name: chromadb_gateway, tasks_from: preflight.yml}\n"
    )
    command: list[str | Path] = [BIN / "ansible-playbook", "--inventory", "localhost,", play]
    command += [word for name, value in variables.items() for word in ("--extra-vars", f'{{"{name}": {value}}}')]
    command += ["--extra-vars", f'{{"ansible_python_interpreter": "{sys.executable}"}}']
    environment = {**os.environ, "ANSIBLE_ROLES_PATH": str(ROLE.parent), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=directory, timeout=120
    )
    return "" if done.returncode == 0 else " ".join((done.stdout + done.stderr).split())


@pytest.mark.root
def test_wrong_variables(tmp_path: Path) -> None:
    """Each is a fact with a hint. One run each, so there are only a few."""
    assert preflight(tmp_path, chromadb_gateway_port=18443, chromadb_gateway_metrics_port=0) == ""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Port {port} is taken on this host" in preflight(tmp_path, chromadb_gateway_port=port)
    certificate, key = pair(tmp_path, "good", names="DNS:elsewhere.example.org")
    given = {"chromadb_gateway_certificate": f'"{certificate}"', "chromadb_gateway_certificate_key": f'"{key}"'}
    assert "is not for localhost: DNS:elsewhere.example.org. HINT: chromadb_gateway_names" in preflight(
        tmp_path, **given
    )
    assert "HINT: give absolute paths of both" in preflight(tmp_path, chromadb_gateway_certificate='"/etc/some.pem"')
    assert "HINT: give it as 30s, 5m or 1h" in preflight(tmp_path, chromadb_gateway_wait='"soon"')
