"""The role of the gateway: its program for certificates, and what it refuses before it changes anything."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from tests import packages
from tests.integration import jwt
from tests.integration.account import BIN
from tests.integration.authority import Authority
from tests.integration.certificates import make_certificate
from tests.integration.gateway import ROLE

ROOT = ROLE.parents[2]
PROGRAM = ROLE / "files/certificate"
TRUST = ROLE / "files/trust"
NAMES = ["vectors1.example.org", "192.0.2.1", "2001:db8::1"]
ALTERNATIVES = "DNS:vectors1.example.org,IP:192.0.2.1,IP:2001:db8::1"


@pytest.fixture(scope="module", autouse=True)
def _openssl() -> None:
    packages.need({"openssl": "openssl", "haproxy": "haproxy"})


def program(
    *words: str | Path, of: Path = PROGRAM, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", of, *words], capture_output=True, text=True, check=False, timeout=60, env=environment)


def trust(*words: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return program(*words, of=TRUST, environment=environment)


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


def _weak(directory: Path, *options: str) -> tuple[Path, Path]:
    certificate, key = directory / "weak.crt", directory / "weak.key"
    command: list[str | Path] = ["openssl", "req", "-x509", *options, "-nodes", "-days", "9", "-subj", "/CN=weak"]
    command += ["-addext", f"subjectAltName={ALTERNATIVES}", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def _short_key(directory: Path) -> tuple[Path, Path]:
    return _weak(directory, "-newkey", "rsa:1024")


def _old_signature(directory: Path) -> tuple[Path, Path]:
    """Of an authority: what signs itself is not looked at."""
    certificate, key = pair(directory, "good")
    authority = _weak(directory, "-newkey", "rsa:2048")
    command: list[str | Path] = ["openssl", "x509", "-in", certificate, "-CA", authority[0], "-CAkey", authority[1]]
    command += ["-CAcreateserial", "-sha1", "-days", "9", "-out", directory / "sha1.crt"]
    subprocess.run(command, check=True, capture_output=True)
    return directory / "sha1.crt", key


@pytest.mark.parametrize(
    ("case", "fact"),
    [
        (_short_key, "has a key or a signature that is too weak"),
        (_old_signature, "has a key or a signature that is too weak"),
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


# Stands before openssl, and is a renewal that comes once a file was found to be good.
_RENEWS = """#!/bin/sh
PATH=${PATH#*:}
"$(command -v openssl)" "$@"
status=$?
case " $* " in *" -checkend "* | *" -text_pub "*) [ -e NEW ] && mv NEW OLD ;; esac
exit $status
"""


def _renewing(directory: Path, new: Path, old: Path) -> dict[str, str]:
    wrapper = directory / "bin" / "openssl"
    wrapper.parent.mkdir()
    wrapper.write_text(_RENEWS.replace("NEW", str(new)).replace("OLD", str(old)))
    wrapper.chmod(0o755)
    return {**os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}


def test_half_of_a_renewal_while_it_looks_is_not_taken(tmp_path: Path) -> None:
    target = tmp_path / "tls.pem"
    certificate, key = pair(tmp_path, "good")
    program("take", certificate, key, target)
    before = target.read_bytes()
    environment = _renewing(tmp_path, pair(tmp_path, "new")[0], certificate)
    done = program("take", certificate, key, target, environment=environment)
    assert (done.returncode, target.read_bytes() == before) == (1, True), done.stderr
    assert "is not the key of" in done.stderr
    assert sorted(path.name for path in tmp_path.glob(".new*")) == []


def test_key_that_is_replaced_while_it_looks_is_not_taken(tmp_path: Path) -> None:
    key, new, place = tmp_path / "key.pem", tmp_path / "new.pem", tmp_path / "gateway"
    key.write_bytes(jwt.public(RSA))
    new.write_bytes(b"nonsense")
    place.mkdir()
    done = trust("take-keys", place, key, environment=_renewing(tmp_path, new, key))
    assert (done.returncode, list(place.iterdir())) == (1, []), done.stderr
    assert "HINT: " in done.stderr


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


# Keys of an identity provider, and authorities of clients

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


def test_each_key_has_its_algorithm(tmp_path: Path) -> None:
    keys = [jwt.write(key, tmp_path / name) for key, name in ((CURVE, "one.pem"), (RSA, "two.pem"))]
    place = tmp_path / "gateway"
    place.mkdir()
    assert trust("check-keys", *keys).stdout == "ES256\nRS256\n"
    assert trust("take-keys", place, *keys).stdout == "ES256\nRS256\nchanged\n"
    assert trust("take-keys", place, *keys).stdout == "ES256\nRS256\n\n"
    taken = sorted(place.iterdir())
    assert [path.read_bytes() for path in taken] == [jwt.public(CURVE), jwt.public(RSA)]
    assert [path.name for path in taken] == ["jwt-1.pem", "jwt-2.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in taken} == {0o640}
    # One that is no good among them
    keys[1].write_text("nonsense")
    jwt.write(RSA, keys[0])
    assert trust("take-keys", place, *keys).returncode == 1
    assert [path.read_bytes() for path in sorted(place.iterdir())] == [jwt.public(CURVE), jwt.public(RSA)]


def _private(directory: Path) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return RSA.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _of_a_pair(directory: Path) -> bytes:
    return pair(directory, "good")[0].read_bytes()


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (lambda _: b"nonsense", "holds no public key"),
        (lambda _: b"", "holds no public key"),
        (lambda _: jwt.public(RSA)[:-60], "holds no public key"),
        (_private, "holds a private key"),
        (_of_a_pair, "holds a certificate"),
        (lambda _: jwt.public(RSA) + jwt.public(CURVE), "holds more than one key"),
        (lambda _: jwt.public(rsa.generate_private_key(public_exponent=65537, key_size=1024)), "RSA key of 1024 bits"),
        (lambda _: jwt.public(ec.generate_private_key(ec.SECP384R1())), "for neither RS256 nor ES256"),
        (lambda _: jwt.public(ed25519.Ed25519PrivateKey.generate()), "for neither RS256 nor ES256"),
        (lambda _: jwt.public(dsa.generate_private_key(2048)), "for neither RS256 nor ES256"),
    ],
)
def test_wrong_key(tmp_path: Path, content: Callable[[Path], bytes], fact: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content(tmp_path))
    done = trust("check-keys", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{path} " in done.stderr
    assert fact in done.stderr
    assert "HINT: " in done.stderr


def test_key_that_is_not_there(tmp_path: Path) -> None:
    assert "none.pem does not exist. HINT: " in trust("check-keys", tmp_path / "none.pem").stderr
    assert "cannot be read. HINT: " in trust("check-keys", tmp_path).stderr


def _written(path: Path, *contents: bytes) -> Path:
    path.write_bytes(b"".join(contents))
    return path


def test_authority_of_clients(tmp_path: Path) -> None:
    one, other = Authority(tmp_path, "one"), Authority(tmp_path, "other")
    between = Authority(tmp_path, "between", one)
    place = tmp_path / "gateway"
    place.mkdir()
    ca = _written(tmp_path / "ca.pem", one.pem, other.pem, between.pem)
    crl = _written(tmp_path / "crl.pem", one.revoked())
    for words in ((ca,), (ca, crl), (_written(tmp_path / "one.pem", one.pem), crl)):
        done = trust("check-clients", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert trust("take-clients", place, ca, crl).stdout == "changed\n"
    assert trust("take-clients", place, ca, crl).stdout == "\n"
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {
        "clients-ca.pem": ca.read_bytes(),
        "clients-crl.pem": crl.read_bytes(),
    }
    _written(crl, one.revoked(one.sign("gone")))
    assert trust("take-clients", place, ca, crl).stdout == "changed\n"
    assert (place / "clients-crl.pem").read_bytes() == crl.read_bytes()


def test_wrong_authority(tmp_path: Path) -> None:
    one, other = Authority(tmp_path, "one"), Authority(tmp_path, "other")
    ca, some = _written(tmp_path / "ca.pem", one.pem), tmp_path / "some.pem"

    def said(*words: Path) -> str:
        done = trust("check-clients", *words)
        assert done.returncode == 1
        assert "HINT: " in done.stderr
        return done.stderr

    assert "does not exist" in said(tmp_path / "none.pem")
    assert "holds no certificate" in said(_written(some, b"nonsense"))
    assert "holds a certificate that is none" in said(_written(some, one.pem, one.pem.replace(b"MII", b"MIA")))
    assert "holds a certificate of no authority: subject=CN = batch" in said(
        _written(some, one.pem, one.sign("batch").read_bytes())
    )
    assert "holds no list of revoked certificates" in said(ca, _written(some, one.pem))
    assert "is not signed by an authority of" in said(ca, _written(some, other.revoked()))
    assert "holds until " in said(ca, _written(some, one.revoked(ends=timedelta(hours=-1))))
    assert "cannot be read" in said(ca, tmp_path)


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


@pytest.mark.root
def test_wrong_variables_of_others_whom_it_trusts(tmp_path: Path) -> None:
    free = {"chromadb_gateway_port": 18443, "chromadb_gateway_metrics_port": 0}
    key = jwt.write(RSA, tmp_path / "idp.pem")
    keys = {"chromadb_gateway_jwt_keys": f'["{key}"]'}
    whose = {"chromadb_gateway_jwt_issuer": f'"{jwt.ISSUER}"', "chromadb_gateway_jwt_audience": '"chromadb"'}
    assert preflight(tmp_path, **free, **keys, **whose) == ""
    fact = "HINT: give absolute paths of up to 16 keys on the host, the issuer and the audience"
    for wrong in (
        keys,
        {**keys, **whose, "chromadb_gateway_jwt_audience": '""'},
        {**keys, **whose, "chromadb_gateway_jwt_role_claim": '"sub"'},
    ):
        assert fact in preflight(tmp_path, **free, **wrong), wrong
    key.write_text("nonsense")
    assert f"{key} holds no public key. HINT: " in preflight(tmp_path, **free, **keys, **whose)
    crl = {"chromadb_gateway_client_crl": f'"{tmp_path}/crl.pem"'}
    assert "a list of revoked certificates alone says nothing" in preflight(tmp_path, **free, **crl)
    ca = {"chromadb_gateway_client_ca": f'"{_written(tmp_path / "ca.pem", Authority(tmp_path).pem)}"'}
    assert preflight(tmp_path, **free, **ca) == ""
    assert f"{tmp_path}/crl.pem does not exist. HINT: " in preflight(tmp_path, **free, **ca, **crl)
