"""The requests of an attack as data, and what may come back. Nothing here asks anybody."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.integration import gateway_cases, gateway_routes, raw_http
from tests.integration.gateway_routes import ROLES, UNKNOWN
from tests.integration.raw_http import END_HEADERS, END_STREAM

ROUTES = gateway_routes.read()
BY_ID = [route for route in ROUTES if "{id}" in route.path]
OF_TENANTS = [route for route in ROUTES if "{tenant}" in route.path]
MINE_TOP = gateway_cases.TOP
THEIR_TOP = "/api/v2/tenants/tenb/databases/dbb"


@dataclass(frozen=True)
class Case:
    """One request, or several on one connection. allowed: the statuses that each answer may have. ends: seconds in which it is over."""

    title: str
    parts: tuple[bytes, ...]
    allowed: frozenset[int]
    kind: str = "http1"
    streams: int = 1
    pause: float = 0
    once: bool = False
    words: tuple[str, ...] = ()
    # What the answer must hold, and must not
    holds: str = ""
    lacks: str = ""
    ends: float = 30
    # Of the client, with its key
    certificate: str = ""

    def sent(self) -> dict[str, Any]:
        """As the sender is told it."""
        return {
            "kind": self.kind,
            "parts": [base64.b64encode(part).decode() for part in self.parts],
            "streams": self.streams,
            "pause": self.pause,
            "once": self.once,
            "words": self.words,
            "certificate": self.certificate,
        }

    def problem(self, answer: dict[str, Any]) -> str:
        """What is wrong with an answer; empty when nothing is."""
        if answer["error"] and self.kind != "plain" and 0 not in self.allowed:
            return f"no answer: {answer['error']}"
        if not set(answer["statuses"]) <= self.allowed | {0}:
            return (
                f"statuses {answer['statuses']}, of which only {sorted(self.allowed)} may be: {answer['text'][-300:]}"
            )
        if self.holds and self.holds not in answer["text"]:
            return f"does not say {self.holds!r}: {answer['text'][-300:]}"
        if self.lacks and self.lacks in answer["text"]:
            return f"says {self.lacks!r}"
        if answer["seconds"] > self.ends:
            return f"took {answer['seconds']:.0f} s"
        return ""


@dataclass(frozen=True)
class House:
    """What attackers know: tokens and certificates by what they are called here, and ids of collections in two tenants."""

    tokens: dict[str, str]
    mine: str
    theirs: str
    secret: str
    # Each with its key
    certificates: dict[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.tokens or name in self.certificates

    def case(self, title: str, who: str, allowed: set[int], *request: Any, **more: Any) -> Case:
        """The request of somebody who comes with a token or a certificate of this name. request: as `asked` has it after the token."""
        sent = asked(self.tokens.get(who, ""), *request)
        return Case(title, (sent,), frozenset(allowed), certificate=self.certificates.get(who, ""), **more)

    def of(self, text: str) -> str:
        """A text of the table of cases, for the collections of this host."""
        return text.replace(gateway_cases.MINE, self.mine).replace(gateway_cases.THEIRS, self.theirs)


def head(first: str, token: str = "", *lines: str, close: bool = True) -> bytes:
    fields = ["Host: localhost", *([f"Authorization: Bearer {token}"] if token else []), *lines]
    return "\r\n".join([first, *fields, *(["Connection: close"] if close else []), "", ""]).encode("latin-1")


def asked(token: str, method: str, path: str, content: object = None, *lines: str) -> bytes:
    """A sound request with a JSON body, if there is content."""
    if content is None:
        return head(f"{method} {path} HTTP/1.1", token, *lines)
    body = json.dumps(content).encode()
    sizes = (f"Content-Length: {len(body)}", "Content-Type: application/json")
    return head(f"{method} {path} HTTP/1.1", token, *sizes, *lines) + body


def all_cases(house: House) -> list[Case]:
    """Everything that needs no change of the host between two of them."""
    # The slow ones first: others go on beside them.
    groups = (transport, nobody, roles, tenants, ids, names, forms, lengths, http2)
    return [case for group in groups for case in group(house)]


def nobody(house: House) -> Iterator[Case]:
    """Without a token that holds here and now."""
    good = house.tokens["rw"]
    hashed = hashlib.sha256(good.encode()).hexdigest().upper()
    for headers in gateway_cases.NO_TOKENS:
        lines = [
            f"{name}: {value.format(token=good, upper=good.upper(), hash=hashed)}" for name, value in headers.items()
        ]
        path = f"{MINE_TOP}/collections/{house.mine}/count"
        yield Case(f"no token: {headers}"[:80], (head(f"GET {path} HTTP/1.1", "", *lines),), frozenset({401}))
    for name in ("none", "wrong", "revoked", "rotated", "expired", "elsewhere"):
        for route in ROUTES:
            path = route.filled("tena", "dba", house.mine)
            content = gateway_routes.body(route)
            token = house.tokens.get(name, "")
            request = asked(token, route.method, path, content, "X-Forwarded-For: 10.99.0.1")
            yield Case(f"{name} token: {route}", (request,), frozenset({403 if name == "elsewhere" else 401}))


# What comes before a role in the names of tokens, and of the identity provider's tokens and certificates that have it
KINDS = ("", "whole-", "jwt-", "c-")


def roles(house: House) -> Iterator[Case]:
    for route in ROUTES:
        for role in ROLES:
            for kind in KINDS:
                who = kind + role
                if (route.permits(role) and "all = true" not in route.more) or not house.has(who):
                    continue
                request = (route.method, route.filled("tena", "dba", house.mine), gateway_routes.body(route))
                yield house.case(f"{who}: {route}", who, {403}, *request, holds=" 403 ")


def tenants(house: House) -> Iterator[Case]:
    for route in OF_TENANTS:
        for role in ("ro", "rw", "admin"):
            for kind in KINDS:
                for tenant, database in (("tenb", "dbb"), ("tenb", "dba")):
                    who = kind + role
                    request = (route.method, route.filled(tenant, database, house.theirs), gateway_routes.body(route))
                    yield house.case(f"{who} in {tenant}/{database}: {route}", who, {403}, *request, holds=" 403 ")


def by_id(house: House, collection: str, when: str) -> Iterator[Case]:
    """A collection that is not tena's, through tena's path, on every verb."""
    for route in BY_ID:
        for name in ("ro", "rw", "admin", "whole-admin", "jwt-rw", "jwt-admin", "c-rw", "c-admin"):
            if route.permits(name.rpartition("-")[2]):
                request = (route.method, route.filled("tena", "dba", collection), gateway_routes.body(route))
                title = f"{when}, {name}: {route}"
                yield house.case(title, name, {404}, *request, holds="does not exist", lacks=house.secret)


def ids(house: House) -> Iterator[Case]:
    yield from by_id(house, house.theirs, "another's")
    yield from by_id(house, UNKNOWN, "nobody's")
    plain = house.theirs.replace("-", "")
    forms = [house.theirs.upper(), plain, f"urn:uuid:{house.theirs}", f"{{{house.theirs}}}", house.theirs[:-1]]
    for form in forms:
        for verb in ("count", "get", "query", "delete"):
            method = "GET" if verb == "count" else "POST"
            path = f"{MINE_TOP}/collections/{form}/{verb}"
            yield Case(
                f"form of id: {form} {verb}",
                (asked(house.tokens["rw"], method, path, None if verb == "count" else {}),),
                frozenset({400, 404}),
                lacks=house.secret,
            )


def names(house: House) -> Iterator[Case]:
    for name in ("theirs", house.theirs, "moving", "moved"):
        for method, content in (("GET", None), ("DELETE", None), ("PUT", {"new_name": "taken"})):
            for token in ("rw", "whole-admin"):
                request = asked(house.tokens[token], method, f"{MINE_TOP}/collections/{name}", content)
                yield Case(f"by name: {token} {method} {name}", (request,), frozenset({400, 404}), lacks=house.secret)


def forms(house: House) -> Iterator[Case]:
    """Paths, methods and heads that no client sends."""
    token = house.tokens["rw"]
    count = house.of(gateway_cases.COUNT)
    refused = frozenset({400, 403, 404, 405, 410, 414})
    for path in gateway_cases.PATHS:
        # As in the address, so in a request for another verb
        request = head(f"GET {house.of(path)} HTTP/1.1", token)
        yield Case(f"path {path[:60]!r}", (request,), refused, lacks=house.secret)
    for path in gateway_cases.PATHS:
        request = head(f"GET {house.of(path)} HTTP/1.1")
        yield Case(f"path {path[:60]!r}, no token", (request,), refused | {401}, lacks=house.secret)
    for method in gateway_cases.METHODS:
        yield Case(f"method {method[:20]}", (head(f"{method} {count} HTTP/1.1", token),), refused)
    for line in gateway_cases.WRONG_LINES:
        # Where it is left out, or is a part of the line before it, this is tena's own count.
        request = head(f"GET {count} HTTP/1.1", token, line)
        yield Case(f"line {line!r}", (request,), frozenset({200, 400, 401, 403}), lacks=house.secret)
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Original-URL", "X-Rewrite-URL"):
        for value in ("DELETE", f"{THEIR_TOP}/collections/{house.theirs}/get", "/api/v2/reset"):
            request = asked(
                house.tokens["ro"],
                "POST",
                f"{house.of(gateway_cases.TOP)}/collections/{house.theirs}/get",
                {},
                f"{name}: {value}",
            )
            yield Case(f"{name}: {value[:30]}", (request,), frozenset({404}), lacks=house.secret)
    # Where no token belongs, and from where it is not to be written down
    for path in (f"/api/v2/{token}", f"{count}?token={token}", f"{count}/{token}?{token}"):
        yield Case("token in a path", (head(f"GET {path} HTTP/1.1", token, f"Referer: {token}"),), refused)
    for number, request in enumerate(
        (
            head(f"GET {count} HTTP/1.1", token, *(f"X-{each}: {each}" for each in range(100))),
            head(f"GET {count} HTTP/1.1", token, f"X-Long: {'x' * 70000}"),
            head(f"GET /api/v2/{'x' * 70000} HTTP/1.1", token),
            head(f"GET {count} HTTP/1.1", "", f"Authorization: Bearer {'x' * 60000}"),
        )
    ):
        yield Case(f"flood of heads {number}", (request,), frozenset({400, 401, 414, 431}))


def hidden(house: House, number: int) -> bytes:
    """A request of tena's that would be seen in tenb if anybody took it for one that has been judged."""
    body = f'{{"name":"smuggled-{number}"}}'.encode()
    lines = (f"Content-Length: {len(body)}", "Content-Type: application/json")
    return head(f"POST {THEIR_TOP}/collections HTTP/1.1", house.tokens["rw"], *lines) + body


def lengths(house: House) -> Iterator[Case]:
    """Bodies with two ends. The engine refuses what it gets of them, and what is left over is judged for itself."""
    token, query = house.tokens["rw"], house.of(gateway_cases.QUERY)
    refused = frozenset({400, 403, 405, 411, 413, 415, 422})

    def post(*lines: str) -> bytes:
        return head(f"POST {query} HTTP/1.1", token, "Content-Type: application/json", *lines, close=False)

    for number, lines in enumerate(gateway_cases.LENGTHS):
        request = post(*lines) + b"0\r\n\r\n" + hidden(house, number)
        yield Case(f"lengths {lines}"[:80], (request,), refused, lacks=house.secret)
    for number, end in enumerate(gateway_cases.CHUNKS):
        request = post("Transfer-Encoding: chunked") + end + hidden(house, 100 + number)
        yield Case(f"chunks {end!r}", (request,), refused, lacks=house.secret)
    for number, version in enumerate(gateway_cases.VERSIONS):
        # Of a version that is spoken, the count of tena's own is answered.
        allowed = refused | {200, 505} if version.strip() == "HTTP/1.1" else refused | {505}
        count = house.of(gateway_cases.COUNT)
        request = head(f"GET {count} {version}", token) + hidden(house, 200 + number)
        yield Case(f"version {version!r}", (request,), frozenset(allowed), lacks=house.secret)
    for number, method in enumerate(("GET", "DELETE")):
        path = f"{house.of(gateway_cases.TOP)}/collections/nothing"
        inner = hidden(house, 300 + number)
        for line in (f"Content-Length: {len(inner)}", "Transfer-Encoding: chunked"):
            yield Case(
                f"body of {method}, {line[:14]}", (head(f"{method} {path} HTTP/1.1", token, line) + inner,), refused
            )


def http2(house: House) -> Iterator[Case]:
    token = house.tokens["rw"].encode()
    query, count = house.of(gateway_cases.QUERY).encode(), house.of(gateway_cases.COUNT).encode()
    refused = frozenset({0, 400, 401, 403, 404, 405, 411, 413, 414, 415, 422})

    def fields(path: bytes, method: bytes = b"GET", *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        return [
            (b":method", method),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path),
            (b"authorization", b"Bearer " + token),
            *more,
        ]

    def case(title: str, *frames: bytes, streams: int = 1) -> Case:
        return Case(title, frames, refused, "http2", streams)

    for path in gateway_cases.PATHS2:
        yield case(f"h2 path {path!r}", raw_http.request(1, fields(house.of(path).encode("latin-1"))))
    for name, value in gateway_cases.FIELDS2:
        instead = name == b"content-length" and value in (b"0", b"1", b"30", b"")
        basic = [
            each for each in fields(query, b"POST", (b"content-length", b"2")) if not (instead and each[0] == name)
        ]
        yield case(f"h2 field {name!r}: {value!r}", raw_http.request(1, [*basic, (name, value)], b"{}"))
    for method in gateway_cases.METHODS2:
        yield case(f"h2 method {method[:20]!r}", raw_http.request(1, fields(count, method)))
    yield case("h2 without a length", raw_http.request(1, fields(query, b"POST"), b"{}"))
    yield case("h2 body of a GET", raw_http.request(1, fields(count), hidden(house, 400)))
    yield case(
        "h2 longer than it says",
        raw_http.request(1, fields(query, b"POST", (b"content-length", b"2")), b"{}" + hidden(house, 401)),
    )
    yield case("h2 reset, h2 no token", raw_http.request(1, fields(b"/api/v2/reset", b"POST")))
    block = raw_http.block(fields(count))
    yield case(
        "h2 headers without end",
        raw_http.frame(raw_http.HEADERS, END_STREAM, 1, block)
        + b"".join(
            raw_http.frame(raw_http.CONTINUATION, 0, 1, raw_http.block([(b"x", b"y" * 1000)])) for _ in range(200)
        ),
    )
    yield case(
        "h2 streams opened and reset",
        b"".join(
            raw_http.frame(
                raw_http.HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, raw_http.block(fields(b"/api/v2/reset", b"POST"))
            )
            + raw_http.frame(raw_http.RESET, 0, 2 * n + 1, b"\0\0\0\x08")
            for n in range(500)
        ),
    )


def transport(house: House) -> Iterator[Case]:
    """TLS, and requests that take their time or too much room."""
    none = "Cipher is (NONE)"
    for options, accepted in gateway_cases.TLS:
        yield Case(
            f"TLS {' '.join(options)}",
            (),
            frozenset({0, 1}),
            "openssl",
            words=("-cipher", "ALL:@SECLEVEL=0", *options),
            holds="" if accepted else none,
            lacks=none if accepted else "",
        )
    yield Case("renegotiation", (b"R\n",), frozenset({0, 1}), "openssl", words=("-tls1_2",), holds="renegotiation")
    token = house.tokens["rw"]
    count = house.of(gateway_cases.COUNT)
    yield Case("without TLS", (head(f"GET {count} HTTP/1.1", token),), frozenset({400}), "plain", lacks=" 200 ")
    large = head(f"POST {house.of(gateway_cases.QUERY)} HTTP/1.1", token, "Content-Length: 50000000")
    yield Case("body of 50 MB", (large + b"x" * 100000,), frozenset({413}), once=True, ends=10)
    slow = [head(f"POST {house.of(gateway_cases.QUERY)} HTTP/1.1", token, "Content-Length: 1000"), *([b"x"] * 12)]
    yield Case("body that trickles", tuple(slow), frozenset({0, 400, 408}), pause=1, once=True, ends=18)
    trickle = [b"GET /api/v2/heartbeat HTTP/1.1\r\n", *([b"X: y\r\n"] * 12)]
    yield Case("head that trickles", tuple(trickle), frozenset({0, 400, 408}), pause=1, once=True, ends=18)


def titles(cases: Iterable[Case]) -> dict[str, int]:
    """How many there are, by the first word."""
    found: dict[str, int] = {}
    for case in cases:
        word = case.title.split(" ")[0].rstrip(":,")
        found[word] = found.get(word, 0) + 1
    return found
