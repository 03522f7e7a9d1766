"""chromactl token: add, list, revoke, rotate."""

import logging
import os
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from chromad.cli import ui
from chromad.config import parse_duration
from chromad.errors import ChromadError, ConfigurationError, PermissionProblem, UsageProblem, one_line
from chromad.gateway import token_store, tokens
from chromad.gateway.token_store import Applied
from chromad.gateway.tokens import SOON, Role, Token, Tokens
from chromad.host import signals, streams
from chromad.logs import events, lines

app = typer.Typer(
    help="Give, list, rotate and take back the tokens that the gateway lets in.",
    no_args_is_help=True,
    add_completion=False,
)

_COLUMNS = ("NAME", "ROLE", "TENANT/DATABASE", "FROM", "EXPIRES", "STATE")
# Of the file that a secret is printed into
_OTHERS = stat.S_IRGRP | stat.S_IROTH

Name = Annotated[str, typer.Argument(metavar="NAME")]
RoleOption = Annotated[
    Role,
    typer.Option(
        "--role", help="ro: reads; rw: writes as well; admin: makes and deletes databases, too; metrics: no data."
    ),
]
TenantOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tenant",
        metavar="TENANT",
        help="That it reaches; repeat for more, * for all. Without: default_tenant; for admin, all.",
    ),
]
DatabaseOption = Annotated[
    list[str] | None,
    typer.Option(
        "--database",
        metavar="DATABASE",
        help="In each of these tenants, likewise. Without: all of tenants that were named, else default_database.",
    ),
]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires", metavar="90d|DATE", help="When it ends; a new one without never does.")
]
NetworkOption = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="CIDR", help="Network that it may come from; repeat for more."),
]


@app.command()
def add(
    context: typer.Context,
    name: Name,
    role: RoleOption,
    tenant: TenantOption = None,
    database: DatabaseOption = None,
    expires: ExpiresOption = None,
    network: NetworkOption = None,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="Make no text: it is for a client's certificate whose CN is NAME.")
    ] = False,
    json: ui.Json = False,
) -> None:
    """Make a token. Its text goes to standard output and is shown this once; all else goes to standard error.

    Example: (umask 077; sudo chromactl token add app --role rw >app.token)
    """
    now = datetime.now(UTC)
    text = "" if certificate else tokens.make_text()
    made = Token(
        name=tokens.parse_name(name),
        role=role,
        scopes=tokens.parse_scopes(role, tenant or [], database or []),
        networks=tokens.parse_networks(network or []),
        created=tokens.moment(now),
        expires=tokens.moment(tokens.parse_expiry(expires, now)) if expires else "",
        certificate=certificate,
        secrets=(tokens.hashed(text),) if text else (),
    )
    tokens.need_short(made)

    def edit(found: Tokens) -> Tokens:
        if found.find(name):
            raise ConfigurationError(f"there is a token {name}", _instead(found.get(name), certificate))
        return found.with_token(made)

    whose = f", for a certificate with CN={name}" if certificate else ""
    _change(context, edit, f"{name} is made{whose}: {_rights(made)}", json=json, made=(name, text))


@app.command("list")
def show(context: typer.Context, json: ui.Json = False) -> None:
    """List the tokens, with those that expired in the last month. Brings map and gateway up to date, should they be behind.

    Example: sudo chromactl token list --json | jq -r '.tokens[].name'
    """
    settings = _as_root(context)
    with signals.saying("the tokens are as they were"), signals.deferred():
        applied = token_store.change(settings.config.gateway, lambda found: found)
    now = datetime.now(UTC)
    found = applied.tokens.tokens
    if json or settings.json:
        _print_document({"tokens": [_document(each, now) for each in found]}, applied)
    if not found:
        ui.out.print("there are no tokens: nobody gets through the gateway", markup=False)
    else:
        _show(found, now)
    if applied.problem:
        raise applied.problem


@app.command()
def revoke(context: typer.Context, name: Name, json: ui.Json = False) -> None:
    """Take a token back: the next request with it is refused.

    Example: sudo chromactl token revoke app
    """

    def edit(found: Tokens) -> Tokens:
        return found.without(found.get(name).name)

    _change(context, edit, f"{name} is revoked", json=json)


@app.command()
def rotate(
    context: typer.Context,
    name: Name,
    keep: Annotated[
        str, typer.Option("--keep", metavar="24h", help="How long the former text lets in as well; 0s: no longer.")
    ] = "24h",
    expires: ExpiresOption = None,
    json: ui.Json = False,
) -> None:
    """Give a token a new text, printed as by `add`. Its rights stay, its expiry does without --expires; the former text lives on
    for a while.

    Example: (umask 077; sudo chromactl token rotate app --keep 2d >app.token)
    """
    now = datetime.now(UTC)
    until = now + timedelta(seconds=_seconds(keep))
    ends = tokens.moment(tokens.parse_expiry(expires, now)) if expires else ""
    text = tokens.make_text()

    def edit(found: Tokens) -> Tokens:
        token = found.get(name)
        if token.certificate:
            raise ConfigurationError(
                f"the token {name} has no text, it is for a certificate",
                f"the authority of the certificate renews it; for other rights, chromactl token revoke {name} and add",
            )
        if token.expired(now) and not ends:
            raise ConfigurationError(
                f"the token {name} has expired on {token.expires}", "say for how long it is to live: --expires 90d"
            )
        return found.with_token(tokens.rotated(token, text, until, ends))

    said = f"{name} is rotated, its former text lets in until {tokens.moment(until)} at most"
    _change(context, edit, said, json=json, made=(name, text))


def _as_root(context: typer.Context) -> ui.Settings:
    settings = ui.settings(context)
    if os.geteuid() != 0:
        raise PermissionProblem("only root may look at tokens and change them", "sudo chromactl token …")
    return settings


def _seconds(keep: str) -> float:
    try:
        return 0.0 if keep in ("0", "0s", "0m", "0h", "0d") else parse_duration(keep)
    except ValueError as error:
        raise UsageProblem(f"--keep {one_line(repr(keep), 80)}: {error}", "as in 24h; 0s for at once") from None


def _change(
    context: typer.Context,
    edit: Callable[[Tokens], Tokens],
    said: str,
    *,
    json: bool,
    made: tuple[str, str] | None = None,
) -> None:
    """Does it to the end, whatever signal comes, and tells of it. made: a token's name and its new text, empty for one that has
    none."""
    settings = _as_root(context)
    as_json = json or settings.json
    with signals.deferred():
        applied = token_store.change(settings.config.gateway, edit)
        signals.finished(said)
        lines.send(events.TOKENS_CHANGED, logging.INFO, said, "chromactl")
        document: dict[str, Any] = {"done": said}
        if made:
            document |= {**_document(applied.tokens.get(made[0]), datetime.now(UTC)), "token": made[1] or None}
        if as_json:
            _print_document(document, applied, made[0] if made and made[1] else "")
        ui.err.print(said, markup=False)
        if made and made[1]:
            typer.echo(made[1])
            _need_written(made[0])
    if applied.problem:
        raise type(applied.problem)(f"{said}, but {applied.problem.message}", applied.problem.hint)
    if not applied.running:
        ui.err.print("the gateway does not run; it reads the tokens when it starts", markup=False)


def _print_document(document: dict[str, Any], applied: Applied, name: str = "") -> NoReturn:
    """One for all, also where the gateway was not told. name: of a token whose text is in it."""
    problem = applied.problem
    ui.print_json({**document, "running": applied.running, "problem": problem.message if problem else None})
    if name:
        _need_written(name)
    raise typer.Exit(problem.exit_code if problem else 0)


def _need_written(name: str) -> None:
    """Raises ChromadError when the text of a token is lost; warns where others can read the file that it is in."""
    if lost := streams.lost():
        raise ChromadError(
            f"the text of {name} could not be written: {lost.strerror}",
            f"nobody has it: chromactl token rotate {name} --keep 0s, or revoke it",
        )
    status = os.fstat(sys.stdout.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_mode & _OTHERS:
        hint = "chmod 0400 it; the next time, (umask 077; chromactl …)"
        ui.err.print(f"HINT: others than its owner can read the file that the text is in: {hint}", markup=False)


def _instead(there: Token, certificate: bool) -> str:
    if there.certificate or certificate:
        return f"chromactl token revoke {there.name} first, or take another name"
    return f"chromactl token rotate {there.name}, or revoke it first; or take another name"


def _rights(token: Token) -> str:
    where = ", ".join(token.networks) or "everywhere"
    what = "" if token.role == "metrics" else f" in {', '.join(token.scopes)}"
    until = f"until {token.expires}" if token.expires else "for good"
    return f"{token.role}{what}, from {where}, {until}"


def _state(token: Token, now: datetime) -> str:
    if token.expired(now):
        return "expired"
    return "expires" if token.expires and datetime.fromisoformat(token.expires) <= now + SOON else "active"


def _document(token: Token, now: datetime) -> dict[str, Any]:
    return {
        "name": token.name,
        "role": token.role,
        "scopes": list(token.scopes),
        "networks": list(token.networks),
        "created": token.created,
        "expires": token.expires or None,
        "state": _state(token, now),
        "certificate": token.certificate,
        "former_until": token.former_until(now) or None,
    }


def _show(found: tuple[Token, ...], now: datetime) -> None:
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for each in found:
        scopes = "" if each.role == "metrics" else "\n".join(each.scopes)
        state = _state(each, now)
        if each.certificate:
            state += ", by certificate"
        if former := each.former_until(now):
            state += f", its former text lets in until {former}"
        table.add_row(
            *map(escape, (each.name, each.role, scopes, "\n".join(each.networks), each.expires or "never", state))
        )
    ui.out.print(table)
