"""The one exchange of directories: a copy that was made beside the data takes their place, and the former data are kept."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from chromad.chroma import sqlite
from chromad.config import Config
from chromad.control import ask_status
from chromad.errors import ChromadError, TryAgain
from chromad.host import files, privileges, processes, service, signals
from chromad.host.privileges import Step
from chromad.store import copies, history, lock
from chromad.store.copies import Staging
from chromad.store.layout import BALLAST


def steps(data_dir: Path) -> dict[str, Step]:
    """What root does for a verb that works as the service user, by its word. The copy that it exchanges has a name that is
    settled now."""
    copy = copies.settle(data_dir)
    return {
        "make place": lambda: str(copies.place(data_dir)),
        "exchange": lambda: files.exchange(copy, data_dir),
        "exchange back": lambda: files.exchange(copies.named(copy, copies.REPLACED), data_dir),
        "put back": lambda: _put_back(data_dir),
        "bring back": lambda: bring_back(data_dir),
        "who has it open": lambda: [str(each) for each in _who_has_open(data_dir)],
    }


def exchange(copy: Path, data_dir: Path) -> None:
    """Swaps the two, or raises and leaves both as they are. copy: of the `Staging` of this program, under whichever name."""
    if privileges.may("exchange"):
        privileges.ask("exchange" if copy.name.startswith(copies.STAGING) else "exchange back")
    else:
        files.exchange(copy, data_dir)


def _put_back(data_dir: Path) -> None:
    """Former data that an exchange has left beside their place, where nothing else is."""
    found = [path for path in copies.location(data_dir).glob(f"{copies.STAGING}*{copies.FORMER}") if copies.since(path)]
    if len(found) == 1:
        files.bring(found[0], data_dir)


def bring_back(data_dir: Path) -> None:
    """What was left on the way is again where copies are, but for what an exchange has in hand now."""
    for way in copies.ways(data_dir):
        if not lock.is_held_directory(way):
            files.rename(way, copies.location(data_dir) / way.name.removeprefix("."))


class DataSwap:
    """A copy takes the place of the data directory; whatever fails before it serves, the former data are back.

    what: was done, for people, such as `restored 1a2b3c4d`. restart: whether the service runs, and is to be stopped for the
    exchange and started again. before: called last, when nobody has the data open any more; it raises where the copy is not
    to take their place.
    """

    def __init__(
        self, config: Config, staging: Staging, what: str, *, restart: bool, before: Callable[[], None] = lambda: None
    ) -> None:
        self._config = config
        self._data_dir = config.data_dir
        self._staging = staging
        self._what = what
        self._restart = restart
        self._before = before
        self._exchanged = False
        self._trouble = ""

    def run(self) -> Path:
        """Does it; gives where the former data are. Raises ChromadError when it failed; then the former data serve again.

        A signal waits until it has gone back, or until the copy serves.
        """
        try:
            with signals.deferred():
                self._exchange()
                self._finish()
                signals.finished(self._done())
        except signals.Interrupted as interrupted:
            interrupted.done = self._done()
            raise
        return self._staging.named(copies.REPLACED)

    def _done(self) -> str:
        done = "the data are as they were"
        if self._exchanged:
            done = f"it {self._what} all the same; the former data are in {self._staging.named(copies.REPLACED)}"
        if self._trouble:
            return f"{done}; {self._trouble}"
        return f"{done}; the service serves again" if self._restart else done

    def _exchange(self) -> None:
        try:
            # Whoever is killed after the exchange has put data in place that belong here.
            history.accept_directory(self._config.checkpoint_dir, self._staging.directory)
            if self._restart:
                self._staging.will_stop()
                service.control("stop")
            with lock.directory_lock(self._data_dir):
                check_alone(self._data_dir)
                self._before()
                # The last moment to go back
                signals.raise_pending()
                self._staging.will_exchange(self._data_dir, stopped=self._restart)
                exchange(self._staging.directory, self._data_dir)
                self._exchanged = True
        except BaseException as error:
            if self._exchanged:
                self._roll_back(error, self._staging.directory)
            self._staging.was_not_exchanged()
            self._start_again(error)
            raise

    def _finish(self) -> None:
        former = self._staging.directory
        try:
            replaced = self._staging.named(copies.REPLACED)
            files.rename(former, replaced)
            former = replaced
            put_on_disk(self._data_dir.parent)
            put_on_disk(replaced.parent)
            if self._restart:
                self._start()
        except BaseException as error:
            self._roll_back(error, former)
        drop_ballast(former)

    def _start(self) -> None:
        """Starts the service. Raises ChromadError when it does not serve; what systemctl says of one that does is of no account,
        since clients are at work."""
        try:
            service.control("start")
        except ChromadError:
            with suppress(ChromadError):
                found = ask_status(self._config.control_socket)
                if found and found.state == "serving":
                    return
            raise

    def _start_again(self, error: BaseException) -> None:
        if not self._restart:
            return
        try:
            service.control("start")
        except ChromadError as second:
            self._trouble = f"the service did not start again: {second.message}"
            if isinstance(error, signals.Interrupted):
                return
            raise ChromadError(f"{_text(error)}; and {self._trouble}", second.hint) from error

    def _roll_back(self, error: BaseException, former: Path) -> None:
        """Puts the former data back and starts the service with them; what had taken their place is kept as `failed-…`."""
        failed = self._staging.named(copies.FAILED)
        try:
            if self._restart:
                service.control("stop")
            with lock.directory_lock(self._data_dir):
                exchange(former, self._data_dir)
                self._exchanged = False
            with suppress(OSError):
                files.rename(former, failed)
                former = failed
            # Before clients write: a power cut must not bring back what did not come up.
            put_on_disk(self._data_dir.parent)
            put_on_disk(former.parent)
            drop_ballast(former)
        except (ChromadError, OSError) as second:
            self._trouble = f"the former data could not be put back: {_text(second)}"
            where = former if self._exchanged else self._data_dir
            raise ChromadError(
                f"{self._what}, but {_text(error)}; and {self._trouble}", f"the former data are in {where}"
            ) from error
        self._trouble = f"the service did not come up with what was to take their place: {_text(error)}"
        self._start_again(error)
        raise ChromadError(
            f"{self._what}, but the service did not come up with it: {_text(error)}",
            f"the former data are back in place; what had taken their place is in {former}",
        ) from error


def _who_has_open(directory: Path) -> list[processes.Process]:
    return processes.with_open_database(directory / sqlite.FILE, ignore={os.getpid(), privileges.child()})


def check_alone(data_dir: Path, *, here: bool = False) -> None:
    """Raises TryAgain when a process has the database of a directory open. here: as far as this process sees, also where root's
    part could be asked, which knows the data directory alone."""
    found = [str(each) for each in _who_has_open(data_dir)]
    if not here and privileges.may("who has it open"):
        # Files that others have open are hidden from an ordinary user.
        found = found or privileges.ask("who has it open")
    if found:
        names = ", ".join(found)
        raise TryAgain(f"{data_dir / sqlite.FILE} is open in {names}", "stop it first")


# What was left behind


def drop_ballast(directory: Path) -> None:
    """What is kept aside needs none, see `guard`."""
    with suppress(OSError):
        files.remove(directory / BALLAST)


def put_on_disk(directory: Path) -> None:
    # One that only root may list is no reason to go back.
    with suppress(PermissionError):
        files.fsync_path(directory)


def _text(error: BaseException) -> str:
    known = isinstance(error, ChromadError | OSError | sqlite3.Error)
    return (error.message if isinstance(error, ChromadError) else str(error)) if known else repr(error)
