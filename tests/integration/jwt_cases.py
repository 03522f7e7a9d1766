"""Keys of an identity provider, and tables of tokens that it has not made, or not for this gateway."""

import json
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.integration import jwt
from tests.integration.jwt import claims, encoded, signed

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


def another_end(part: str) -> str:
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
    "signature in another form": _changed(2, another_end, CURVE),
    "claims changed": _changed(1, _richer),
    "claims changed, of the curve": _changed(1, _richer, CURVE),
    "header in another form": _changed(0, lambda part: encoded(b'{"alg": "RS256", "typ":"JWT"}')),
}

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


def payload(change: dict[str, Any] | bytes) -> bytes | dict[str, Any]:
    """bytes: stand for the end."""
    if isinstance(change, bytes):
        return json.dumps(claims(exp="END")).encode().replace(b'"END"', change)
    return {name: None if value is NULL else value for name, value in claims(**change).items()}


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
