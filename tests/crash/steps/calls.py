"""Calls by what they are, not by when they come: the same in each run of an operation, so that one can be met again."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# What differs from run to run in a name, and what stands for it
_VARIES = (
    (re.compile(r"\d{8}T\d{6}(?:\.\d+)?Z"), "TIME"),
    (re.compile(r"[0-9a-f]{16,}"), "HEX"),
    (re.compile(r"(?<=/data/)[0-9a-f]{2}(?=/|$)"), "XX"),
    (re.compile(r"(?<=[/.#-])\d+(?=[/.-]|$| )"), "N"),
    (re.compile(r"(?<=HEX-tmp-)\w+"), "N"),
    (re.compile(r"(?<=/)tmp/chromad-\w+(?=/|$)"), "ROOT"),
    (re.compile(r" \(deleted\)$"), ""),
)
# The files of a segment, which everybody but the engine treats alike, in a loop
_SEGMENT_FILE = re.compile(r"(?<=/)(?:header|data_level0|length|link_lists)\.bin|(?<=/)index_metadata\.pickle")
# Where SQLite writes a transaction
_LOGS = ("-wal", "-journal")
# Which ones of many that differ in nothing else, see `thinned`
FIRST, SECOND, MIDDLE, LAST = "first", "second", "middle", "last"


@dataclass(frozen=True)
class Call:
    """role: of the process that makes it. kind: see `syscalls`. path: with what varies from run to run left out."""

    role: str
    kind: str
    path: str

    def __str__(self) -> str:
        return f"{self.role} {self.kind} {self.path}"


# Stands for the time after the last call
END = Call("nobody", "end", "of all")


@dataclass(frozen=True)
class Place:
    """A call that is to be met. which: of those that are alike. number: its place among them, from 1."""

    call: Call
    which: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} ({self.which})"


class Naming:
    """Names paths by where they are. places: directories, by name. aliases: of UUIDs that are known from before."""

    def __init__(self, places: Mapping[str, Path], aliases: Mapping[str, str]) -> None:
        # The longest first: one may be in another.
        self._places = sorted(((f"{path}/", name) for name, path in places.items()), key=lambda each: -len(each[0]))
        self._aliases = aliases

    def without_aliases(self) -> "Naming":
        """One that calls all that is known by a UUID alike."""
        return Naming({name: Path(prefix) for prefix, name in self._places}, {})

    def name(self, path: str) -> str | None:
        """What a path is called; None outside of all places."""
        for prefix, name in self._places:
            if f"{path}/".startswith(prefix):
                return self.plain(f"{name}/{path[len(prefix) :]}".rstrip("/"))
        return None

    def names(self, paths: list[str]) -> str | None:
        """Of a call that changes these; None when it changes nothing that is ours."""
        found = [self.name(path) for path in paths]
        if all(each is None for each in found):
            return None
        return " to ".join(each or "elsewhere" for each in found)

    def plain(self, text: str) -> str:
        """A path without what varies."""
        text = _UUID.sub(lambda found: self._aliases.get(found[0], "UUID"), text)
        for pattern, word in _VARIES:
            text = pattern.sub(word, text)
        return text


def role(words: Iterable[str]) -> str:
    """What a process is, by its command line."""
    found = list(words)
    if "chromad.engine.main" in found:
        return "engine"
    if modules := [each for each in found if each.startswith("chromad.")]:
        return modules[0].rpartition(".")[2]
    for name in ("chromactl", "chromad", "restic"):
        if any(each == name or each.endswith(f"/{name}") for each in found[:3]):
            return name
    return Path(found[0]).name if found and found[0] else "unknown"


def alike(call: Call) -> Call:
    """The call for which one of a loop over the files of a segment stands."""
    if call.role == "engine":
        return call
    return Call(call.role, call.kind, _SEGMENT_FILE.sub("FILE", call.path))


class Steps:
    """Tells the transactions of a process apart: by what it has changed last that is no database."""

    def __init__(self) -> None:
        self._before: dict[str, str] = {}

    def placed(self, call: Call) -> Call:
        """A call with the step in which it comes. Calls have to be given in their order."""
        if call.role == "engine":
            return call
        if ".sqlite3" not in call.path and call.kind != "sync":
            self._before[call.role] = f"{call.kind} {call.path}"
        elif call.kind in ("write", "sync") and call.path.endswith(_LOGS) and call.role in self._before:
            return Call(call.role, call.kind, f"{call.path} after {self._before[call.role]}")
        return call


def thinned(calls: Iterable[Call]) -> tuple[list[Place], int]:
    """The first, the second, the middle and the last of those that are alike, in the order in which each kind came first; and how
    many are left out."""
    counts = Counter(calls)
    places = []
    for call, count in counts.items():
        names = {(count + 1) // 2: MIDDLE, 2: SECOND, count: LAST, 1: FIRST}
        places += [Place(call, which, number) for number, which in sorted(names.items()) if number <= count]
    return places, sum(counts.values()) - len(places)
