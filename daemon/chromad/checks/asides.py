"""What restores, adoptions and upgrades have put beside the data: former data, what did not come up, what was not ended."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from chromad.checks import Data, Result, ok, warn
from chromad.checks.host import Host
from chromad.logs.lines import human_bytes
from chromad.store import copies, leftovers

# Former data that are older than this are hardly wanted back.
_KEPT = timedelta(days=7)


def check(host: Host) -> Iterator[Result]:
    """One result for each, with its size, its age, and how to remove it."""
    found = leftovers.beside(host.config.data_dir)
    if not found:
        yield ok("asides", "nothing is left of restores, adoptions and upgrades")
    for each in found:
        yield _result(each)


def _result(found: leftovers.Leftover) -> Result:
    age = datetime.now(UTC) - found.since if found.since else None
    facts = f"{human_bytes(found.bytes)}{f', {_days(age)} old' if age else ''}"
    data: Data = {"path": str(found.path), "bytes": found.bytes, "seconds": int(age.total_seconds()) if age else None}
    remove = f"rm -r {shlex.quote(str(found.path))}"
    if found.kind == copies.REPLACED:
        fact, hint = f"former data are in {found.path} ({facts})", f"when nobody wants them back: {remove}"
        young = age is not None and age < _KEPT
        return Result("asides", "ok", fact, hint, data=data) if young else warn("asides", fact, hint, data)
    if found.kind == copies.FAILED:
        fact = f"what the service did not come up with is in {found.path} ({facts})"
        return warn("asides", fact, f"journalctl -u chromadb says why; then: {remove}", data)
    fact = f"{found.path} ({facts}) is left of a restore or an adoption that was cut off"
    if found.collection:
        fact += f", and the collection {found.collection}, if it is there, is an incomplete copy"
    if found.certain:
        return warn("asides", fact, f"it is a copy, which the next one removes; or: {remove}", data)
    return warn("asides", fact, "it may hold the former data: the next restore tells, or look at it", data)


def _days(age: timedelta) -> str:
    return f"{age.days} days" if age.days > 1 else f"{age.total_seconds() / 3600:.0f} hours"
