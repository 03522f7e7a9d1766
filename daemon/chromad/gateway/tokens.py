"""`tokens.json`: whose tokens the gateway lets in, and with which rights; and `tokens.map`, which is made from it.

`tokens.json` is one document, `Tokens`. The text of a token is in neither file: they hold its SHA-256, in upper-case hexadecimal
digits. 32 random bytes are behind it, so there is nothing to guess, and no salt is needed.

`tokens.map` has the form of HAProxy's maps, one line for each secret: the SHA-256, a space, and `name|role|scopes|expires|networks`.
In the place of the SHA-256, a token without secrets has `certificate:name`: it is for whoever connects with a client's certificate of
this name.
scopes: `tenant/database` pairs divided by commas, each part a name or `*`. expires: seconds since the epoch, 0 for never. networks:
divided by commas, or `*` for everywhere.
"""

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from chromad.errors import ConfigurationError, UsageProblem, one_line
from chromad.fields import Moment, MomentOrNone

FORMAT = 1
Role = Literal["ro", "rw", "admin", "metrics"]
# What a token of role metrics reaches of the data: no tenant and no database has a name of one character.
NOWHERE = "-/-"
EVERYWHERE = "*/*"

_PREFIX = "chr_"
_BYTES = 32
# Before its end, what expires is told of for so long.
SOON = timedelta(days=14)
# How long one that has expired is still shown, and refused by its name.
_KEPT = timedelta(days=30)
_LONGEST = 4096  # characters of a line; HAProxy reads and is told 16 KiB at most
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# What the gateway lets through in a path
_PLACE = re.compile(r"[A-Za-z0-9._~-]{1,128}")


def _scope(text: str) -> str:
    parts = text.split("/")
    if len(parts) != 2 or not all(part == "*" or _PLACE.fullmatch(part) for part in parts):
        raise ValueError("a scope is TENANT/DATABASE")
    return text


def _network(text: str) -> str:
    if "%" in text:
        raise ValueError("a network has no zone")
    if text != str(ipaddress.ip_network(text)):
        raise ValueError("a network is ADDRESS/BITS")
    return text


class _Stored(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Secret(_Stored):
    """A text that a token has. expires: of a former one, which a rotation has left for a while; empty for the newest."""

    sha256: Annotated[str, Field(pattern=r"^[0-9A-F]{64}$")]
    expires: MomentOrNone = ""


class Token(_Stored):
    """networks: that it may come from, none for everywhere. expires: empty for never. certificate: whether a client's certificate
    whose CN is the name stands for a secret. secrets: the newest last."""

    name: Annotated[str, Field(pattern=rf"^{_NAME.pattern}$")]
    role: Role
    scopes: Annotated[tuple[Annotated[str, AfterValidator(_scope)], ...], Field(min_length=1)]
    networks: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    created: Moment
    expires: MomentOrNone = ""
    certificate: bool = False
    secrets: tuple[Secret, ...]

    @model_validator(mode="after")
    def _one_way_in(self) -> "Token":
        if self.certificate == bool(self.secrets):
            raise ValueError("a token has secrets or a certificate")
        return self

    def ends(self, secret: Secret) -> datetime | None:
        """When one of its secrets expires, None for never."""
        return min((datetime.fromisoformat(each) for each in (self.expires, secret.expires) if each), default=None)

    def expired(self, now: datetime) -> bool:
        """Whether nobody comes in with it any more."""
        return bool(self.expires) and datetime.fromisoformat(self.expires) <= now

    def former_until(self, now: datetime) -> str:
        """Until when one of its former secrets lets in as well; empty where none does."""
        ends = [each for each in map(self.ends, self.secrets[:-1]) if each and each > now]
        return moment(max(ends)) if ends else ""


class Tokens(_Stored):
    """The document. Names and secrets are there once."""

    format: int = FORMAT
    tokens: tuple[Token, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> "Tokens":
        names = [each.name for each in self.tokens]
        hashes = [secret.sha256 for each in self.tokens for secret in each.secrets]
        if len(set(names)) < len(names) or len(set(hashes)) < len(hashes):
            raise ValueError("a name or a secret is there twice")
        return self

    def find(self, name: str) -> Token | None:
        """The token of this name."""
        return next((each for each in self.tokens if each.name == name), None)

    def get(self, name: str) -> Token:
        """The token of this name. Raises ConfigurationError where there is none."""
        found = self.find(name)
        if found is None:
            known = ", ".join(each.name for each in self.tokens[:20]) or "none"
            raise ConfigurationError(
                f"there is no token {one_line(name, 80)}", f"there are: {known}; see chromactl token list"
            )
        return found

    def with_token(self, token: Token) -> "Tokens":
        """With one more, or another one in the place of the one of its name; sorted by name."""
        others = [each for each in self.tokens if each.name != token.name]
        return Tokens(tokens=tuple(sorted([*others, token], key=lambda each: each.name)))

    def without(self, name: str) -> "Tokens":
        """Without the token of this name."""
        return Tokens(tokens=tuple(each for each in self.tokens if each.name != name))

    def swept(self, now: datetime) -> "Tokens":
        """Without former secrets that have expired, and without tokens that have a month ago."""
        kept = []
        for each in self.tokens:
            if each.expires and datetime.fromisoformat(each.expires) <= now - _KEPT:
                continue
            left = tuple(s for s in each.secrets if not s.expires or datetime.fromisoformat(s.expires) > now)
            kept.append(each.model_copy(update={"secrets": left or each.secrets[-1:]}))
        return Tokens(tokens=tuple(kept))

    def entries(self) -> dict[str, str]:
        """What the map holds: a value for each SHA-256."""
        return dict(entry for each in self.tokens for entry in _entries(each))


def _entries(token: Token) -> Iterator[tuple[str, str]]:
    scopes, networks = ",".join(token.scopes), ",".join(token.networks) or "*"

    def value(expires: datetime | None) -> str:
        return f"{token.name}|{token.role}|{scopes}|{int(expires.timestamp()) if expires else 0}|{networks}"

    if token.certificate:
        yield f"certificate:{token.name}", value(datetime.fromisoformat(token.expires) if token.expires else None)
    for secret in token.secrets:
        yield secret.sha256, value(token.ends(secret))


def make_text() -> str:
    """The text of a new token."""
    return _PREFIX + secrets.token_urlsafe(_BYTES)


def hashed(text: str) -> Secret:
    """What is kept of it."""
    return Secret(sha256=hashlib.sha256(text.encode()).hexdigest().upper())


def rotated(token: Token, text: str, until: datetime, expires: str = "") -> Token:
    """With a new text; those that it has let in until a time at most, and no longer than they would have. expires: when it does
    from now on; empty: as before."""
    former = [
        each.model_copy(update={"expires": moment(min(until, token.ends(each) or until))}) for each in token.secrets
    ]
    return token.model_copy(update={"secrets": (*former, hashed(text)), "expires": expires or token.expires})


def moment(time: datetime) -> str:
    """A time as it is written here."""
    return time.astimezone(UTC).isoformat(timespec="seconds")


# What an operator writes


def parse_name(text: str) -> str:
    """The name of a token. Raises UsageProblem."""
    if not _NAME.fullmatch(text):
        raise UsageProblem(
            f"{one_line(repr(text), 80)} is no name of a token",
            "1 to 64 of a-z, 0-9, dot, hyphen and underscore, a letter or a digit first",
        )
    return text


def parse_scopes(role: Role, tenants: list[str], databases: list[str]) -> tuple[str, ...]:
    """Each of these databases in each of these tenants. Where none are named: all for an admin, else what Chroma's clients go to by
    themselves. Raises UsageProblem."""
    if role == "metrics":
        if tenants or databases:
            raise UsageProblem("a token of role metrics reads no data", "leave out --tenant and --database")
        return (NOWHERE,)
    if role == "admin" and not tenants and not databases:
        return (EVERYWHERE,)
    for option, texts in (("tenant", tenants), ("database", databases)):
        for text in texts:
            if text != "*" and not _PLACE.fullmatch(text):
                hint = "1 to 128 of A-Z, a-z, 0-9, dot, underscore, tilde and hyphen, or * alone for all"
                raise UsageProblem(f"{one_line(repr(text), 80)} is no {option} that the gateway lets through", hint)
    whole = tenants or ["default_tenant"]
    part = databases or ["*" if tenants else "default_database"]
    return tuple(dict.fromkeys(f"{tenant}/{database}" for tenant in whole for database in part))


def parse_networks(texts: list[str]) -> tuple[str, ...]:
    """Networks or single addresses. Raises UsageProblem."""
    return tuple(dict.fromkeys(map(_parse_network, texts)))


def _parse_network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
        found = _network(str(network))
    except ValueError:
        pass
    else:
        # The gateway's sockets are of one kind each.
        if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
            plain = ipaddress.ip_network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
            raise UsageProblem(f"{text} is IPv4 in the form of IPv6, and nobody comes from there", f"{plain} is meant")
        return found
    try:
        meant = _network(str(ipaddress.ip_network(text, strict=False)))
    except ValueError:
        raise UsageProblem(
            f"{one_line(repr(text), 80)} is no network", "as in 10.1.0.0/16, 2001:db8::/32 or 192.0.2.7"
        ) from None
    raise UsageProblem(f"{text} is an address in a network", f"{meant}, or the address alone")


def parse_expiry(text: str, now: datetime) -> datetime:
    """When a token expires: a time from now on, or a date. Raises UsageProblem for one that has passed."""
    hint = "a number and h or d, such as 90d; a date, which begins at 00:00 UTC; or a time, 2027-01-31T18:00:00+01:00"
    try:
        if match := re.fullmatch(r"(\d{1,5})([hd])", text, re.ASCII):
            found = now + timedelta(hours=int(match[1]) * (24 if match[2] == "d" else 1))
        else:
            found = datetime.fromisoformat(text)
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageProblem(f"{one_line(repr(text), 80)} is no time at which a token could expire", hint) from None
    if found <= now:
        raise UsageProblem(f"{text} is over, it is {moment(now)} now", hint)
    return found.replace(microsecond=0)


def need_short(token: Token) -> None:
    """Raises UsageProblem for one with more scopes and networks than the gateway takes."""
    for _, value in _entries(token):
        if len(value) > _LONGEST:
            raise UsageProblem(
                f"{token.name}: tenants, databases and networks take {len(value)} characters, {_LONGEST} are the limit",
                "wider networks, * for all databases of a tenant, or more tokens than one",
            )
