"""Certificates of clients at the gateway: real HAProxy, real certificates."""

import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.integration import jwt, jwt_cases
from tests.integration.account import until
from tests.integration.authority import Authority, context
from tests.integration.gateway import Token, later
from tests.integration.gateway_cases import COUNT, TOP
from tests.integration.raw_http import request, status2, statuses
from tests.integration.site import Site
from tests.integration.test_gateway import refused, until_old
from tests.integration.test_gateway_attacks import Door

pytestmark = pytest.mark.root

VARIABLES: dict[str, object] = {"chromadb_gateway_client_ca": "/etc/ssl/clients.pem"}


class Office(Door):
    """A gateway that knows an authority."""

    def __init__(self, site: Site, authority: Authority, crl: bytes = b"", **variables: object) -> None:
        files = {"clients-ca.pem": authority.pem, "clients-crl.pem": crl, **jwt_cases.FILES}
        if crl:
            variables["chromadb_gateway_client_crl"] = "/etc/ssl/revoked.pem"
        self.authority = authority
        super().__init__(site, 0, files, **VARIABLES, **variables)
        self.batch: Token = self.gateway.token("batch", "rw", "tena/dba", certificate=True)

    def http(self, client: Path | None) -> httpx.Client:
        return self.gateway.http(verify=context(self.gateway.certificate, client))

    def ask(self, client: Path | None, path: str = COUNT, method: str = "GET", **headers: str) -> httpx.Response:
        with self.http(client) as connection:
            return connection.request(method, path, json={} if method == "POST" else None, headers=headers)

    def shut(self, client: Path, **headers: str) -> None:
        """Asserts that the certificate does not even get a connection, whatever comes with it."""
        before = len(self.engine.received)
        for versions in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            made = context(self.gateway.certificate, client)
            made.minimum_version = made.maximum_version = versions
            with (
                pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)),
                self.gateway.http(verify=made, headers=headers) as connection,
            ):
                connection.get(COUNT)
        assert len(self.engine.received) == before


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    site = Site()
    variables = jwt_cases.VARIABLES
    made = Office(site, Authority(tmp_path_factory.mktemp("authority")), b"", **variables)
    yield made
    assert "runtime error" not in made.gateway.log
    made.remove()
    site.remove()


def test_the_subject_is_the_name(office: Office) -> None:
    client = office.authority.sign("batch")
    assert office.ask(client).status_code == 200
    assert office.ask(client, "/api/v2/auth/identity").json() == {
        "user_id": "batch",
        "tenant": "tena",
        "databases": ["dba"],
    }
    refused(office.ask(client, "/api/v2/tenants/tenb"), 403, "AuthError", "batch is not for")
    refused(office.ask(client, "/api/v2/reset", "POST"), 403, "AuthError", "batch has the role rw")
    until(lambda: office.gateway.logged()[-1]["token"] == "batch", "the name in the log")
    # Another one of the same name, as after a renewal
    assert office.ask(office.authority.sign("batch", usage=None)).status_code == 200


def test_without_a_certificate_tokens_are_as_they_were(office: Office) -> None:
    for token in (office.token, jwt.signed(jwt_cases.RSA, jwt_cases.RS256, jwt.claims())):
        assert office.ask(None, **{"Authorization": f"Bearer {token}"}).status_code == 200
    refused(office.ask(None), 401, "AuthorizationError", "no token")


def test_the_token_of_a_certificate_has_no_text(office: Office) -> None:
    """Nobody comes in by saying the name."""
    for text in ("batch", "certificate:batch", "CN=batch", office.batch):
        for name, value in (("Authorization", f"Bearer {text}"), ("X-Chroma-Token", text)):
            refused(office.ask(None, **{name: value}), 401, "AuthorizationError")
    names = ("X-SSL-Client-CN", "X-Client-Cert", "X-Forwarded-Client-Cert", "SSL-Client-S-DN")
    refused(office.ask(None, **dict.fromkeys(names, "CN=batch")), 401, "AuthorizationError", "no token")


@pytest.mark.parametrize(
    "common",
    [
        ("stranger",),
        ("app",),
        ("BATCH",),
        ("batch ",),
        (" batch",),
        ("batch\n",),
        ("batch|admin|*/*|0|*",),
        ("certificate:batch",),
        ("batch", "stranger"),
        ("stranger", "batch"),
        ("batch", "batch"),
        ("bätch",),
        ("*",),
        (),
    ],
)
def test_subject_that_nobody_knows(office: Office, common: tuple[str, ...]) -> None:
    """app is the name of a token with a text, which a certificate does not stand for."""
    client = office.authority.sign(*common)
    before = len(office.engine.received)
    refused(office.ask(client), 401, "AuthorizationError", "HINT: ")
    refused(office.ask(client, "/api/v2/heartbeat"), 401, "AuthorizationError")
    assert len(office.engine.received) == before


def test_hash_of_a_token_as_the_subject(office: Office) -> None:
    """The map has it as a key."""
    key = office.token.line.split()[0]
    refused(office.ask(office.authority.sign(key)), 401, "AuthorizationError")


def _of_another(office: Office) -> Path:
    return Authority(office.authority.directory).sign("batch")


def _of_one_with_the_same_name(office: Office) -> Path:
    return Authority(office.authority.directory, "An authority").sign("batch")


def _by_a_client(office: Office) -> Path:
    """The authority's own certificate vouches for no certificates that its clients sign."""
    above = office.authority.sign("batch").read_bytes()
    forger = Authority(office.authority.directory)
    key = serialization.load_pem_private_key(above, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    forger.key, forger.name = key, load_pem_x509_certificate(above).subject
    forged = forger.sign("batch")
    forged.write_bytes(forged.read_bytes() + above[above.index(b"-----BEGIN CERTIFICATE") :])
    return forged


UNSOUND: dict[str, Callable[[Office], Path]] = {
    "another authority": _of_another,
    "another authority of the same name": _of_one_with_the_same_name,
    "expired": lambda office: office.authority.sign("batch", ends=timedelta(seconds=-5)),
    "not yet valid": lambda office: office.authority.sign("batch", begins=timedelta(hours=1)),
    "signed by itself": lambda office: office.authority.sign("batch", itself=True),
    "for servers": lambda office: office.authority.sign("batch", usage=ExtendedKeyUsageOID.SERVER_AUTH),
    "by another client": _by_a_client,
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_certificate(office: Office, name: str) -> None:
    client = UNSOUND[name](office)
    office.shut(client)
    # Nor does a token help it.
    office.shut(client, Authorization=f"Bearer {office.token}")


def test_certificate_and_token_at_once(office: Office) -> None:
    """One of them says who comes."""
    client = office.authority.sign("batch")
    provided = jwt.signed(jwt_cases.RSA, jwt_cases.RS256, jwt.claims())
    for each in (office.token, provided, "wrong", "Basic"):
        for headers in ({"Authorization": f"Bearer {each}"}, {"X-Chroma-Token": each}):
            for certificate in (client, office.authority.sign("stranger")):
                refused(office.ask(certificate, **headers), 401, "AuthorizationError", "a certificate and a token")


def test_changes_hold_for_the_next_request_of_an_open_connection(office: Office) -> None:
    client = office.authority.sign("fleeting")
    with office.http(client) as connection:
        for _ in range(2):
            assert connection.get(COUNT).status_code == 401
            token = office.gateway.token("fleeting", "ro", "tena/dba", certificate=True)
            assert connection.get(COUNT).status_code == 200
            assert connection.post(f"{TOP}/collections", json={}).status_code == 403
            office.gateway.revoke(token)
            assert connection.get(COUNT).status_code == 401
            until(lambda: until_old(office.gateway), "a worker that is not young any more", 20)


def test_a_worker_that_is_replaced_goes_by_the_file(office: Office) -> None:
    """The tokens of certificates are among those that it is told of no more."""
    client = office.authority.sign("leaving")
    token = office.gateway.token("leaving", "ro", "tena/dba", certificate=True)
    with office.http(client) as connection:
        assert connection.get(COUNT).status_code == 200
        office.gateway.reload()
        office.gateway.revoke(token)
        assert connection.get(COUNT).status_code == 401
        assert office.ask(client).status_code == 401


def test_a_token_that_only_the_file_has_is_taken_over(office: Office) -> None:
    """As when the worker before was told of it during a reload."""
    client = office.authority.sign("silent")
    office.gateway.reload()
    token = office.gateway.token("silent", "ro", "tena/dba", tell=False, certificate=True)
    until(lambda: office.ask(client).status_code == 200, "its certificate to be known", 10)
    office.gateway.revoke(token, tell=False)
    until(lambda: office.ask(client).status_code == 401, "its certificate to be unknown", 10)


def test_end_and_networks_of_the_token(office: Office) -> None:
    client = office.authority.sign("limited")
    token = office.gateway.token("limited", "ro", expires=later(-1), certificate=True)
    refused(office.ask(client), 401, "AuthorizationError", "the token limited has expired")
    office.gateway.revoke(token)
    token = office.gateway.token("limited", "ro", networks="10.0.0.0/8", certificate=True)
    refused(office.ask(client), 403, "AuthError", "limited may not be used from 127.0.0.1")
    office.gateway.revoke(token)


def test_the_certificate_ends_on_an_open_connection(office: Office) -> None:
    client = office.authority.sign("batch", ends=timedelta(seconds=3))
    with office.http(client) as connection:
        assert connection.get(COUNT).status_code == 200
        until(lambda: connection.get(COUNT).status_code == 401, "its end", 10)
        refused(connection.get(COUNT), 401, "AuthorizationError", "the certificate has expired")


@pytest.mark.parametrize("days", [365 * 24, 365 * 40, 365 * 100])
def test_certificate_that_ends_in_another_form(office: Office, days: int) -> None:
    """From 2050 on a certificate writes its end with four digits of the year."""
    assert office.ask(office.authority.sign("batch", ends=timedelta(days=days))).status_code == 200


def test_session_that_is_taken_up_again_is_still_the_certificates(office: Office) -> None:
    """And of nobody else: the session without one has none."""
    made = context(office.gateway.certificate, office.authority.sign("batch"))
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    session = None
    head = f"GET {COUNT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    reused = []
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", office.gateway.port), 10) as plain,
            made.wrap_socket(plain, server_hostname="localhost", session=session) as secured,
        ):
            secured.sendall(head)
            assert statuses(secured.recv(65536)) == [200]
            session = secured.session
            reused.append(secured.session_reused)
    assert reused == [False, True]


def test_http2(office: Office) -> None:
    """Each request of a connection is the certificate's, those with a token besides are refused."""
    fields = [field for field in office.fields(COUNT.encode()) if field[0] != b"authorization"]
    made = context(office.gateway.certificate, office.authority.sign("batch"))
    made.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", office.gateway.port), 10) as plain,
        made.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        found = status2(secured, request(1, fields) + request(3, office.fields(COUNT.encode())), 2)
    assert sorted(found) == [200, 401]


def test_revoked_by_its_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    revoked, good = authority.sign("batch"), authority.sign("batch")
    site = Site()
    office = Office(site, authority, authority.revoked(revoked))
    try:
        assert office.gateway.check() == ""
        office.shut(revoked)
        assert office.ask(good).status_code == 200
        assert office.ask(None, **{"Authorization": f"Bearer {office.token}"}).status_code == 200
    finally:
        office.remove()
        site.remove()


def test_list_that_is_too_old(tmp_path: Path) -> None:
    """Nobody knows whom it would name, so no certificate is accepted; tokens are."""
    authority = Authority(tmp_path)
    site = Site()
    office = Office(site, authority, authority.revoked(ends=timedelta(hours=-1)))
    try:
        office.shut(authority.sign("batch"))
        assert office.ask(None, **{"Authorization": f"Bearer {office.token}"}).status_code == 200
    finally:
        office.remove()
        site.remove()


def test_a_gateway_without_an_authority_asks_for_no_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    site = Site()
    made = Door(site)
    try:
        made.gateway.token("batch", "rw", "tena/dba", certificate=True)
        with made.gateway.http(verify=context(made.gateway.certificate, authority.sign("batch"))) as connection:
            refused(connection.get(COUNT), 401, "AuthorizationError", "no token")
            assert connection.get(COUNT, headers={"X-Chroma-Token": made.token}).status_code == 200
    finally:
        made.remove()
        site.remove()
