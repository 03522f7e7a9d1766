"""What restores, adoptions and upgrades that were killed have left beside the data, and how it is ended."""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chromad.host import files, privileges, signals
from chromad.logs.lines import log as journal
from chromad.store import copies, swap
from chromad.store.copies import StagingNote


def sweep(parent: Path) -> list[str]:
    """Removes the copies that were left below a directory by those who were killed, and ends their exchanges; gives a line on
    each. What cannot be told for certain is named and stays. What others work on now is left alone."""
    done = [line for note in sorted(parent.glob(f"{copies.STAGING}*{copies.NOTE}")) if (line := _settle(note))]
    done += [f"{path} is left of a restore or an adoption; look at it, then remove it" for path in _unknown(parent)]
    for line in done:
        journal.warning("%s", line)
    return done


def sweep_beside(data_dir: Path) -> None:
    """As `sweep`, of what is beside the data."""
    sweep(copies.location(data_dir))


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


def beside(data_dir: Path) -> list[Leftover]:
    """What there is beside the data, but for what is being worked on now."""
    found: dict[str, list[Path]] = {}
    for kind in (copies.STAGING, copies.REPLACED, copies.FAILED):
        for path in sorted(copies.location(data_dir).glob(f"{kind}*")):
            found.setdefault(copies.stem(path), []).append(path)
    for path in copies.ways(data_dir):
        found.setdefault(copies.stem(path), []).append(path)
    return [
        left
        for stem, paths in found.items()
        if (left := _leftover(paths, copies.location(data_dir) / f"{stem}{copies.NOTE}"))
    ]


def _leftover(paths: list[Path], note_path: Path) -> Leftover | None:
    """What belongs together by its name; None for what is being worked on, and for what is neither directory nor note."""
    notes = [path for path in paths if path.name.endswith(copies.NOTE)]
    if any(map(_is_locked, notes)):
        return None
    paths = [path for path in paths if path.is_dir() and not path.is_symlink()] or notes
    if not paths:
        return None
    try:
        note = copies.parse(note_path.read_bytes())
    except OSError:
        note = None
    return Leftover(
        paths[0],
        copies.stem(paths[0]).partition("-")[0] + "-",
        sum(map(copies.allocated, paths)),
        copies.since(paths[0]),
        note is not None and not note.former,
        note.collection if note else "",
    )


def _settle(note: Path) -> str:
    """Ends what a note stands for; gives what was done, empty where somebody works on it."""
    directory = note.with_name(note.name.removesuffix(copies.NOTE))
    try:
        fd = files.open_plain(note, os.O_RDWR)
    except OSError as error:
        return f"{note} cannot be read: {error.strerror}"
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        found = copies.parse(os.pread(fd, copies.NOTE_BYTES, 0))
        with signals.deferred():
            line = _end(directory, found) if found else f"{note} cannot be read"
            left = (
                directory.exists() or copies.former(directory).exists() or (found and copies.ways_of(directory, found))
            )
            if not left:
                files.remove(note)
    except OSError as error:
        return f"{directory} is left of a restore or an adoption, and could not be dealt with: {error}"
    finally:
        os.close(fd)
    return line


def _end(directory: Path, note: StagingNote) -> str:
    data_dir, former = Path(note.data_dir), copies.former(directory)
    stopped = "; it had stopped the service, if that does not run: systemctl start chromadb" if note.stopped else ""
    replaced = copies.named(directory, copies.REPLACED)
    if copies.ways_of(directory, note):
        if privileges.may("bring back"):
            privileges.ask("bring back")
        else:
            swap.bring_back(data_dir)
        if left := copies.ways_of(directory, note):
            return f"{left[0]} is left of an exchange; look at it"
        swap.put_on_disk(directory.parent)
    if note.former and former.exists() and not data_dir.exists() and copies.inode(former) == note.former:
        if privileges.may("put back"):
            privileges.ask("put back")
        else:
            files.rename(former, data_dir)
        swap.put_on_disk(data_dir.parent)
        copies.remove_copies(directory)
        return f"{data_dir} is put back: a restore or an adoption was cut off in the exchange{stopped}"
    for path in (former, directory):
        if note.former and copies.inode(path) == note.former:
            files.rename(path, replaced)
            swap.put_on_disk(replaced.parent)
            swap.drop_ballast(replaced)
            copies.remove_copies(directory)
            return (
                f"the former data are in {replaced}: a restore or an adoption was cut off after the exchange{stopped}"
            )
    if not note.former or copies.inode(data_dir) == note.former:
        copies.remove_copies(directory)
        filled = (
            f"; the collection {note.collection}, if it is there, is an incomplete copy: delete it, or restore a collection "
            "of that database, which removes it"
        )
        return (
            f"the copy {directory} is removed: a restore or an adoption was cut off"
            f"{stopped}{filled if note.collection else ''}"
        )
    if copies.inode(replaced) == note.former or not directory.exists():
        # All was done but the clearing away; former data with nothing in them are not kept.
        copies.remove_copies(directory)
        return ""
    return f"{directory} is left of an exchange; look at it, then remove it"


def _unknown(parent: Path) -> Iterator[Path]:
    for path in sorted(parent.glob(f"{copies.STAGING}*")):
        if not path.name.endswith(copies.NOTE) and not path.with_name(f"{copies.stem(path)}{copies.NOTE}").exists():
            yield path


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
