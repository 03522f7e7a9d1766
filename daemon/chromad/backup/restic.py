"""How restic is run, and what its exit codes and words mean. Works with restic 0.14 (Debian 12) and newer."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from chromad import documents
from chromad.backup import secret
from chromad.errors import MORE_MEMORY, BackupError, ChromadError, ConfigurationError, RepositoryUnreachable, TryAgain
from chromad.host import signals

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


class Restic:
    """The program on one repository. Every method raises ConfigurationError, TryAgain or BackupError with what restic says.

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

    def run(
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
            return NoRepository(f"there is no repository at {self.location}", "make it once: chromactl backups init")
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


class NoRepository(ConfigurationError):
    pass


class _Locked(TryAgain):
    pass


def _home() -> str:
    """Where ssh and rclone look for what is theirs."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


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
