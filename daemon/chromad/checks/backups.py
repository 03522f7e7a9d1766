"""Backups and drills: how old they are, how the last ones ended, and whether timers go on with them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from chromad.backup import ledger
from chromad.checks import Result, fail, ok, warn
from chromad.checks.host import Host, unit_properties
from chromad.errors import BackupError

# A daily backup and a weekly drill, and a day more
_BACKUP_AGE, _DRILL_AGE = timedelta(days=2), timedelta(days=8)


def check(host: Host) -> Iterator[Result]:
    """From the ledger of this host, without asking the repository."""
    try:
        known = ledger.read(host.config.backup_dir)
    except BackupError as error:
        yield fail("backup", BackupError, error.message, error.hint)
        return
    yield _backup(known)
    yield from _shrunk(host)
    yield from _drill(known)
    yield from _timers()


def _backup(known: ledger.Ledger) -> Result:
    if known.problem:
        fact = f"the last one failed: {known.problem}"
        return fail("backup", BackupError, fact, "journalctl -u chromadb-backup; sudo chromactl backup")
    if not known.last_good:
        return warn("backup", "there is no good one of these data", "sudo chromactl backup")
    age = datetime.now(UTC) - datetime.fromisoformat(known.last_good)
    fact, data = f"the last good one is of {known.last_good}", {"seconds": int(age.total_seconds())}
    if age > _BACKUP_AGE:
        return warn("backup", fact, "systemctl list-timers chromadb-backup.timer", data)
    return ok("backup", fact, data)


def _shrunk(host: Host) -> Iterator[Result]:
    found = ledger.summary(host.config.backup_dir)["shrunk"]
    if found:
        fact = (
            f"the one of {found['kept']} has {found['from']} records, the one after it {found['to']}; it is kept until "
            f"{found['kept_until']}"
        )
        hint = "if that was not meant, restore it: chromactl backups; if it was: chromactl backups forget ID --confirm"
        yield warn("shrunk", fact, hint, {"from": found["from"], "to": found["to"]})


def _drill(known: ledger.Ledger) -> Iterator[Result]:
    drill = known.drills[-1] if known.drills else None
    if drill is None:
        if known.last_good:
            yield warn("drill", "no restore was ever tried", "sudo chromactl verify")
        return
    age = datetime.now(UTC) - datetime.fromisoformat(drill.ended)
    data = {"seconds": int(age.total_seconds())}
    if drill.problem:
        fact = f"the last one failed: {drill.problem}"
        yield fail("drill", BackupError, fact, "journalctl -u chromadb-verify; sudo chromactl verify", data)
    elif age > _DRILL_AGE:
        yield warn("drill", f"the last one was at {drill.ended}", "systemctl list-timers chromadb-verify.timer", data)
    else:
        yield ok("drill", f"the last one, at {drill.ended}, went well", data)


def _timers() -> Iterator[Result]:
    for timer in ("chromadb-backup.timer", "chromadb-verify.timer"):
        found = unit_properties(timer, "ActiveState", "UnitFileState")
        if not found:
            continue
        if found["ActiveState"] == "active" and found["UnitFileState"] == "enabled":
            yield ok("timers", f"{timer} is active")
        else:
            fact = f"{timer} is {found['ActiveState']} and {found['UnitFileState']}"
            yield warn("timers", fact, f"systemctl enable --now {timer}")
