"""Certificates that a gateway accepts in the place of a token, and those that it should not."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.gateway_attacks.cases import MINE_TOP, THEIR_TOP, Case, House, asked, head
from tests.gateway_attacks.trusted import Trusted
from tests.integration.authority import Authority
from tests.integration.gateway_routes import ROLES

# Those that may come in, and what chromactl makes for them
ENTRIES = {f"c-{role}": f"--role {role}" + (" --tenant tena --database dba" * (role != "metrics")) for role in ROLES}
REFUSED_ENTRIES = {
    "c-revoked": "--role admin",
    "c-expired": "--role admin --expires 2099-01-01T00:00:00+00:00",
    "c-elsewhere": "--role admin --from 10.99.0.0/16",
}


def accepted(trusted: Trusted) -> dict[str, str]:
    """One of each role for tena, by what they are called here."""
    return {name: trusted.authority.sign(name).read_text() for name in ENTRIES}


def cases(house: House, trusted: Trusted) -> Iterator[Case]:
    count = f"{MINE_TOP}/collections/{house.mine}/count"
    good = trusted.authority.sign("c-rw").read_text()
    # Otherwise they would all be refused for another reason.
    yield Case(
        "certificate that is sound", (asked("", "GET", count),), frozenset({200}), holds=" 200 ", certificate=good
    )
    for title, file in _unsound(trusted):
        for token in ("", house.tokens["rw"]):
            # They get no connection, so there is nothing to say.
            request = asked(token, "GET", count)
            yield Case(
                f"certificate {title}", (request,), frozenset({0}), lacks="HTTP/1.1", certificate=file.read_text()
            )
    yield from _unknown(house, trusted, count)
    yield from _with_a_token(house, good, count)
    for name, status in (("c-revoked", 401), ("c-expired", 401), ("c-elsewhere", 403)):
        certificate = trusted.authority.sign(name).read_text()
        for method, path, content in (
            ("GET", count, None),
            ("GET", "/api/v2/heartbeat", None),
            ("POST", "/api/v2/reset", {}),
            ("POST", f"{THEIR_TOP}/collections/{house.theirs}/get", {}),
        ):
            request = asked("", method, path, content, "X-Forwarded-For: 10.99.0.1")
            title = f"certificate {name}: {method} {path}"
            yield Case(title, (request,), frozenset({status}), holds=f" {status} ", certificate=certificate)


def _unsound(trusted: Trusted) -> Iterator[tuple[str, Path]]:
    sign = trusted.authority.sign
    yield "revoked", trusted.revoked
    yield "of another authority", Authority(trusted.authority.directory, "Another").sign("c-rw")
    yield "of another authority of the same name", Authority(trusted.authority.directory).sign("c-rw")
    yield "signed by itself", sign("c-rw", itself=True)
    yield "expired", sign("c-rw", ends=timedelta(seconds=-5))
    yield "not yet valid", sign("c-rw", begins=timedelta(hours=1))
    yield "for servers", sign("c-rw", usage=ExtendedKeyUsageOID.SERVER_AUTH)


def _unknown(house: House, trusted: Trusted, count: str) -> Iterator[Case]:
    """t-root is the name of a token with a text, for which no certificate stands."""
    names = [("stranger",), ("t-root",), ("C-RW",), ("c-rw ",), ("c-rw|admin|*/*|0|*",), ("certificate:c-rw",)]
    for common in [*names, ("c-rw", "stranger"), ("stranger", "c-rw"), ("c-rw", "c-admin"), ("*",), ("localhost",), ()]:
        certificate = trusted.authority.sign(*common).read_text()
        for path in (count, "/api/v2/heartbeat"):
            request = asked("", "GET", path)
            title = f"certificate for {common}"
            yield Case(title, (request,), frozenset({401}), holds=" 401 ", lacks=house.secret, certificate=certificate)


def _with_a_token(house: House, certificate: str, count: str) -> Iterator[Case]:
    """Only one of them can say who comes."""
    for who in ("root", "rw", "b", "jwt-admin", "wrong", "revoked"):
        for name in ("Authorization: Bearer", "X-Chroma-Token:"):
            for line in (f"GET {count} HTTP/1.1", f"GET {THEIR_TOP}/collections HTTP/1.1"):
                request = head(line, "", f"{name} {house.tokens[who]}")
                title = f"certificate and the token {who}"
                yield Case(title, (request,), frozenset({401}), holds=" 401 ", certificate=certificate)
    # Nobody comes in by saying its name.
    for name in (
        "X-SSL-Client-CN",
        "X-Client-Cert",
        "X-Forwarded-Client-Cert",
        "SSL-Client-S-DN",
        "X-SSL-Client-Verify",
    ):
        request = head(f"GET {count} HTTP/1.1", "", f"{name}: CN=c-admin")
        yield Case(f"certificate in {name}", (request,), frozenset({401}), holds=" 401 ")
    for text in ("c-admin", "certificate:c-admin", "CN=c-admin"):
        yield Case(
            f"certificate's name as a token: {text}", (asked(text, "GET", count),), frozenset({401}), holds=" 401 "
        )
