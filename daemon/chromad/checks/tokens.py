"""The gateway's tokens: which expire soon, and whether the gateway runs and has them. For the part that is root."""

from collections.abc import Iterator
from datetime import UTC, datetime

from chromad.checks import Result, fail, ok, warn
from chromad.checks.host import Host
from chromad.config import GatewaySettings
from chromad.errors import ChromadError, ConfigurationError
from chromad.gateway import admin, token_store
from chromad.gateway.tokens import SOON, Tokens


def check(host: Host) -> Iterator[Result]:
    """Nothing on a host without a gateway."""
    settings = host.config.gateway
    if settings.socket is None or not settings.directory.is_dir():
        return
    try:
        found = token_store.read(settings.directory)
    except ConfigurationError as error:
        yield fail("tokens", ConfigurationError, error.message, error.hint)
        return
    yield _expiring(found)
    yield _gateway(settings, found)


def _expiring(found: Tokens) -> Result:
    now = datetime.now(UTC)
    soon = [each for each in found.tokens if each.expires and datetime.fromisoformat(each.expires) <= now + SOON]
    data = {"tokens": len(found.tokens), "expiring": len(soon)}
    if not soon:
        return ok("tokens", f"{len(found.tokens)} tokens, none expires within {SOON.days} days", data)
    named = ", ".join(
        f"{each.name} {'has expired' if each.expired(now) else 'expires'} {each.expires}" for each in soon
    )
    return warn("tokens", named, "chromactl token rotate NAME --expires 90d, or chromactl token revoke NAME", data)


def _gateway(settings: GatewaySettings, found: Tokens) -> Result:
    try:
        held = admin.holds(settings.admin_socket, settings.directory / token_store.MAP, found.entries())
    except ChromadError as error:
        return fail("gateway", type(error), error.message, error.hint)
    if held is None:
        return warn("gateway", "it does not run: nobody gets in", "systemctl start chromadb-gateway")
    if not held:
        fact = "it has other tokens than tokens.json: one that is revoked may let in"
        return fail("gateway", ChromadError, fact, "sudo chromactl token list brings it up to date")
    return ok("gateway", "it runs and has the tokens")
