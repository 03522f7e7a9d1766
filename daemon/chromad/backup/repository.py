"""The repository: restic stores, encrypts, deduplicates and thins out; here is how it is called and what it says.

Works with restic 0.14 (Debian 12) and newer.
"""

import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from chromad import documents, names
from chromad.backup import secret
from chromad.config import Config, Keep
from chromad.errors import MORE_MEMORY, BackupError, ChromadError, ConfigurationError, RepositoryUnreachable, TryAgain
from chromad.host import files, signals

MARK = "chromad"  # the tag of every snapshot that is ours
_TICK = 0.2
_PATIENCE = 10.0  # seconds that restic may take to clear up
# What a Go program says first when it crashes, before all that its threads were at
_CRASHES = ("fatal error: ", "runtime/cgo: ", "panic: ")
# What restic, ssh, Go's network and places of the cloud say where nobody answers, or somebody who cannot for now. Of an S3 error
# restic prints the message and not the code: SlowDown is a request to reduce the rate.
_PASSING = re.compile(
    r"dial tcp|no such host|[Cc]onnection (refused|reset|timed out|closed)|i/o timeout|TLS handshake timeout|unexpected EOF|: EOF$"
    r"|No route to host|Network is unreachable|network is unreachable|Temporary failure in name resolution|broken pipe"
    r"|context deadline exceeded|Client\.Timeout exceeded|timeout awaiting response headers"
    r"|Could not resolve hostname|unable to start the sftp session"
    r"|unexpected HTTP response \((429|5\d\d)\)|googleapi: (Error|got HTTP response code) (429|5\d\d)"
    r"|429 Too Many Requests|500 Internal Server Error|502 Bad Gateway|504 Gateway Time-?[Oo]ut|SlowDown|Service Unavailable"
    r"|reduce your request rate|encountered an internal error|not read from or written to within the timeout period",
    re.MULTILINE,
)
# Lines that say less than the first one
_COUNT = re.compile(r"[Tt]here (were|was) \d+ error|unable to create lock")

# The id of a snapshot, which has a short form
_ID = re.compile(r"[0-9a-f]{8,64}")
# What restic gives a file of a local repository until it is whole, local backend's Save
_UNFINISHED = re.compile(r"[0-9a-f]{64}-tmp-\d+")
_UNFINISHED_FOR = 86_400.0  # seconds after which nobody writes it any more
# As many as SQLite's integers have at most
_DIGITS = 19

# bytes done, bytes in all
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Snapshot:
    """A backup in the repository. time: UTC, ISO 8601. facts: what its tags say (`KEY=VALUE`). paths: what was backed up."""

    id: str
    time: str
    host: str
    path: str
    tags: frozenset[str]
    facts: Mapping[str, str]

    def number(self, name: str) -> int | None:
        """A fact that is a number; None where it is not."""
        text = self.facts.get(name, "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else None


@dataclass(frozen=True)
class Added:
    """The snapshot that restic has made, and how many bytes the repository grew by, before compression."""

    id: str
    bytes: int


class Repository:
    """One restic repository. Every method raises ConfigurationError, TryAgain or BackupError with what restic says.

    lock_fd: of the lock that restic shares, so that it is held as long as restic runs, whatever becomes of us; -1 for none.
    """

    def __init__(
        self,
        location: str,
        password: bytes,
        *,
        cache_dir: Path | None,
        options: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.location = location
        self._password = password
        self._options = options or {}
        self._environment = environment or {}
        self._cache_dir = cache_dir
        self.lock_fd = -1
        if not shutil.which("restic"):
            raise ConfigurationError("restic is not installed", "apt install restic")

    def exists(self) -> bool:
        """Whether the repository is there and the key opens it."""
        try:
            self._run("cat", "config")
        except _Missing:
            return False
        return True

    def init(self) -> None:
        """Makes the repository."""
        self._run("init")

    def snapshots(self) -> list[Snapshot]:
        """Our backups, the oldest first."""
        found = documents.parse(self._run("snapshots", "--json", "--no-lock", "--tag", MARK)) or []
        return sorted((_snapshot(each) for each in found), key=lambda each: each.time)

    def backup(self, directory: Path, host: str, tags: Iterable[str], progress: Progress) -> Added:
        """Stores a directory."""
        # Links to the same file change its ctime; what is in it changes with its inode or its mtime.
        arguments = ["backup", "--json", "--ignore-ctime", "--host", host]
        arguments += [word for tag in (MARK, *tags) for word in ("--tag", tag)]
        summary: dict[str, Any] = {}

        def line(text: str) -> None:
            message = documents.parse(text)
            if message.get("message_type") == "status":
                progress(int(message.get("bytes_done", 0)), int(message.get("total_bytes", 0)))
            elif message.get("message_type") == "summary":
                summary.update(message)

        self._run(*arguments, str(directory), line=line)
        if "snapshot_id" not in summary:
            raise BackupError("restic told of no snapshot", "look at what restic says: restic snapshots")
        return Added(str(summary["snapshot_id"])[:8], int(summary.get("data_added", 0)))

    def read_file(self, snapshot: Snapshot, name: str) -> bytes:
        """The content of one small text file of a backup."""
        return self._run("dump", "--no-lock", snapshot.id, f"{snapshot.path}/{name}").encode()

    def fetch_file(self, snapshot: Snapshot, name: str, target: Path, tick: Callable[[], None]) -> None:
        """Writes one file of a backup to a new place."""
        with open(target, "xb") as file:
            self._run("dump", "--no-lock", snapshot.id, f"{snapshot.path}/{name}", output=file, tick=tick)

    def restore(self, snapshot: Snapshot, target: Path, size: int, progress: Progress) -> None:
        """Writes the files of a backup into a new directory. size: bytes to expect."""
        parent = target.with_name(f"{target.name}.restic")
        try:
            parent.mkdir(mode=0o700)
            self._run(
                *("restore", "--no-lock", snapshot.id, "--target", str(parent)),
                tick=lambda: progress(min(_size(parent), size), size),
            )
            source = _within(parent, snapshot)
            _need_plain(source, snapshot)
            files.rename(source, target)
        finally:
            files.remove_tree(parent, ignore_errors=True)

    def retain(self, host: str, keep: Keep, tag: str, spare: Collection[str] = ()) -> int:
        """Forgets the backups of a host with a tag that the policy does not keep; gives how many.

        spare: when those were created that stay whatever the policy says.
        """
        words = [f"--keep-{name}={count}" for name, count in keep.model_dump().items() if count]
        arguments = ["--json", "--host", host, "--tag", f"{MARK},{tag}", "--group-by", "host", *words]
        if not spare:
            return len(self._removed(*arguments))
        unwanted = [each.id for each in self._removed("--dry-run", *arguments) if each.time not in spare]
        if unwanted:
            self.forget(unwanted)
        return len(unwanted)

    def _removed(self, *arguments: str) -> list[Snapshot]:
        groups = documents.parse(self._run("forget", *arguments) or "null") or []
        return [_snapshot(each) for group in groups for each in group.get("remove") or []]

    def forget(self, ids: Sequence[str]) -> None:
        """Removes backups; their content goes with the next `prune`."""
        self._run("forget", *ids)

    def retag(self, snapshot: Snapshot, remove: str, add: str) -> str:
        """Gives a backup another tag; restic stores it anew then, and removes the former one where the repository lets it. Gives
        its id. Raises BackupError when it has not got the tag."""
        self._run("tag", "--remove", remove, "--add", add, snapshot.id)
        for each in self.snapshots():
            if (each.time, each.path) == (snapshot.time, snapshot.path) and add in each.tags:
                return each.id
        raise BackupError(
            f"{self.location} did not take the tag {add} for {snapshot.id}", "chromactl backups lists what there is"
        )

    def prune(self, tick: Callable[[], None]) -> None:
        """Gives back the space of what no backup holds any more."""
        self._run("prune", tick=tick)

    def sweep(self) -> None:
        """Removes what a restic that was killed has left unfinished a day ago or earlier, which restic itself never does. In a
        repository that is a directory of this host; others leave nothing."""
        if not self.location.startswith("/"):
            return
        long_ago = time.time() - _UNFINISHED_FOR
        for top, _, plain in os.walk(self.location):
            for path in (Path(top, name) for name in plain if _UNFINISHED.fullmatch(name)):
                with suppress(OSError):
                    if path.lstat().st_mtime < long_ago:
                        files.remove(path)

    def check(self, part: str, tick: Callable[[], None]) -> None:
        """Checks the structure, and reads a part of the content. part: as `3/10`."""
        self._run("check", f"--read-data-subset={part}", tick=tick)

    def copy_to(self, other: "Repository", backup_id: str, tick: Callable[[], None]) -> None:
        """Copies a backup into another repository, which is made when it is not there."""
        fd = secret.in_memory(self._password)
        source = ["--from-repo", self.location, "--from-password-file", f"/proc/self/fd/{fd}"]
        try:
            if not other.exists():
                other._run("init", *source, "--copy-chunker-params", fds=(fd,))
            other._run("copy", *source, backup_id, fds=(fd,), tick=tick)
        finally:
            os.close(fd)

    # How restic is run

    def _run(
        self,
        *arguments: str,
        line: Callable[[str], None] | None = None,
        output: IO[bytes] | None = None,
        tick: Callable[[], None] | None = None,
        fds: Sequence[int] = (),
    ) -> str:
        """Runs restic to its end; gives its standard output, unless `line` or `output` take it."""
        try:
            return self._run_once(arguments, line, output, tick, fds)
        except _Locked:
            # Removes only locks whose process is gone or that nobody has renewed.
            self._run_once(("unlock",), None, None, tick, ())
        return self._run_once(arguments, line, output, tick, fds)

    def _run_once(
        self,
        arguments: Sequence[str],
        line: Callable[[str], None] | None,
        output: IO[bytes] | None,
        tick: Callable[[], None] | None,
        fds: Sequence[int],
    ) -> str:
        fd = secret.in_memory(self._password)
        inherited = (fd, *fds, *([self.lock_fd] if self.lock_fd >= 0 else []))
        # Not longer than we live: the next one to take the lock must not meet a restic that still reads.
        command = ["setpriv", "--pdeathsig", "TERM", "restic", *self._words(), *arguments]
        try:
            with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as lines:
                process = _follow(
                    lambda: subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE if line else output or lines,
                        stderr=errors,
                        env=self._variables(arguments[0], fd),
                        pass_fds=inherited,
                        cwd="/",
                    ),
                    line,
                    tick,
                )
                errors.seek(0)
                said = errors.read().decode(errors="replace")
                if process.returncode:
                    raise self._error(arguments[0], process.returncode, said)
                if arguments[0] == "snapshots" and said.strip():
                    # It leaves out what it cannot read, and calls that a success.
                    raise BackupError(
                        f"restic snapshots: {_last_words(said)}",
                        "restic check says more; copy_to holds another copy",
                    )
                lines.seek(0)
                return lines.read().decode(errors="replace")
        finally:
            os.close(fd)

    def _words(self) -> list[str]:
        words = ["--repo", self.location]
        local = self.location.startswith("/") or self._cache_dir is None
        words += ["--no-cache"] if local else ["--cache-dir", str(self._cache_dir)]
        return words + [word for key, value in self._options.items() for word in ("-o", f"{key}={value}")]

    def _variables(self, verb: str, fd: int) -> dict[str, str]:
        processors = len(os.sched_getaffinity(0))
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": _home(),
            "TMPDIR": tempfile.gettempdir(),
            "RESTIC_PROGRESS_FPS": "5",
            # A commit of the engine passes through many threads. While restic has all processors, each of them waits for
            # one, whatever the priority; a restore is in a hurry.
            "GOMAXPROCS": str(processors if verb == "restore" else max(processors // 2, 1)),
            **self._environment,
            "RESTIC_PASSWORD_FILE": f"/proc/self/fd/{fd}",
        }

    def _error(self, verb: str, code: int, text: str) -> ChromadError:
        """What restic's exit code (0.17 and newer) or words mean."""
        said = _last_words(text)
        low = text.lower()
        if code == 12 or "wrong password" in low or "no key found" in low:
            return ConfigurationError(
                f"the key does not open the repository {self.location}",
                "backup.password_file must hold the key that it was made with",
            )
        absent = "does not exist" in low or "no such file" in low
        if code == 10 or ("is there a repository at" in low and absent) or "repository does not exist" in low:
            return _Missing(f"there is no repository at {self.location}", "make it once: chromactl backups init")
        if code == 11 or "already locked" in low:
            return _Locked(
                f"the repository {self.location} is locked: {said}", "wait for who has it, or see restic list locks"
            )
        if ("no space left" in low or "disk quota" in low) and verb in ("restore", "dump"):
            return BackupError(f"there is no room for what is restored: {said}", "free some space; nothing was touched")
        if "no space left" in low or "disk quota" in low:
            return BackupError(f"{self.location} is full: {said}", "free some space there, or keep fewer backups")
        if code < 0:
            return BackupError(f"restic {verb} was ended by signal {-code}", "try again")
        if said.startswith(_CRASHES):
            return TryAgain(f"restic {verb} crashed: {said}", f"is there too little memory for it? Then {MORE_MEMORY}")
        if not self.location.startswith("/") and _PASSING.search(text):
            return RepositoryUnreachable(f"restic {verb}: {said}", f"is {self.location} reachable and writable?")
        if verb in ("restore", "dump"):
            return BackupError(
                f"restic {verb}: {said}", f"look at {self.location}, and at the place that is restored to"
            )
        return BackupError(f"restic {verb}: {said}", f"is {self.location} reachable and writable?")


class _Missing(ConfigurationError):
    pass


class _Locked(TryAgain):
    pass


def connect(config: Config, *, cached: bool = True) -> Repository:
    """The repository that a configuration names. Reads its secrets, so as root before another user is taken on: restic runs as
    whoever we are when it is called. cached: whether it may keep a cache beside the checkpoints."""
    return _connect(config, config.backup.repository, config.backup.password_file, cached=cached)


def connect_copy(config: Config) -> Repository | None:
    """The second repository, where there is one."""
    second = config.backup.copy_to
    return _connect(config, second.repository, second.password_file, cached=True) if second else None


def _connect(config: Config, location: str, password_file: Path, *, cached: bool) -> Repository:
    backup = config.backup
    return Repository(
        location,
        secret.read(password_file),
        cache_dir=config.backup_dir / "cache" if cached else None,
        options=backup.options,
        environment=secret.read_environment(backup.environment_file) if backup.environment_file else {},
    )


def _home() -> str:
    """Where ssh and rclone look for what is theirs."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


def _snapshot(document: Mapping[str, Any]) -> Snapshot:
    tags = frozenset(document.get("tags") or [])
    facts = dict(tag.split("=", 1) for tag in tags if "=" in tag)
    for name in ("created", "base"):
        # Anybody with the key may have set them.
        if not _is_time(facts.get(name, "")):
            facts.pop(name, None)
    paths = document.get("paths") or [""]
    name = str(document["id"])
    if not _ID.fullmatch(name):
        raise BackupError(f"restic tells of a snapshot {name!r}", "is that restic?")
    return Snapshot(
        name[:8],
        facts.get("created", str(document["time"])),
        str(document.get("hostname", "")),
        str(paths[0]),
        tags,
        facts,
    )


def _within(parent: Path, snapshot: Snapshot) -> Path:
    """Where the files of a snapshot are, below the directory to which it was restored. Whoever has the key can store one whose
    path leads elsewhere."""
    source = parent
    for name in snapshot.path.split("/")[1:] if names.is_absolute(snapshot.path) else [""]:
        source = source / name
        if not name or not source.is_dir() or source.is_symlink():
            raise BackupError(
                f"the backup {snapshot.id} does not hold {snapshot.path}", "choose another one: chromactl backups"
            )
    return source


def _need_plain(directory: Path, snapshot: Snapshot) -> None:
    """Raises BackupError when there is anything but directories, and files with no other name."""
    for path in directory.rglob("*"):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) and (not stat.S_ISREG(status.st_mode) or status.st_nlink > 1):
            raise BackupError(
                f"the backup {snapshot.id} holds {path.relative_to(directory)}, which is no plain file",
                "choose another one: chromactl backups",
            )


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _follow(
    start: Callable[[], "subprocess.Popen[bytes]"], line: Callable[[str], None] | None, tick: Callable[[], None] | None
) -> "subprocess.Popen[bytes]":
    """Starts a process and waits for its end; it does not go on when we are interrupted."""
    process = None
    try:
        with signals.deferred():
            process = start()
        for raw in process.stdout or ():
            text = raw.decode(errors="replace").strip()
            if line and text.startswith("{"):
                line(text)
        while process.poll() is None:
            if tick:
                tick()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TICK)
        if process.returncode:
            # The signal that has ended it may be on its way to us as well.
            time.sleep(_TICK)
    except BaseException:
        if process:
            _end(process)
        raise
    finally:
        if process and process.stdout:
            process.stdout.close()
    return process


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends restic, which clears up; one that waits for a pipe in place of a file would never come to that."""
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_words(text: str) -> str:
    lines = [_plain(line) for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if line]
    if locked := [line for line in lines if "already locked" in line]:
        return locked[0].removeprefix("Fatal: ")[:500]
    fatal = [line.removeprefix("Fatal: ") for line in lines if line.startswith("Fatal")]
    if crash := [line for line in lines if line.startswith(_CRASHES)]:
        return crash[0][:500]
    lines = lines or ["it said nothing"]
    found = (fatal or lines)[-1]
    # "There were 3 errors" says less than the first of them.
    return (found if found == lines[0] or not _COUNT.search(found) else f"{found}, first: {lines[0]}")[:500]


def _plain(line: str) -> str:
    text = line.strip()
    if not text.startswith("{"):
        return text
    try:
        message = documents.parse(text)
    except ValueError:
        return text
    return str(message.get("message") or message.get("error") or "")


def _size(directory: Path) -> int:
    total = 0
    for top, _, plain in os.walk(directory):
        for name in plain:
            try:
                total += os.lstat(os.path.join(top, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
