"""Chroma's files: the database, its log, checkpoints, what was put aside, and whether all is whole."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from chromad import control
from chromad.checks import Data, Fix, Result, fail, ok, skip, warn
from chromad.checks.host import Host
from chromad.chroma import audit, log, planner, record_ids, segment, soundness, sqlite
from chromad.chroma.finding import Finding
from chromad.errors import ChromadError, one_line
from chromad.logs.lines import human_bytes
from chromad.store import fence, lock, quarantine, state
from chromad.store.checkpoint import Store

# A log that has grown to this many times checkpoint.after_log is held back by something.
_LOG_PARTS = 4
# Checkpoints that are older than so many intervals are not taken any more.
_INTERVALS = 3
_MANY_PAGES = 16384
_CLOCK = 60.0  # seconds
_REPAIR = "sudo chromactl repair; systemctl start chromadb"
_UNREACHED = "Chroma's index has lost the way to them, as after many deletes; a copy finds them: chromactl restore --collection {} --into NEW"
# Findings of the audit that harm nobody yet
_MINOR = {"leftovers", "ghosts", "indexes"}


def check(host: Host) -> Iterator[Result]:
    """What can be seen in moments."""
    data_dir = host.config.data_dir
    if not data_dir.is_dir() or not sqlite.exists(data_dir):
        yield skip("database", f"{data_dir} holds no database yet")
        return
    if not sqlite.has_tables(data_dir):
        if sqlite.is_migrated(data_dir):
            yield fail("database", ChromadError, f"tables of {data_dir / sqlite.FILE} are missing", "restore a backup")
        else:
            yield skip("database", f"the database in {data_dir} has no tables yet")
        return
    yield from _database(host)
    with sqlite.connect(data_dir, busy_timeout=1.0) as connection:
        for finding in audit.glance(connection):
            yield _result(finding, host)
    yield _checkpoints(host)
    yield from _unprotected(host)
    yield _orphans(host)
    yield from _quarantine(host)
    if host.answer is None:
        yield from _torn(host)


def deep(host: Host) -> Iterator[Result]:
    """All of the database, and of the segments where no engine has them open."""
    config = host.config
    if not sqlite.exists(config.data_dir):
        return
    findings = audit.look(config.data_dir, files=host.answer is None)
    for finding in findings:
        yield _result(finding, host)
    if not any(finding.kind == "integrity" for finding in findings):
        yield ok("integrity", f"{sqlite.FILE} is sound")
    if not findings:
        yield ok("audit", "Chroma's tables, its log and its index fit each other")
    if host.answer:
        yield skip("segments", "the engine has them open; stop the service to look at them")
        return
    names = {each.segment: each.name for each in sqlite.collections(config.data_dir, counted=False)}
    for path, found in soundness.examine(segment.directories(config.data_dir), lambda: None, reach=True).items():
        if found.unread:
            yield warn(
                "segments", f"{path} could not be looked at: {found.problem}", "try again; the disk may be at fault"
            )
        elif found.problem:
            yield fail("segments", ChromadError, f"{path} is not sound: {found.problem}", _REPAIR)
        elif found.cut_off:
            name = names.get(path.name, path.name)
            fact = f"{found.cut_off} of the {found.live} records of {name} are in no search's reach; get() gives them"
            yield warn(
                "segments", fact, _UNREACHED.format(shlex.quote(name)), {"collection": name, "count": found.cut_off}
            )
        else:
            yield ok("segments", f"{path} is sound")


def _result(finding: Finding, host: Host) -> Result:
    """A finding of the audit."""
    name = "integrity" if finding.kind == "integrity" else "audit"
    hint = finding.hint or (f"systemctl stop chromadb; {_REPAIR}" if host.answer else _REPAIR)
    if finding.deletes:
        hint = "restore a backup from before" if finding.loses else "they take space; nothing has to be done about them"
    elif finding.mend is None and finding.kind not in ("integrity", record_ids.LOST):
        hint = "restore a backup"
    data: Data = {"kind": finding.kind, "count": finding.count}
    if finding.kind in _MINOR:
        return warn(name, finding.fact, hint, data)
    return fail(name, ChromadError, finding.fact, hint, data)


def _database(host: Host) -> Iterator[Result]:
    with sqlite.connect(host.config.data_dir, busy_timeout=1.0) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        pages, free, page = sqlite.pages(connection)
        size, _ = log.size_after(connection, 0)
        informed, missing = planner.is_informed(connection), planner.missing_indexes(connection)
        ahead = log.seconds_ahead(connection)
    if mode == "wal":
        yield ok("journal_mode", "the database is in WAL mode")
    else:
        yield warn("journal_mode", f"the database is in {mode} mode", "systemctl restart chromadb puts it right")
    if informed and not missing:
        yield ok("filters", "SQLite's planner has its statistics and indexes")
    else:
        lacks = [*([] if informed else ["statistics"]), *([f"the indexes {', '.join(missing)}"] if missing else [])]
        fact = f"filters are slow: SQLite's planner lacks {' and '.join(lacks)}"
        yield warn(
            "filters",
            fact,
            "systemctl restart chromadb puts it right, with as much space free as the database takes, in /var/tmp too",
        )
    fact, data = f"the log holds {human_bytes(size)}", {"bytes": size}
    if size > _LOG_PARTS * host.config.checkpoint.after_log:
        hint = "it is kept until checkpoints and the last backup cover it: chromactl status says which of them fails"
        yield warn("log", fact, hint, data)
    else:
        yield ok("log", fact, data)
    if ahead is not None and ahead > _CLOCK:
        fact = f"the newest record in the log was written {ahead} s from now: the clock was set back"
        yield warn("log_time", fact, "see timedatectl; restores to a time go by what the clock said then")
    fact = f"{human_bytes(free * page)} of the database's {human_bytes(pages * page)} are free"
    data = {"free": free * page, "bytes": pages * page}
    if 2 * free > pages > _MANY_PAGES:
        yield warn("free_pages", fact, "chromactl compact gives them back; writes wait meanwhile", data)
    else:
        yield ok("free_pages", fact, data)


def _checkpoints(host: Host) -> Result:
    config = host.config
    error = host.answer and host.answer.checkpoint.error
    if error:
        return fail(
            "checkpoints", ChromadError, f"the last try failed: {error}", "the log grows; journalctl -u chromadb"
        )
    before = state.read(config.data_dir)
    if before is None:
        return skip("checkpoints", "chromad never ran on these data")
    checkpoints = Store(config.data_dir, config.checkpoint_dir, before.data_id)
    stale = checkpoints.stale(sqlite.collections(config.data_dir, counted=False))
    newest = checkpoints.newest()
    fact = f"the newest is of {newest}" if newest else "there is none yet"
    if not stale or host.answer is None:
        return ok("checkpoints", f"{fact}; {len(stale)} due" if stale else fact)
    began = newest or host.answer.since
    age = (datetime.now(UTC) - datetime.fromisoformat(began)).total_seconds() if began else 0.0
    if age > _INTERVALS * config.checkpoint.interval:
        return warn("checkpoints", f"{fact}, and {len(stale)} segments have changed since", "sudo chromactl checkpoint")
    return ok("checkpoints", f"{fact}; {len(stale)} due")


def _unprotected(host: Host) -> Iterator[Result]:
    for name, why in (host.answer.unprotected if host.answer else {}).items():
        hint = "its log is kept meanwhile, and grows; copy its records into a new collection if it stays so"
        yield warn("unprotected", f"the vectors of {name} get no checkpoint: {why}", hint)


def _orphans(host: Host) -> Result:
    data_dir = host.config.data_dir
    found = segment.directories(data_dir)
    # In this order: a collection is entered before its directory is made.
    known = sqlite.segments(data_dir)
    orphans = [path for path in found if path.name not in known]
    if not orphans:
        return ok("orphans", "each segment belongs to a collection")
    size = human_bytes(sum(segment.allocated(path) for path in orphans))
    fact = f"{len(orphans)} segments ({size}) in {data_dir} belong to no collection, {orphans[0].name} among them"
    hint = "sudo chromactl checkpoint moves them to quarantine" if host.answer else "the next start clears them away"

    def move() -> None:
        if host.answer:
            control.ask(host.config.control_socket, "checkpoint", progress=lambda _phase, _done, _total: None)
            return
        with lock.directory_lock(data_dir):
            for path in orphans:
                quarantine.move_orphan(path, host.config.quarantine_dir, lambda: None)

    what = f"move {', '.join(path.name for path in orphans)} to {host.config.quarantine_dir}"
    return warn("orphans", fact, hint, {"segments": len(orphans)}, Fix(what, move))


def _quarantine(host: Host) -> Iterator[Result]:
    config = host.config
    fenced = fence.read(config.data_dir)
    for uuid in sorted(fenced.keys() - {fence.OPERATOR, fence.DISK}):
        yield fail(
            "quarantine",
            ChromadError,
            f"the collection {uuid} refuses writes: {fenced[uuid]}",
            "systemctl stop chromadb; chromactl repair; systemctl start chromadb. Or restore a backup",
        )
    left = sorted(config.quarantine_dir.glob("*-broken-*")) if config.quarantine_dir.is_dir() else []
    if left:
        size = human_bytes(sum(segment.allocated(path) for path in left))
        fact = f"{len(left)} broken segments ({size}) are in {config.quarantine_dir}"
        yield warn("leftovers", fact, f"when the collections are in order: rm -r {shlex.quote(str(left[0]))} …")
    else:
        yield ok("quarantine", "it holds no broken segment")
    others = [path for path in sorted(config.quarantine_dir.glob("[!.]*")) if path not in left]
    if others:
        size = human_bytes(sum(map(_taken, others)))
        fact = (
            f"{len(others)} other things ({size}) are in {config.quarantine_dir}, {one_line(others[0].name)} among them"
        )
        yield ok("set_aside", fact, {"entries": len(others)})


def _taken(path: Path) -> int:
    """Bytes that a file, or a directory of files, takes; a link takes none, wherever it points."""
    if path.is_symlink() or not path.exists():
        return 0
    return segment.allocated(path) if path.is_dir() else path.stat().st_size


def _torn(host: Host) -> Iterator[Result]:
    """A quick look at files that nobody writes."""
    for path in segment.directories(host.config.data_dir):
        live = segment.stats(path)
        if segment.monster(path):
            yield fail("segments", ChromadError, f"{path} claims more than it holds", _REPAIR)
        elif segment.PICKLE in live and segment.is_torn(path, live):
            yield fail("segments", ChromadError, f"{path} was cut off in a persist", _REPAIR)
