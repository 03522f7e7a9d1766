"""Tokens of an identity provider at the gateway: real HAProxy verifies what a real library has signed."""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.integration import jwt, raw_http
from tests.integration.account import until
from tests.integration.gateway import ROLE
from tests.integration.gateway_cases import COUNT, QUERY, TOP
from tests.integration.jwt import claims, encoded, signed
from tests.integration.jwt_cases import (
    BAD_CLAIMS,
    BAD_FORMS,
    BAD_SIGNATURES,
    BODIES,
    CURVE,
    ES256,
    FILES,
    KEYS,
    NOW,
    OTHER_CURVE,
    OTHER_RSA,
    RS256,
    RSA,
    VARIABLES,
    another_end,
    payload,
)
from tests.integration.raw_http import statuses
from tests.integration.site import Site
from tests.integration.test_gateway import refused
from tests.integration.test_gateway_attacks import Door

pytestmark = pytest.mark.root


class Provider(Door):
    """A gateway that knows the provider's keys."""

    def ask(self, token: str, path: str = COUNT, method: str = "GET", **headers: str) -> httpx.Response:
        with self.gateway.http() as client:
            content: dict[str, Any] | None = {} if method == "POST" else None
            return client.request(method, path, json=content, headers={"Authorization": f"Bearer {token}", **headers})

    def get_in(self, token: str) -> bool:
        """Whether a token lets in; one that does not is refused as tokens are, and reaches nothing."""
        before = len(self.engine.received)
        answer = self.ask(token)
        if answer.status_code == 200:
            return True
        refused(answer, 401, "AuthorizationError", "HINT: ")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert len(token) < 20 or token not in answer.text
        assert len(self.engine.received) == before
        return False


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    site = Site()
    made = Provider(site, 0, FILES, **VARIABLES)
    yield made
    # What fails in it refuses as well, though not for the reason that is meant.
    assert "runtime error" not in made.gateway.log
    made.remove()
    site.remove()


@pytest.mark.parametrize("key", [RSA, CURVE, KEYS[0]], ids=["rsa", "curve", "first rsa"])
def test_sound_token(provider: Provider, key: jwt.Key) -> None:
    header = ES256 if key is CURVE else RS256
    for _ in range(20):
        # Numbers of a signature that begin with zeros among them
        assert provider.get_in(signed(key, header, claims()))
    assert provider.ask("x", **{"Authorization": "", "X-Chroma-Token": "x"}).status_code == 401
    with provider.gateway.http(headers={"X-Chroma-Token": signed(key, header, claims())}) as client:
        assert client.get(COUNT).status_code == 200


def test_a_token_of_ours_goes_on_working_beside(provider: Provider) -> None:
    assert provider.get_in(provider.token)
    assert not provider.get_in(f"{provider.token}x")


# Signature and header


@pytest.mark.parametrize("name", BAD_SIGNATURES)
def test_no_signature_of_the_provider(provider: Provider, name: str) -> None:
    before = len(provider.gateway.logged())
    assert not provider.get_in(BAD_SIGNATURES[name]())
    until(lambda: len(provider.gateway.logged()) > before, "a line")
    # What nobody has vouched for has no name.
    assert provider.gateway.logged()[-1]["token"] == "-"


@pytest.mark.parametrize("name", BAD_FORMS)
@pytest.mark.parametrize("key", [RSA, CURVE], ids=["rsa", "curve"])
def test_malformed(provider: Provider, name: str, key: jwt.Key) -> None:
    assert not provider.get_in(BAD_FORMS[name](signed(key, RS256 if key is RSA else ES256, claims())))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("form", [another_end, lambda part: part + "=", lambda part: part + "A"])
def test_signed_in_another_form(provider: Provider, place: int, form: Callable[[str], str]) -> None:
    """What the provider itself has signed is not taken for what it may mean."""
    for more in ("", "x", "xx"):
        parts = [encoded(json.dumps({**RS256, "x": more}).encode()), encoded(json.dumps(claims(x=more)).encode())]
        sound, other = ".".join(parts), [*parts]
        if len(parts[place]) % 4 == 0:
            continue
        other[place] = form(parts[place])
        for text in (sound, ".".join(other)):
            token = f"{text}.{encoded(jwt.signature(RSA, 'RS256', text.encode()))}"
            assert provider.get_in(token) == (text == sound)


def test_one_length_that_is_no_base64(provider: Provider) -> None:
    """A character alone stands for no byte, wherever it is."""
    for place in range(3):
        parts = signed(RSA, RS256, claims()).split(".")
        parts[place] = parts[place][: len(parts[place]) // 4 * 4] + "A"
        assert not provider.get_in(".".join(parts))


def test_oversized(provider: Provider) -> None:
    def of(size: int) -> str:
        token = signed(RSA, RS256, claims(padding=""))
        return signed(RSA, RS256, claims(padding="x" * ((size - len(token)) * 3 // 4)))

    assert len(of(8192)) <= 8192
    assert provider.get_in(of(8192))
    assert len(of(8200)) > 8192
    for size in (8200, 20000, 50000):
        assert not provider.get_in(of(size))


def test_two_at_once(provider: Provider) -> None:
    token, second = (signed(RSA, RS256, claims(sub=name)) for name in ("app", "other"))
    bearer, plain = f"Authorization: Bearer {token}", f"X-Chroma-Token: {second}"
    for lines in (
        (bearer, bearer),
        (bearer, f"Authorization: Bearer {second}"),
        (bearer, plain),
        (plain, plain),
        (bearer, f"X-Chroma-Token: {provider.token}"),
        (f"Authorization: Bearer {provider.token}", plain),
    ):
        head = "\r\n".join([f"GET {COUNT} HTTP/1.1", "Host: localhost", *lines, "Connection: close", "", ""])
        assert provider.raw(head.encode()) == [401]
    one = "\r\n".join([f"GET {COUNT} HTTP/1.1", "Host: localhost", bearer, "Connection: close", "", ""])
    assert provider.raw(one.encode()) == [200]


# Claims


@pytest.mark.parametrize("name", BAD_CLAIMS)
def test_claims_that_are_not_as_they_should_be(provider: Provider, name: str) -> None:
    assert not provider.get_in(signed(RSA, RS256, payload(BAD_CLAIMS[name])))
    assert not provider.get_in(signed(CURVE, ES256, payload(BAD_CLAIMS[name])))


@pytest.mark.parametrize("name", BODIES)
def test_claims_that_two_may_read_differently(provider: Provider, name: str) -> None:
    body = json.dumps(claims()).encode()
    assert BODIES[name](body) != body
    assert not provider.get_in(signed(RSA, RS256, BODIES[name](body)))


@pytest.mark.parametrize(
    "change",
    [
        {"aud": ["account", jwt.AUDIENCE]},
        {"iat": None},
        {"sub": "auth0|5f7c8ec7c33c6c004bbafe82"},
        {"sub": "x" * 60},
        {"sub": "https://example.org/people/7"},
        {"chromadb_scopes": "tena/dba tenb/dbb"},
        {"chromadb_scopes": ["*/*"]},
        {"exp": 99999999999},
        {"name": "Zoë 😀 \u2028", "more": {"a": [1, -2.5e-3, 10**40, True, False, None, {}, []]}},
    ],
    ids=str,
)
def test_what_identity_providers_send_otherwise(provider: Provider, change: dict[str, Any]) -> None:
    comes_in(provider, change)


@pytest.mark.parametrize("ahead", [-10, 30])
def test_a_clock_that_is_not_ours(provider: Provider, ahead: int) -> None:
    moment = int(time.time()) + ahead
    comes_in(provider, {"nbf": moment, "iat": moment})


def comes_in(provider: Provider, change: dict[str, Any]) -> None:
    assert provider.get_in(signed(RSA, RS256, claims(**change)))
    assert provider.get_in(signed(CURVE, {**ES256, "typ": "at+jwt"}, claims(**change)))
    text = json.dumps(claims(**change), ensure_ascii=False, indent=2).encode()
    assert provider.get_in(signed(RSA, RS256, text))


def test_the_end_comes_on_an_open_connection(provider: Provider) -> None:
    token = signed(RSA, RS256, claims(exp=int(time.time()) + 3))
    with provider.gateway.http(token) as client:
        assert client.get(COUNT).status_code == 200
        until(lambda: client.get(COUNT).status_code == 401, "its end", 10)
        refused(client.get(COUNT), 401, "AuthorizationError", "the token jwt:app has expired")


# Rights


@pytest.mark.parametrize(
    ("role", "statuses"),
    [("metrics", (200, 403, 403, 403)), ("ro", (200, 200, 200, 403)), ("rw", (200, 200, 200, 200))],
)
def test_role(provider: Provider, role: str, statuses: tuple[int, ...]) -> None:
    token = signed(RSA, RS256, claims(chromadb_role=role))
    asked = [
        provider.ask(token, "/api/v2/heartbeat"),
        provider.ask(token),
        provider.ask(token, QUERY, "POST"),
        provider.ask(token, f"{TOP}/collections", "POST"),
    ]
    assert tuple(each.status_code for each in asked) == statuses


def test_scopes(provider: Provider) -> None:
    def asked(scopes: object, path: str, role: str = "rw") -> int:
        method = "POST" if path.endswith(("reset", "databases")) else "GET"
        token = signed(CURVE, ES256, claims(chromadb_scopes=scopes, chromadb_role=role))
        return provider.ask(token, path, method).status_code

    default = "/api/v2/tenants/default_tenant/databases/default_database/collections"
    assert [asked(["tena/dba"], path) for path in (COUNT, default)] == [200, 403]
    assert [asked(["tena/other"], path) for path in (COUNT, default)] == [403, 403]
    assert [asked("tena/* default_tenant/*", path) for path in (COUNT, default)] == [200, 200]
    # Without scopes, not even an admin has everything.
    for role in ("ro", "admin"):
        assert [asked(None, path, role) for path in (COUNT, default)] == [403, 200]
    reset, databases = "/api/v2/reset", "/api/v2/tenants/tena/databases"
    assert [asked(None, path, "admin") for path in (reset, databases)] == [403, 403]
    assert [asked(["tena/*"], path, "admin") for path in (reset, databases)] == [403, 200]
    assert [asked(["*/*"], path, "admin") for path in (reset, databases)] == [200, 200]


def test_identity(provider: Provider) -> None:
    found = provider.ask(signed(RSA, RS256, claims()), "/api/v2/auth/identity")
    assert found.json() == {"user_id": "jwt:app", "tenant": "tena", "databases": ["dba"]}


def test_claims_of_other_names() -> None:
    """Among them one that is an address, as some identity providers want it."""
    site = Site()
    names = {"name": "client_id", "role": "https://example.org/role", "scopes": "places"}
    made = Provider(
        site,
        0,
        FILES,
        **{**VARIABLES, **{f"chromadb_gateway_jwt_{each}_claim": name for each, name in names.items()}},
    )
    try:
        assert not made.get_in(signed(RSA, RS256, claims()))
        other = {"client_id": "batch", "https://example.org/role": "ro", "places": "tena/dba", "chromadb_role": "admin"}
        token = signed(RSA, RS256, claims(**other))
        assert made.get_in(token)
        assert made.ask(token, "/api/v2/auth/identity").json()["user_id"] == "jwt:batch"
        assert made.ask(token, f"{TOP}/collections", "POST").status_code == 403
    finally:
        made.remove()
        site.remove()


def test_limits_are_of_the_name() -> None:
    """As many tokens as one likes have one limit together, and not that of the token of this name."""
    site = Site()
    made = Provider(site, 0, FILES, **{**VARIABLES, "chromadb_gateway_requests_per_second": 1})
    try:
        found = [made.ask(signed(RSA, RS256, claims(jti=str(number)))).status_code for number in range(15)]
        assert 429 in found
        assert made.ask(made.token).status_code == 200
        assert made.ask(signed(RSA, RS256, claims(sub="other"))).status_code == 200
    finally:
        made.remove()
        site.remove()


def test_a_gateway_without_keys_knows_no_jwt() -> None:
    site = Site()
    made = Provider(site)
    try:
        assert not made.get_in(signed(RSA, RS256, claims()))
        assert "jwt" not in made.gateway.configuration.read_text()
        assert made.get_in(made.token)
    finally:
        made.remove()
        site.remove()


def test_the_engine_gets_no_jwt(provider: Provider) -> None:
    token = signed(RSA, RS256, claims())
    provider.engine.received.clear()
    assert provider.ask(token).status_code == 200
    assert token.encode() not in b"".join(provider.engine.received)


def test_log_has_the_name_and_never_the_token(provider: Provider) -> None:
    good, old = signed(RSA, RS256, claims()), signed(RSA, RS256, claims(exp=NOW - 5))
    wrong = signed(OTHER_RSA, RS256, claims())
    before = len(provider.gateway.logged())
    for token in (good, old, wrong):
        provider.ask(token)
    until(lambda: len(provider.gateway.logged()) == before + 3, "three lines")
    lines = provider.gateway.logged()[before:]
    assert [(line["status"], line["token"]) for line in lines] == [(200, "jwt:app"), (401, "jwt:app"), (401, "-")]
    for token in (good, old, wrong):
        for part in token.split(".")[1:]:
            assert part not in provider.gateway.log


def test_wrong_signatures_break_nobodys_connection(provider: Provider) -> None:
    """They leave errors behind in OpenSSL. Each request comes in two parts, so that something is read after it was judged."""
    wrong, sound = signed(OTHER_RSA, RS256, claims()), signed(KEYS[1], RS256, claims())

    def asked(token: str) -> int:
        head = [f"POST {QUERY} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", "Content-Length: 2"]
        with raw_http.connected(provider.gateway.port, provider.gateway.certificate) as connection:
            connection.sendall("\r\n".join([*head, "", ""]).encode())
            time.sleep(0.02)
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"{}")
            found = statuses(connection.recv(65536))
            return found[0] if found else 0

    for _ in range(12):
        assert asked(sound) == 200
        assert asked(wrong) in (401, 0)
        assert asked(provider.token) == 200


def test_of_many_at_once(provider: Provider) -> None:
    """Each gets what is its own."""

    def asked(number: int) -> bool:
        key, header = ((RSA, RS256), (CURVE, ES256), (OTHER_RSA, RS256), (OTHER_CURVE, ES256))[number % 4]
        found = provider.ask(signed(key, header, claims(sub=f"app-{number}")), "/api/v2/auth/identity")
        return bool(found.status_code == 401 if number % 4 > 1 else found.json()["user_id"] == f"jwt:app-{number}")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(asked, range(120)))


def test_a_worker_that_is_replaced_verifies_as_well(provider: Provider) -> None:
    """Its own place for that is gone; the one that replaces it has one."""
    for token, status in ((signed(RSA, RS256, claims()), 200), (signed(OTHER_RSA, RS256, claims()), 401)):
        with provider.gateway.http() as client:
            client.get(COUNT, headers={"Authorization": f"Bearer {provider.token}"})
            provider.gateway.reload()
            before = len(provider.gateway.workers)
            assert client.get(COUNT, headers={"Authorization": f"Bearer {token}"}).status_code == status
            assert before >= 2
        assert provider.ask(token).status_code == status


def test_nobody_verifies() -> None:
    """What cannot be verified is neither right nor wrong; what was verified goes on."""
    site = Site()
    made = Provider(site, 0, FILES, **VARIABLES)
    try:
        known = signed(RSA, RS256, claims())
        assert made.get_in(known)
        (made.gateway.root / "verify.sock").unlink()
        answer = made.ask(signed(RSA, RS256, claims(jti="2")))
        refused(answer, 503, "InternalError", "could not be verified")
        assert answer.headers["retry-after"]
        assert made.get_in(known)
        assert made.get_in(made.token)
    finally:
        made.remove()
        site.remove()


def test_every_variable_of_it_is_in_the_configuration(provider: Provider) -> None:
    text = provider.gateway.configuration.read_text()
    used = set(re.findall(r'getenv\("(GATEWAY_JWT\w*)"\)', (ROLE / "files/jwt.lua").read_text()))
    assert {"GATEWAY_JWT_ISSUER", "GATEWAY_JWT_SCOPES"} < used
    assert all(f"setenv {name} " in text for name in used)
