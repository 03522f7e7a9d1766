"""The errors that a user can cause. Each states a fact, gives a hint, and has an exit code by class."""

import errno
import os
from typing import NoReturn

# Of a disk, a network or a lack of something, not of what somebody has set up
_PASSING = {
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOMEM,
    errno.ENFILE,
    errno.EMFILE,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
}


class ChromadError(Exception):
    """Root of all errors that end a command without a traceback.

    message: the fact, one or more lines.
    hint: what the reader can do about it; empty where there is nothing to say.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigurationError(ChromadError):
    """Something is set up wrongly; trying again cannot help (EX_CONFIG)."""

    exit_code = 78


class UsageProblem(ChromadError):
    """A command line that cannot be meant."""

    exit_code = 2


class PermissionProblem(ChromadError):
    """Owner, mode or user are wrong (EX_NOPERM)."""

    exit_code = 77


class TryAgain(ChromadError):
    """Something else is in the way for now (EX_TEMPFAIL)."""

    exit_code = 75


class EngineError(ChromadError):
    """The engine died, hung, or refused a request. status: of its HTTP answer, 0 where there was none."""

    def __init__(self, message: str, hint: str = "", status: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status


class NotFound(EngineError):
    """What a request names is not there (404)."""


class RecordLost(EngineError):
    """A record that was asked for with its vector has none, so the engine gives none of all that were asked for."""


class SegmentUnreadable(EngineError):
    """The engine cannot load the vector segment of the collection that was asked for."""


class TablesMissing(EngineError):
    """The engine answers, but a table is not there: in the middle of a client's reset."""


class BackupError(ChromadError):
    """A backup cannot be taken, or is not what its manifest says."""


class RepositoryUnreachable(BackupError):
    """The place of a repository does not answer, which may pass: a network, a host that restarts (EX_TEMPFAIL)."""

    exit_code = 75


class UpgradeError(ChromadError):
    """A new version does not come up with the data, or does not answer as the old one did."""


UNFORESEEN = "an error that nobody foresaw"
NO_MEMORY = "there is too little memory"
MORE_MEMORY = "free some, or raise what limits it: MemoryMax= and TasksMax= of the unit, ulimit"
# All made beforehand: there may be no room for it later.
_STARVATION = (MemoryError, SystemError)
_STARVED = f"ERROR: {NO_MEMORY}\nHINT: {MORE_MEMORY}\n".encode()


def starve() -> NoReturn:
    """Ends a program that has not got far enough to say it in its own way, or has too little memory for that. At once: all
    that it had begun is cleared up by now, and what else would run on the way out needs memory as well."""
    os.write(2, _STARVED)
    os._exit(TryAgain.exit_code)


def starved(error: Exception) -> bool:
    """Whether something failed for want of memory. Imports, which list directories and map libraries, raise one of several."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ImportError):
        return "map segment" in str(error) or os.strerror(errno.ENOMEM) in str(error)
    return isinstance(error, _STARVATION)


def passes(error: OSError) -> bool:
    """Whether an error of the system may be gone at the next try. A service must not end for good for it: systemd does not start it
    again after `ConfigurationError` and `PermissionProblem`."""
    return error.errno in _PASSING


def printable(text: str) -> str:
    """Text without what a terminal or the journal would take for more than text; lines stay."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text
    )


def contained(text: str) -> str:
    """The same with its second and further lines indented: none of them can pass for a line of its own."""
    return printable(text).replace("\n", "\n  ")


def one_line(text: str, longest: int = 2000) -> str:
    """The same on one line, for what clients choose, such as names. longest: characters, more are cut off."""
    cut = text if len(text) <= longest else f"{text[:longest]}…"
    return printable(cut).replace("\n", "\\n")


def unforeseen(error: Exception) -> ChromadError:
    """What is told of an error that nobody foresaw: a fault of ours, or something strange in what was read."""
    import traceback  # here: every start pays for what is above

    *_, last = traceback.extract_tb(error.__traceback__) or [None]
    where = f" in {os.path.basename(last.filename)}, line {last.lineno}" if last else ""
    told = one_line(f"{type(error).__name__}: {error}", 300)
    return ChromadError(
        f"{UNFORESEEN}{where}: {told}", "chromactl doctor looks at the data; please report the line above"
    )


def from_system(error: Exception) -> ChromadError:
    """What an error of the operating system, of SQLite or of memory that nobody foresaw means to a user."""
    if isinstance(error, PermissionError):
        return PermissionProblem(str(error), "run as root or as the service user, and look at owner and mode")
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return TryAgain(NO_MEMORY, MORE_MEMORY)
    return ChromadError(f"{type(error).__name__}: {error}", "the disk or its mount may be at fault")
