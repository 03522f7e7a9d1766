"""The gateway: its certificate and its units, for the part that is root; and what it says of itself, for everybody."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from chromad.checks import Data, Result, fail, ok, skip, warn
from chromad.checks.host import Host, unit_properties
from chromad.control.messages import GatewayReport
from chromad.errors import ChromadError
from chromad.gateway import admin
from chromad.gateway.heard import SILENCE

UNIT = "chromadb-gateway.service"
# What takes a renewed certificate, and refuses one that is no good
RENEWAL = "chromadb-gateway-certificate.service"
CERTIFICATE = "tls.pem"

# Before its end, a certificate is told of for so long; and for so long it is late.
SOON = timedelta(days=14)
LATE = timedelta(days=3)
_RENEW = "renew it; one of the gateway's own authority is made by playbooks/site.yml"


def check(host: Host) -> Iterator[Result]:
    """By root. Nothing on a host without a gateway."""
    settings = host.config.gateway
    if settings.socket is None or not settings.directory.is_dir():
        return
    try:
        ends = admin.certificate_ends(settings.admin_socket, settings.directory / CERTIFICATE)
    except ChromadError as error:
        yield skip("certificate", error.message)
    else:
        # That none runs, `tokens` says.
        yield certificate(ends) if ends else skip("certificate", "the gateway does not run")
    yield from _units()


def certificate(ends: datetime) -> Result:
    """What it means that the one that clients see ends then."""
    left = ends - datetime.now(UTC)
    data: Data = {"ends": ends.isoformat(timespec="seconds"), "days": left.days}
    if left <= timedelta():
        return fail("certificate", ChromadError, f"it has expired: {ends:%Y-%m-%d %H:%M} UTC", _RENEW, data)
    days = "1 day" if left.days == 1 else f"{left.days} days"
    fact = f"it ends in {days}, on {ends:%Y-%m-%d}"
    if left < LATE:
        return fail("certificate", ChromadError, fact, _RENEW, data)
    return warn("certificate", fact, _RENEW, data) if left < SOON else ok("certificate", fact, data)


def _units() -> Iterator[Result]:
    renewal = unit_properties(RENEWAL, "ActiveState")
    if renewal.get("ActiveState") == "failed":
        fact = "a renewed certificate was refused: clients see the one before"
        yield warn("certificate", fact, f"journalctl -u {RENEWAL} says why")
    found = unit_properties(UNIT, "ActiveState", "UnitFileState")
    # That it was stopped, `tokens` says.
    if found and found["ActiveState"] not in ("active", "inactive", "reloading"):
        yield fail("gateway", ChromadError, f"{UNIT} is {found['ActiveState']}", f"journalctl -u {UNIT} says why")
    elif found and found["UnitFileState"] != "enabled":
        fact = f"{UNIT} is {found['UnitFileState']}: it will not start at boot"
        yield warn("gateway", fact, f"systemctl enable {UNIT}")


def look(host: Host) -> Iterator[Result]:
    """By anybody, from what the running daemon was told. Nothing without a gateway."""
    if host.answer is None or host.config.gateway.socket is None:
        return
    found = host.answer.gateway
    if found is None:
        yield skip("refusals", "the gateway has told the service nothing of itself yet")
    elif found.silent > SILENCE:
        fact = f"the gateway has told the service nothing for {found.silent:.0f} s"
        yield warn("refusals", fact, f"systemctl status {UNIT}")
    else:
        yield ok("refusals", refusals(found), {f"status_{status}": count for status, count in found.refused.items()})


def refusals(found: GatewayReport) -> str:
    """Requests that it has refused, in words."""
    counts = ", ".join(f"{count} with {status}" for status, count in found.refused.items())
    return f"{counts or 'none'} since {found.since}"
