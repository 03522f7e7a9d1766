"""Tokens of an identity provider that a gateway trusts, and those that it has not made, or not for this."""

import json
import time
from collections.abc import Iterator

from tests.gateway_attacks.cases import MINE_TOP, THEIR_TOP, Case, House, asked, head
from tests.integration import jwt, jwt_cases
from tests.integration.gateway_routes import ROLES
from tests.integration.jwt import claims, signed
from tests.integration.jwt_cases import CURVE, DAY, ES256, RS256, RSA

# What other services, and other versions of this one, might take for rights
_MORE_RIGHTS: dict[str, dict[str, object]] = {
    "role": {"role": "admin", "roles": ["admin"], "scope": "admin", "groups": ["admin", "root"]},
    "role of a realm": {"realm_access": {"roles": ["admin"]}, "resource_access": {jwt.AUDIENCE: {"roles": ["admin"]}}},
    "role in another case": {"CHROMADB_ROLE": "admin", "Chromadb_Role": "admin"},
    "role with a space": {"chromadb_role ": "admin", " chromadb_role": "admin", "chromadb_role\0": "admin"},
    "role under a name": {"claims": {"chromadb_role": "admin", "chromadb_scopes": ["*/*"]}, "admin": True},
    "role of Lua": {"members": {"chromadb_role": "admin"}, "list": ["admin"], "rights": {"role": "admin"}},
    "scopes of other names": {
        "scopes": ["*/*"],
        "tenants": ["*"],
        "tenant": "*",
        "database": "*",
        "chromadb_scope": "*/*",
    },
    "name of a token": {"sub": "t-root"},
    "name of a token as the log has it": {"sub": "t-root|admin"},
    "name of a certificate": {"sub": "certificate:c-admin"},
}


def tokens() -> dict[str, str]:
    """One of each role for tena, by what they are called here; they hold for an hour."""
    found = {}
    for number, role in enumerate(ROLES):
        key, header = ((RSA, RS256), (CURVE, ES256))[number % 2]
        said = claims(exp=int(time.time()) + 3600, sub=f"app-{role}", chromadb_role=role)
        found[f"jwt-{role}"] = signed(key, header, said)
    return found


def cases(house: House) -> Iterator[Case]:
    count = f"{MINE_TOP}/collections/{house.mine}/count"
    for key, header in ((RSA, RS256), (CURVE, ES256), (jwt_cases.KEYS[0], RS256)):
        # Otherwise they would all be refused for another reason.
        yield Case("jwt: sound", (asked(signed(key, header, claims()), "GET", count),), frozenset({200}), holds=" 200 ")
    for title, token in _unsound():
        request = asked(token, "GET", count)
        yield Case(f"jwt: {title}", (request,), frozenset({401}), holds=" 401 ", lacks=house.secret)
    yield from _together(house, count)
    yield from _richer(house)


def _unsound() -> Iterator[tuple[str, str]]:
    sound, curved = signed(RSA, RS256, claims()), signed(CURVE, ES256, claims())
    for name, make in jwt_cases.BAD_SIGNATURES.items():
        yield name, make()
    for name, change in jwt_cases.BAD_FORMS.items():
        yield name, change(sound)
        yield f"{name}, of the curve", change(curved)
    for name, claim in jwt_cases.BAD_CLAIMS.items():
        yield name, signed(RSA, RS256, jwt_cases.payload(claim))
        yield f"{name}, of the curve", signed(CURVE, ES256, jwt_cases.payload(claim))
    body = json.dumps(claims()).encode()
    for name, rewrite in jwt_cases.BODIES.items():
        yield name, signed(RSA, RS256, rewrite(body))
    for size in (8193, 20000, 40000):
        yield f"of more than {size} characters", signed(RSA, RS256, claims(padding="x" * size))
    kids = ("../../../../etc/passwd", "/dev/null", "key-1.pem", "' OR 1=1 --", "|sh", "x" * 4000, "", None, ["one"], 0)
    for kid in kids:
        yield f"key id {str(kid)[:30]}", signed(jwt_cases.OTHER_RSA, {**RS256, "kid": kid}, claims())


def _together(house: House, count: str) -> Iterator[Case]:
    """Two tokens, of which one is sound."""
    token, ours = signed(RSA, RS256, claims()), house.tokens["rw"]
    wrong = signed(jwt_cases.OTHER_RSA, RS256, claims(sub="other"))
    for first in (token, wrong):
        for second in (token, wrong, ours):
            for name in ("Authorization: Bearer", "X-Chroma-Token:"):
                request = head(f"GET {count} HTTP/1.1", first, f"{name} {second}")
                yield Case("jwt and another token", (request,), frozenset({401}), holds=" 401 ")


def _richer(house: House) -> Iterator[Case]:
    """What a sound token may not, whatever else it says of itself."""
    theirs = f"{THEIR_TOP}/collections/{house.theirs}"
    for title, more in _MORE_RIGHTS.items():
        token = signed(RSA, RS256, claims(exp=jwt_cases.NOW + DAY, **more))
        for method, path, content in (
            ("POST", "/api/v2/reset", {}),
            ("POST", "/api/v2/tenants", {"name": "richer"}),
            ("POST", "/api/v2/tenants/tena/databases", {"name": "richer"}),
            ("GET", "/api/v2/tenants/tenb", None),
            ("POST", f"{theirs}/get", {}),
            ("DELETE", f"{THEIR_TOP}/collections/theirs", None),
        ):
            request = asked(token, method, path, content)
            yield Case(f"jwt with {title}: {method} {path}", (request,), frozenset({401, 403}), lacks=house.secret)
