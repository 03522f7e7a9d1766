"""The one exchange of directories: a copy that was made beside the data takes their place, and the former data are kept.

Copies are made in `<data>/../restore/staging-TIME`. A note beside each, `staging-TIME.note`, tells whoever comes after a kill
what it is: a copy that never was the data, or one of the two directories of an exchange; then the inode of the former data
tells which. What cannot be told is named, and never removed. The one who works on it has the note locked.

Root exchanges beside the data, in a directory that is its own: a kill there leaves one of the two as `.staging-TIME`, or
`.replaced-TIME` on the way back. It is brought to where its name says first.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from chromad import documents
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.control import ask
from chromad.errors import ChromadError, TryAgain
from chromad.host import files, privileges, processes, removal, service, signals
from chromad.host.privileges import Step
from chromad.logs.lines import log as journal
from chromad.store import history, lock
from chromad.store.layout import BALLAST

STAGING, REPLACED, FAILED = "staging-", "replaced-", "failed-"
_NOTE = ".note"
_FORMER = ".former"
_TIME = "%Y%m%dT%H%M%S.%fZ"
_NOTE_BYTES = 4096

# The name of this program's copy, where root's part has to know it, see `steps`
_settled = ""


def place(data_dir: Path) -> Path:
    """The directory beside the data in which copies are made and former data are kept, with the owner of the data."""
    parent = location(data_dir)
    if not parent.exists():
        if privileges.may("make place"):
            privileges.ask("make place")
        else:
            owner = data_dir.stat()
            files.make_directory(parent, 0o750, (owner.st_uid, owner.st_gid))
    return parent


def steps(data_dir: Path) -> dict[str, Step]:
    """What root does for a verb that works as the service user, by its word. The copy that it exchanges has a name that is
    settled now."""
    global _settled  # noqa: PLW0603 (before the program becomes two)
    _settled = f"{STAGING}{datetime.now(UTC).strftime(_TIME)}"
    copy = location(data_dir) / _settled
    return {
        "make place": lambda: str(place(data_dir)),
        "exchange": lambda: files.exchange(copy, data_dir),
        "exchange back": lambda: files.exchange(_named(copy, REPLACED), data_dir),
        "put back": lambda: _put_back(data_dir),
        "bring back": lambda: _bring_back(data_dir),
        "who has it open": lambda: [str(each) for each in _who_has_open(data_dir)],
    }


def settled(parent: Path) -> Path:
    """Where this program's copy is in a directory, after `steps`."""
    return parent / _settled


def exchange(copy: Path, data_dir: Path) -> None:
    """Swaps the two, or raises and leaves both as they are. copy: of the `Staging` of this program, under whichever name."""
    if privileges.may("exchange"):
        privileges.ask("exchange" if copy.name.startswith(STAGING) else "exchange back")
    else:
        files.exchange(copy, data_dir)


def _put_back(data_dir: Path) -> None:
    """Former data that an exchange has left beside their place, where nothing else is."""
    found = [path for path in location(data_dir).glob(f"{STAGING}*{_FORMER}") if _since(path)]
    if len(found) == 1:
        files.bring(found[0], data_dir)


def _bring_back(data_dir: Path) -> None:
    """What was left on the way is again where copies are, but for what an exchange has in hand now."""
    for way in _ways(data_dir):
        if not lock.is_held_directory(way):
            files.rename(way, location(data_dir) / way.name.removeprefix("."))


def _ways(data_dir: Path) -> list[Path]:
    """What there is on the way between the data and where copies are."""
    kinds = (f".{STAGING}", f".{REPLACED}")
    return [path for path in sorted(data_dir.parent.glob(".*-*")) if path.name.startswith(kinds) and _since(path)]


def _ways_of(directory: Path, note: "_Note") -> list[Path]:
    """As `_ways`, of one exchange; by name, since the directory may be root's alone to list."""
    if not note.former:
        return []
    names = [f".{path.name}{end}" for path in (directory, _named(directory, REPLACED)) for end in ("", _FORMER)]
    return [path for name in names if os.path.lexists(path := Path(note.data_dir).with_name(name))]


def place_to_look(data_dir: Path) -> Path:
    """As `place`, for what stays only a moment: makes nothing where what is above the data will do."""
    if privileges.may("make place"):
        return place(data_dir)
    return location(data_dir) if location(data_dir).is_dir() else data_dir.parent


def exists(data_dir: Path) -> bool:
    """Whether there is a directory for copies."""
    return location(data_dir).exists()


def tidy(data_dir: Path) -> None:
    """Removes the directory for copies again, where there is nothing in it."""
    with suppress(OSError):
        files.remove_directory(location(data_dir))


def location(data_dir: Path) -> Path:
    """As `place`, whether or not it is there."""
    return data_dir.parent / "restore"


@dataclass(frozen=True)
class _Note:
    """What a note says. former: the inode of the former data, 0 while what it stands beside is a copy and nothing else.
    data_dir: of the exchange, empty before. stopped: whether the service was stopped for it. collection: of the service, which
    is filled from the copy."""

    former: int = 0
    data_dir: str = ""
    stopped: bool = False
    collection: str = ""


class Staging:
    """A place for a copy of the data, `directory`, which is not made; what else is made for it has a name from `beside`.

    At the end of the `with` statement all of it is removed, but for what an exchange has put there.
    """

    def __init__(self, parent: Path) -> None:
        """parent: where it is made."""
        self.directory = parent / (_settled or f"{STAGING}{datetime.now(UTC).strftime(_TIME)}")
        self._fd = -1
        self._note = _Note()

    def __enter__(self) -> "Staging":
        try:
            with signals.deferred():
                self._fd = files.open_plain(self.beside("note"), os.O_RDWR | os.O_CREAT | os.O_EXCL)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                self._write(_Note())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd < 0:
            return
        with signals.deferred():
            if not self._note.former or not self.directory.exists():
                _remove_copies(self.directory)
            left = self.directory.exists() or self.beside("former").exists() or _ways_of(self.directory, self._note)
            if not left:
                files.remove(self.beside("note"))
            os.close(self._fd)
            self._fd = -1

    def beside(self, what: str) -> Path:
        """The path of something that belongs to the copy."""
        return self.directory.with_name(f"{self.directory.name}.{what}")

    def named(self, kind: str) -> Path:
        """The path under which it is kept. kind: REPLACED or FAILED."""
        return _named(self.directory, kind)

    def will_stop(self) -> None:
        """Notes, on disk, that the service is stopped for it."""
        self._write(_Note(stopped=True))

    def will_exchange(self, data_dir: Path, *, stopped: bool) -> None:
        """Notes, on disk, that from now on either directory may be the former data."""
        self._write(_Note(data_dir.stat().st_ino, str(data_dir), stopped))

    def will_fill(self, collection: str) -> None:
        """Notes, on disk, that a collection of the service is filled from the copy from now on."""
        self._write(_Note(collection=collection))

    def was_not_exchanged(self) -> None:
        """Notes that it is a copy and nothing else, if the data are where they were, and the copy as well."""
        if _ways_of(self.directory, self._note):
            return
        if self._note.former and _inode(Path(self._note.data_dir)) == self._note.former:
            self._write(_Note())

    def _write(self, note: _Note) -> None:
        text = json.dumps(asdict(note))
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)
        os.fsync(self._fd)
        files.fsync_path(self.directory.parent)
        self._note = note


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
        return self._staging.named(REPLACED)

    def _done(self) -> str:
        done = "the data are as they were"
        if self._exchanged:
            done = f"it {self._what} all the same; the former data are in {self._staging.named(REPLACED)}"
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
            replaced = self._staging.named(REPLACED)
            files.rename(former, replaced)
            former = replaced
            _put_on_disk(self._data_dir.parent)
            _put_on_disk(replaced.parent)
            if self._restart:
                self._start()
        except BaseException as error:
            self._roll_back(error, former)
        _drop_ballast(former)

    def _start(self) -> None:
        """Starts the service. Raises ChromadError when it does not serve; what systemctl says of one that does is of no account,
        since clients are at work."""
        try:
            service.control("start")
        except ChromadError:
            with suppress(ChromadError):
                found = ask(self._config.control_socket, "status")
                if found and found["state"] == "serving":
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
        failed = self._staging.named(FAILED)
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
            _put_on_disk(self._data_dir.parent)
            _put_on_disk(former.parent)
            _drop_ballast(former)
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


def sweep(parent: Path) -> list[str]:
    """Removes the copies that were left below a directory by those who were killed, and ends their exchanges; gives a line on
    each. What cannot be told for certain is named and stays. What others work on now is left alone."""
    done = [line for note in sorted(parent.glob(f"{STAGING}*{_NOTE}")) if (line := _settle(note))]
    done += [f"{path} is left of a restore or an adoption; look at it, then remove it" for path in _unknown(parent)]
    for line in done:
        journal.warning("%s", line)
    return done


def sweep_beside(data_dir: Path) -> None:
    """As `sweep`, of what is beside the data."""
    sweep(location(data_dir))


@dataclass(frozen=True)
class Leftover:
    """What a restore, an adoption or an upgrade has left: former data (`replaced-`), what did not come up (`failed-`), or what
    was not ended (`staging-`), which may be no more than its note. certain: it is a copy, which the next run removes.
    collection: of the service, that was being filled from it."""

    path: Path
    kind: str
    bytes: int
    since: datetime | None
    certain: bool
    collection: str


def leftovers(data_dir: Path) -> list[Leftover]:
    """What there is beside the data, but for what is being worked on now."""
    found: dict[str, list[Path]] = {}
    for kind in (STAGING, REPLACED, FAILED):
        for path in sorted(location(data_dir).glob(f"{kind}*")):
            found.setdefault(_stem(path), []).append(path)
    for path in _ways(data_dir):
        found.setdefault(_stem(path), []).append(path)
    return [left for stem, paths in found.items() if (left := _leftover(paths, location(data_dir) / f"{stem}{_NOTE}"))]


def _leftover(paths: list[Path], note_path: Path) -> Leftover | None:
    """What belongs together by its name; None for what is being worked on, and for what is neither directory nor note."""
    notes = [path for path in paths if path.name.endswith(_NOTE)]
    if any(map(_is_locked, notes)):
        return None
    paths = [path for path in paths if path.is_dir() and not path.is_symlink()] or notes
    if not paths:
        return None
    try:
        note = _parse(note_path.read_bytes())
    except OSError:
        note = None
    return Leftover(
        paths[0],
        _stem(paths[0]).partition("-")[0] + "-",
        sum(map(allocated, paths)),
        _since(paths[0]),
        note is not None and not note.former,
        note.collection if note else "",
    )


def _settle(note: Path) -> str:
    """Ends what a note stands for; gives what was done, empty where somebody works on it."""
    directory = note.with_name(note.name.removesuffix(_NOTE))
    try:
        fd = files.open_plain(note, os.O_RDWR)
    except OSError as error:
        return f"{note} cannot be read: {error.strerror}"
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        found = _parse(os.pread(fd, _NOTE_BYTES, 0))
        with signals.deferred():
            line = _end(directory, found) if found else f"{note} cannot be read"
            left = directory.exists() or _former(directory).exists() or (found and _ways_of(directory, found))
            if not left:
                files.remove(note)
    except OSError as error:
        return f"{directory} is left of a restore or an adoption, and could not be dealt with: {error}"
    finally:
        os.close(fd)
    return line


def _end(directory: Path, note: _Note) -> str:
    data_dir, former = Path(note.data_dir), _former(directory)
    stopped = "; it had stopped the service, if that does not run: systemctl start chromadb" if note.stopped else ""
    replaced = _named(directory, REPLACED)
    if _ways_of(directory, note):
        if privileges.may("bring back"):
            privileges.ask("bring back")
        else:
            _bring_back(data_dir)
        if left := _ways_of(directory, note):
            return f"{left[0]} is left of an exchange; look at it"
        _put_on_disk(directory.parent)
    if note.former and former.exists() and not data_dir.exists() and _inode(former) == note.former:
        if privileges.may("put back"):
            privileges.ask("put back")
        else:
            files.rename(former, data_dir)
        _put_on_disk(data_dir.parent)
        _remove_copies(directory)
        return f"{data_dir} is put back: a restore or an adoption was cut off in the exchange{stopped}"
    for path in (former, directory):
        if note.former and _inode(path) == note.former:
            files.rename(path, replaced)
            _put_on_disk(replaced.parent)
            _drop_ballast(replaced)
            _remove_copies(directory)
            return (
                f"the former data are in {replaced}: a restore or an adoption was cut off after the exchange{stopped}"
            )
    if not note.former or _inode(data_dir) == note.former:
        _remove_copies(directory)
        filled = (
            f"; the collection {note.collection}, if it is there, is an incomplete copy: delete it, or restore a collection "
            "of that database, which removes it"
        )
        return (
            f"the copy {directory} is removed: a restore or an adoption was cut off"
            f"{stopped}{filled if note.collection else ''}"
        )
    if _inode(replaced) == note.former or not directory.exists():
        # All was done but the clearing away; former data with nothing in them are not kept.
        _remove_copies(directory)
        return ""
    return f"{directory} is left of an exchange; look at it, then remove it"


def _parse(text: bytes) -> _Note | None:
    try:
        found = documents.parse(text)
        return _Note(
            int(found["former"]), str(found["data_dir"]), bool(found["stopped"]), str(found.get("collection", ""))
        )
    except (KeyError, TypeError, ValueError):
        return None


def _remove_copies(directory: Path) -> None:
    """Removes a copy, and what was made for it."""
    note = f"{directory.name}{_NOTE}"
    for path in (directory, *directory.parent.glob(f"{directory.name}.*")):
        if path.name in (note, _former(directory).name):
            continue
        if path.is_dir() and not path.is_symlink():
            removal.remove_tree(path, ignore_errors=True)
        else:
            files.remove(path)


def _unknown(parent: Path) -> Iterator[Path]:
    for path in sorted(parent.glob(f"{STAGING}*")):
        if not path.name.endswith(_NOTE) and not path.with_name(f"{_stem(path)}{_NOTE}").exists():
            yield path


def _stem(path: Path) -> str:
    """`staging-20260102T030405.000006Z.restic` -> `staging-20260102T030405.000006Z`"""
    return ".".join(path.name.removeprefix(".").split(".")[:2])


def _is_locked(note: Path) -> bool:
    try:
        fd = files.open_plain(note, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _since(path: Path) -> datetime | None:
    try:
        return datetime.strptime(_stem(path).partition("-")[2], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


def allocated(path: Path) -> int:
    """Bytes that a tree, or a file, takes on disk."""
    if path.is_file():
        return path.lstat().st_blocks * 512
    return sum(os.lstat(os.path.join(top, name)).st_blocks * 512 for top, _, names in os.walk(path) for name in names)


def _named(directory: Path, kind: str) -> Path:
    return directory.with_name(directory.name.replace(STAGING, kind, 1))


def _former(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}{_FORMER}")


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _drop_ballast(directory: Path) -> None:
    """What is kept aside needs none, see `guard`."""
    with suppress(OSError):
        files.remove(directory / BALLAST)


def _put_on_disk(directory: Path) -> None:
    # One that only root may list is no reason to go back.
    with suppress(PermissionError):
        files.fsync_path(directory)


def _text(error: BaseException) -> str:
    known = isinstance(error, ChromadError | OSError | sqlite3.Error)
    return (error.message if isinstance(error, ChromadError) else str(error)) if known else repr(error)
