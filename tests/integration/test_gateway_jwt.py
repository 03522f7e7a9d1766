"""Tokens of an identity provider at the gateway: real HAProxy verifies what a real library has signed."""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.integration import jwt, raw_http
from tests.integration.account import until
from tests.integration.gateway import ROLE
from tests.integration.gateway_cases import COUNT, QUERY, TOP
from tests.integration.jwt import claims, encoded, signed
from tests.integration.raw_http import statuses
from tests.integration.site import Site
from tests.integration.test_gateway import refused
from tests.integration.test_gateway_attacks import Door

pytestmark = pytest.mark.root

RSA, OTHER_RSA = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
CURVE, OTHER_CURVE = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
RS256, ES256 = {"alg": "RS256", "typ": "JWT", "kid": "one"}, {"alg": "ES256"}
# Another RSA key comes before the one that is used: each is tried.
KEYS: tuple[jwt.Key, ...] = (rsa.generate_private_key(public_exponent=65537, key_size=3072), RSA, CURVE)
VARIABLES: dict[str, object] = {
    "chromadb_gateway_jwt_keys": ["/etc/one.pem", "/etc/two.pem", "/etc/three.pem"],
    "_chromadb_gateway_jwt_algorithms": ["RS256", "RS256", "ES256"],
    "chromadb_gateway_jwt_issuer": jwt.ISSUER,
    "chromadb_gateway_jwt_audience": jwt.AUDIENCE,
}
FILES = {f"jwt-{number}.pem": jwt.public(key) for number, key in enumerate(KEYS, 1)}


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


def _unsigned(header: dict[str, Any]) -> str:
    return f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(claims()).encode())}."


def _header(header: bytes | dict[str, Any], key: jwt.Key = RSA, by: str = "RS256") -> Callable[[], str]:
    return lambda: signed(key, header, claims(), by)


def _changed(place: int, change: Callable[[str], str], key: jwt.Key = RSA) -> Callable[[], str]:
    """With a change to one of its three parts."""

    def made() -> str:
        parts = signed(key, ES256 if key is CURVE else RS256, claims()).split(".")
        parts[place] = change(parts[place])
        return ".".join(parts)

    return made


def _flipped(part: str) -> str:
    return part[:5] + ("A" if part[5] != "A" else "B") + part[6:]


def _another_end(part: str) -> str:
    """The same bytes in another form: the last character has bits that stand for none."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(part) % 4
    return part[:-1] + letters[letters.index(part[-1]) ^ 1]


def _richer(part: str) -> str:
    """The claims with another role, under the signature of the former ones."""
    return encoded(json.dumps(claims(chromadb_role="admin")).encode())


def _der_signature() -> str:
    text = ".".join(signed(CURVE, ES256, claims()).split(".")[:2])
    return f"{text}.{encoded(CURVE.sign(text.encode(), ec.ECDSA(hashes.SHA256())))}"


def _by_public_key(algorithm: str, secret: bytes) -> str:
    return jwt.by_secret(secret, {"alg": algorithm}, claims())


SECRETS = {
    "pem": jwt.public(RSA),
    "pem without its end": jwt.public(RSA).strip(),
    "der": RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    "nothing": b"\0",
}
BAD_SIGNATURES: dict[str, Callable[[], str]] = {
    "none": lambda: _unsigned({"alg": "none"}),
    "none, as a text that is not empty": lambda: _unsigned({"alg": "none"}) + "AAAA",
    "None": lambda: _unsigned({"alg": "None"}),
    "nOnE": lambda: _unsigned({"alg": "nOnE"}),
    "RS256 without a signature": lambda: _unsigned({"alg": "RS256"}),
    "ES256 without a signature": lambda: _unsigned({"alg": "ES256"}),
    "no alg": _header({"typ": "JWT"}),
    "alg empty": _header({"alg": ""}),
    "alg null": _header({"alg": None}),
    "alg number": _header({"alg": 256}),
    "alg list": _header({"alg": ["RS256"]}),
    "alg object": _header({"alg": {"RS256": True}}),
    "alg true": _header({"alg": True}),
    "alg in lower case": _header({"alg": "rs256"}),
    "alg in mixed case": _header({"alg": "Rs256"}),
    "alg with a space": _header({"alg": "RS256 "}),
    "alg with a NUL": _header({"alg": "RS256\0"}),
    "Alg": _header({"Alg": "RS256"}),
    "alg twice": _header(b'{"alg":"RS256","alg":"RS256"}'),
    "alg twice, the first one none": _header(b'{"alg":"none","alg":"RS256"}'),
    "alg twice, once escaped": _header(b'{"alg":"RS256","\\u0061lg":"none"}'),
    "crit": _header({**RS256, "crit": ["b64"], "b64": False}),
    "crit, empty": _header({**RS256, "crit": []}),
    "typ of a logout": _header({**RS256, "typ": "logout+jwt"}),
    "typ of a proof": _header({**RS256, "typ": "dpop+jwt"}),
    "typ list": _header({**RS256, "typ": ["JWT"]}),
    "typ null": _header(b'{"alg":"RS256","typ":null}'),
    "header a list": _header(b'["RS256"]'),
    "header a text": _header(b'"RS256"'),
    "header empty": _header(b""),
    "header no JSON": _header(b"alg=RS256"),
    "header with more behind it": _header(b'{"alg":"RS256"}{}'),
    "header with a NUL behind it": _header(b'{"alg":"RS256"}\0'),
    "header in UTF-16": _header('{"alg":"RS256"}'.encode("utf-16")),
    "header with a mark of order": _header(b'\xef\xbb\xbf{"alg":"RS256"}'),
    "header with a bad byte": _header(b'{"alg":"RS256","kid":"\xff"}'),
    "header with a half of a pair": _header(b'{"alg":"RS256","kid":"\\ud800"}'),
    "header with a comment": _header(b'{"alg":"RS256"/**/}'),
    "header with a comma more": _header(b'{"alg":"RS256",}'),
    "header very deep": _header(b'{"alg":"RS256","x":' + b"[" * 900 + b"]" * 900 + b"}"),
    "HS256 with nothing known": lambda: jwt.by_secret(b"x", {"alg": "HS256"}, claims()),
    **{
        f"{algorithm} with the public key as {form}": partial(_by_public_key, algorithm, secret)
        for form, secret in SECRETS.items()
        for algorithm in ("HS256", "RS256", "ES256")
    },
    "RS384": _header({"alg": "RS384"}, RSA, "RS384"),
    "RS512": _header({"alg": "RS512"}, RSA, "RS512"),
    "PS256": _header({"alg": "PS256"}, RSA, "PS256"),
    "PS256 called RS256": _header({"alg": "RS256"}, RSA, "PS256"),
    "RS384 called RS256": _header({"alg": "RS256"}, RSA, "RS384"),
    "ES384 called ES256": _header({"alg": "ES256"}, CURVE, "ES384"),
    "ES384 on its own curve": _header({"alg": "ES384"}, ec.generate_private_key(ec.SECP384R1()), "ES384"),
    "another RSA key": _header(RS256, OTHER_RSA),
    "another key of the curve": _header(ES256, OTHER_CURVE),
    "another key, which the token names": _header(
        {**RS256, "jku": "https://evil.example/", "kid": "../../etc/x"}, OTHER_RSA
    ),
    "another key, which the token brings": _header(
        {**RS256, "jwk": {"kty": "RSA", "n": encoded(b"1"), "e": "AQAB"}}, OTHER_RSA
    ),
    "RSA key, called ES256": _header(ES256, RSA),
    "key of the curve, called RS256": _header(RS256, CURVE),
    "signature with a changed bit": _changed(2, _flipped),
    "signature of the curve with a changed bit": _changed(2, _flipped, CURVE),
    "signature in DER": _der_signature,
    "signature of zeros": _changed(2, lambda part: encoded(b"\0" * 64), CURVE),
    "signature of ones": _changed(2, lambda part: encoded(b"\0" * 31 + b"\1" + b"\0" * 31 + b"\1"), CURVE),
    "signature cut off": _changed(2, lambda part: part[:-4]),
    "signature with more": _changed(2, lambda part: part + "AAAA"),
    "signature of the curve with more": _changed(2, lambda part: part + "AAAA", CURVE),
    "signature of one byte": _changed(2, lambda part: "AA"),
    "signature in another form": _changed(2, _another_end, CURVE),
    "claims changed": _changed(1, _richer),
    "claims changed, of the curve": _changed(1, _richer, CURVE),
    "header in another form": _changed(0, lambda part: encoded(b'{"alg": "RS256", "typ":"JWT"}')),
}


@pytest.mark.parametrize("name", BAD_SIGNATURES)
def test_no_signature_of_the_provider(provider: Provider, name: str) -> None:
    before = len(provider.gateway.logged())
    assert not provider.get_in(BAD_SIGNATURES[name]())
    until(lambda: len(provider.gateway.logged()) > before, "a line")
    # What nobody has vouched for has no name.
    assert provider.gateway.logged()[-1]["token"] == "-"


BAD_FORMS: dict[str, Callable[[str], str]] = {
    "padded": lambda token: token.replace(".", "=.", 1),
    "padding behind": lambda token: token + "=",
    "plus": lambda token: "+" + token[1:],
    "slash": lambda token: token[:-1] + "/",
    "percent": lambda token: token.replace(".", "%2E", 1),
    "star": lambda token: token[:30] + "*" + token[31:],
    "two parts": lambda token: token.rpartition(".")[0],
    "four parts": lambda token: token + ".AAAA",
    "five parts": lambda token: token + ".AAAA.AAAA",
    "dot before": lambda token: "." + token,
    "dot behind": lambda token: token + ".",
    "dots alone": lambda token: "..",
    "one dot": lambda token: ".",
    "empty claims": lambda token: re.sub(r"\..*\.", "..", token),
    "one character": lambda token: "A." + token.split(".", 1)[1],
    "comma": lambda token: f"{token},{token}",
    "space": lambda token: token.replace(".", " .", 1),
    "tab": lambda token: token.replace(".", "\t.", 1),
    "header of ours before it": lambda token: "chr_" + token,
    "twice": lambda token: token + token,
}


@pytest.mark.parametrize("name", BAD_FORMS)
@pytest.mark.parametrize("key", [RSA, CURVE], ids=["rsa", "curve"])
def test_malformed(provider: Provider, name: str, key: jwt.Key) -> None:
    assert not provider.get_in(BAD_FORMS[name](signed(key, RS256 if key is RSA else ES256, claims())))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("form", [_another_end, lambda part: part + "=", lambda part: part + "A"])
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

# When the tests are collected, which may be an hour before they run
NOW = int(time.time())
DAY = 86400
NULL = object()
BAD_CLAIMS: dict[str, dict[str, Any] | bytes] = {
    "expired": {"exp": NOW - 1},
    "expired long ago": {"exp": 0},
    "no end": {"exp": None},
    "end negative": {"exp": -1},
    "end a text": {"exp": str(NOW + DAY)},
    "end a list": {"exp": [NOW + DAY]},
    "end an object": {"exp": {"at": NOW + DAY}},
    "end true": {"exp": True},
    "end with a fraction": {"exp": NOW + DAY + 0.5},
    "end huge": {"exp": 10**13},
    "end of 64 bits": {"exp": 2**63 - 1},
    "end of more than 64 bits": {"exp": 2**64 + NOW},
    "end of 400 digits": {"exp": 10**400},
    "end infinite": b"Infinity",
    "end 1e999": b"1e999",
    "end 1e10": b"1e10",
    "end -0": b"-0",
    "end with a plus": b"+2000000000",
    "end with a zero before it": b"02000000000",
    "end in hexadecimal": b"0x77359400",
    "end null": b"null",
    "end undefined": b"undefined",
    "not yet valid": {"nbf": NOW + DAY},
    "beginning a text": {"nbf": "0"},
    "beginning huge": {"nbf": 10**18},
    "beginning null": {"nbf": NULL},
    "beginning a list": {"nbf": [0]},
    "made in the future": {"iat": NOW + DAY},
    "made at a text": {"iat": str(NOW)},
    "made negative": {"iat": -5},
    "no issuer": {"iss": None},
    "another issuer": {"iss": "https://idp.example.org/realms/two"},
    "an issuer that begins so": {"iss": jwt.ISSUER + "/"},
    "an issuer in another case": {"iss": jwt.ISSUER.upper()},
    "an issuer with a NUL": {"iss": jwt.ISSUER + "\0"},
    "issuers": {"iss": [jwt.ISSUER]},
    "issuer an object": {"iss": {"iss": jwt.ISSUER}},
    "no audience": {"aud": None},
    "another audience": {"aud": "account"},
    "an audience in another case": {"aud": jwt.AUDIENCE.upper()},
    "an audience that begins so": {"aud": f"{jwt.AUDIENCE} account"},
    "other audiences": {"aud": ["account", "web"]},
    "no audiences": {"aud": []},
    "audiences in audiences": {"aud": [[jwt.AUDIENCE]]},
    "audiences of two kinds": {"aud": [jwt.AUDIENCE, 1]},
    "audiences with false before": {"aud": [False, jwt.AUDIENCE]},
    "audience an object": {"aud": {jwt.AUDIENCE: jwt.AUDIENCE}},
    "audience a list of that name": {"aud": {"list": [jwt.AUDIENCE]}},
    "audience true": {"aud": True},
    "no name": {"sub": None},
    "name empty": {"sub": ""},
    "name a list": {"sub": ["app"]},
    "name a number": {"sub": 7},
    "name an object": {"sub": {"name": "app"}},
    "name too long": {"sub": "x" * 61},
    "name with a quotation mark": {"sub": 'app","status":200,"x":"'},
    "name with a line": {"sub": "app\nchromadb"},
    "name with a backslash": {"sub": "app\\"},
    "name with a space": {"sub": "an app"},
    "name of another script": {"sub": "äpp"},
    "name with a NUL": {"sub": "app\0"},
    "no role": {"chromadb_role": None},
    "another role": {"chromadb_role": "root"},
    "role any": {"chromadb_role": "any"},
    "role in capitals": {"chromadb_role": "RW"},
    "role with a space": {"chromadb_role": "rw "},
    "role empty": {"chromadb_role": ""},
    "roles": {"chromadb_role": ["rw"]},
    "role an object": {"chromadb_role": {"rw": True}},
    "role a number": {"chromadb_role": 3},
    "role of Lua": {"chromadb_role": "__index"},
    "scopes empty": {"chromadb_scopes": []},
    "scopes an empty text": {"chromadb_scopes": ""},
    "scopes with a space behind": {"chromadb_scopes": "tena/dba "},
    "scopes with two spaces": {"chromadb_scopes": "tena/dba  tena/dbb"},
    "scopes with a comma": {"chromadb_scopes": "tena/dba,tenb/dbb"},
    "scope a tenant": {"chromadb_scopes": ["tena"]},
    "scope of three": {"chromadb_scopes": ["tena/dba/x"]},
    "scope without a tenant": {"chromadb_scopes": ["/dba"]},
    "scope without a database": {"chromadb_scopes": ["tena/"]},
    "scope with a pattern": {"chromadb_scopes": ["ten*/dba"]},
    "scope with two stars": {"chromadb_scopes": ["**/**"]},
    "scope encoded": {"chromadb_scopes": ["tena%2Fdba/x"]},
    "scope too long": {"chromadb_scopes": ["a" * 129 + "/b"]},
    "one good scope and one bad": {"chromadb_scopes": ["tena/dba", "x"]},
    "one good scope and null": {"chromadb_scopes": ["tena/dba", None]},
    "scope a list": {"chromadb_scopes": [["tena/dba"]]},
    "scopes an object": {"chromadb_scopes": {"tena": "dba"}},
    "scopes a number": {"chromadb_scopes": 1},
    "scopes true": {"chromadb_scopes": True},
    "for the holder of a key": {"cnf": {"jkt": "x"}},
}


def _payload(change: dict[str, Any] | bytes) -> bytes | dict[str, Any]:
    """bytes: stand for the end."""
    if isinstance(change, bytes):
        return json.dumps(claims(exp="END")).encode().replace(b'"END"', change)
    return {name: None if value is NULL else value for name, value in claims(**change).items()}


@pytest.mark.parametrize("name", BAD_CLAIMS)
def test_claims_that_are_not_as_they_should_be(provider: Provider, name: str) -> None:
    assert not provider.get_in(signed(RSA, RS256, _payload(BAD_CLAIMS[name])))
    assert not provider.get_in(signed(CURVE, ES256, _payload(BAD_CLAIMS[name])))


BODIES: dict[str, Callable[[bytes], bytes]] = {
    "end twice": lambda body: body[:-1] + b', "exp": 9999999999}',
    "end twice, the same": lambda body: re.sub(rb'("exp": \d+)', rb"\1, \1", body),
    "end twice, once escaped": lambda body: body[:-1] + b', "\\u0065xp": 9999999999}',
    "role twice": lambda body: body[:-1] + b', "chromadb_role": "admin"}',
    "issuer twice": lambda body: b'{"iss": "https://evil.example",' + body[1:],
    "name twice": lambda body: body[:-1] + b', "sub": "other"}',
    "a claim that nobody reads twice": lambda body: body[:-1] + b', "x": 1, "x": 1}',
    "twice further down": lambda body: body[:-1] + b', "x": {"y": [{"z": 1, "z": 2}]}}',
    "nothing": lambda body: b"",
    "null": lambda body: b"null",
    "list": lambda body: b"[" + body + b"]",
    "text": lambda body: json.dumps(body.decode()).encode(),
    "cut off": lambda body: body[:-1],
    "more behind": lambda body: body + b"x",
    "another behind": lambda body: body + body,
    "comma more": lambda body: body[:-1] + b",}",
    "quotation marks of another kind": lambda body: body.replace(b'"', b"'"),
    "names without quotation marks": lambda body: re.sub(rb'"(\w+)":', rb"\1:", body),
    "bad byte": lambda body: body[:-1] + b', "x": "\xc3("}',
    "line in a text": lambda body: body[:-1] + b', "x": "a\nb"}',
    "unknown escape": lambda body: body[:-1] + b', "x": "\\x41"}',
    "half a pair": lambda body: body[:-1] + b', "x": "\\ud83d"}',
    "pair the wrong way round": lambda body: body[:-1] + b', "x": "\\ude00\\ud83d"}',
    "half a pair and a letter": lambda body: body[:-1] + b', "x": "\\ud83d\\u0041"}',
    "escape cut off": lambda body: body[:-1] + b', "x": "\\u12',
    "deep": lambda body: body[:-1] + b', "x": ' + b"[" * 9 + b"]" * 9 + b"}",
    "deeper than Lua's stack": lambda body: body[:-1] + b', "x": ' + b"[" * 2500,
    "compressed": lambda body: b"\x1f\x8b\x08" + body,
    "a comment": lambda body: body.replace(b",", b",//\n", 1),
    "NaN": lambda body: body[:-1] + b', "x": NaN}',
    "a number that is none": lambda body: body[:-1] + b', "x": 1.}',
    "a dot first": lambda body: body[:-1] + b', "x": .5}',
    "space of another kind": lambda body: body[:-1] + b', "x":\xc2\xa01}',
}


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
