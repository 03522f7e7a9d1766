"""The files of a vector segment, as the engine's index (Chroma's fork of hnswlib) writes them, and whether they agree.

Only for child processes: it imports numpy. All integers are little-endian. What holds between two persists, checked against
files of Chroma 1.5.9 before and after restarts and resizes, and against hnswalg.h (initPersistentIndex, persistDirty,
readPersistedIndexFromStreams):

header.bin: 100 bytes, `HEADER`. M, maxM = M, maxM0 = 2 M, mult = 1 / ln M and ef_construction >= M never change, and neither
    do the offsets: offsetData = 4 + 4 maxM0, label_offset = offsetData + 4 dimension, size = label_offset + 8.
    max_elements is what memory was given for: 100 in a new index and after a load of up to 100 elements (10,000 in
    Chroma 1.0, 1000 before), else a power of two that is less than four times the elements (or what an older Chroma left).
    cur_element_count counts deleted elements as well, and never shrinks.
data_level0.bin: `size` bytes for each element: uint16 number of links, byte 1 when deleted, byte 0, room for maxM0 links
    (uint32 element numbers), vector, uint64 label. A new index writes 100 elements of whatever was in memory; a persist
    writes the elements that changed. So the file has max(100, cur_element_count) elements, whatever max_elements says.
length.bin: a float for each element of data_level0.bin: the length of the vector before it was normalised, where the
    space is cosine; else whatever was in memory.
link_lists.bin: for each of the cur_element_count elements uint32 bytes that follow, then for each level above 0 that the
    element is on: uint16 number of links, uint16 0, room for maxM links to elements that are on that level as well. The
    last of them ends the file. The highest level is maxlevel, and enterpoint is on it.
index_metadata.pickle: see `idmap`. Its labels are those of the elements that are not deleted.

The engine gives each label once, so none occurs twice, deleted or not. It refuses NaN and infinity in embeddings.

What the bytes cannot tell, and `examine` calls sound:
- A persist of which nothing, or of the header only what is the same or means nothing, was written: the old segment.
- A persist that only updated vectors, stopped anywhere before the pickle: vectors and lengths are old or new, elements of
  each sort. A kill does no harm in these two cases: SQLite learns of a persist last, so the engine replays it whole.
- After a power cut, when the disk wrote blocks out of order: vectors and lengths in any persist. Not even the replay puts
  them right, since it skips an add of an id that is known. Only the times of the files tell (a persist writes the pickle
  last), and which boot wrote them.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from io import FileIO
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chromad.chroma import damage, idmap
from chromad.chroma.damage import Damage, Missing
from chromad.chroma.idmap import IdMap
from chromad.chroma.segment import HEADER, LARGEST_ELEMENT, LARGEST_START

HEADER_FILE, LEVEL0_FILE, LENGTH_FILE, LINKS_FILE = "header.bin", "data_level0.bin", "length.bin", "link_lists.bin"

# Bytes read at a time.
CHUNK = 1 << 20
LINKS_CHUNK = 1 << 18

# A level is geometrically distributed with mean 1 / ln M, and M is 2 at least: more than 60 does not happen.
_HIGHEST_LEVEL = 250

_SPARE_LABELS = 1_000_000

_IN_PICKLE, _IN_LEVEL0 = 1, 2

_Words = NDArray[np.uint32]
_Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Facts:
    """A sound segment. live: ids. elements: vectors, deleted ones included. dimension: 0 when there are no ids.

    Without ids the engine begins a new index, whatever the other files hold.
    """

    live: int
    elements: int
    dimension: int


@dataclass(frozen=True)
class Header:
    """The fields of header.bin that tell something; sizes in bytes."""

    max_elements: int
    elements: int
    element_size: int
    data_offset: int
    max_level: int
    entry_point: int
    links: int

    @property
    def label_offset(self) -> int:
        """Where in an element its label is."""
        return self.element_size - 8

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return (self.label_offset - self.data_offset) // 4


def examine(directory: Path) -> Facts:
    """Reads all of a segment once, in bounded memory: some MiB, and 4 bytes for each element.

    Raises Damage with the first thing that is not as the engine leaves it, OSError when a file cannot be read.
    """
    try:
        pickle = damage.open_file(directory / idmap.FILE)
    except Missing:
        return Facts(0, 0, 0)
    labels = _Labels(directory)
    with pickle:
        labels.read(IdMap(pickle))
    header = labels.header
    if header is None:
        return Facts(0, 0, 0)
    with damage.open_file(directory / LEVEL0_FILE) as file:
        _check_level0(file, header, labels)
        room = damage.size(file) // header.element_size
    with damage.open_file(directory / LENGTH_FILE) as file:
        if damage.size(file) != 4 * room:
            raise Damage(f"{LENGTH_FILE} has {damage.held(file)}; {LEVEL0_FILE} has room for {room} elements")
    with damage.open_file(directory / LINKS_FILE) as file:
        _check_links(file, header)
    return Facts(labels.live, header.elements, header.dimension)


def read_header(directory: Path) -> Header:
    """Reads header.bin. Raises Damage when its fields do not fit each other or the sizes of the other files."""
    with damage.open_file(directory / HEADER_FILE) as file:
        if damage.size(file) != HEADER.size:
            raise Damage(f"{HEADER_FILE} has {damage.held(file)}, not {HEADER.size}")
        found = file.read(HEADER.size)
    if len(found) != HEADER.size:
        raise Damage(f"{HEADER_FILE} ends early")
    (
        version,
        level0_offset,
        max_elements,
        elements,
        element_size,
        label_offset,
        data_offset,
        max_level,
        entry_point,
        max_links,
        max_links0,
        links,
        mult,
        ef_construction,
    ) = HEADER.unpack(found)
    if version != 1 or level0_offset != 0:
        raise Damage(f"{HEADER_FILE} is of version {version} with offset {level0_offset}, not 1 with 0")
    layout = (
        links >= 2
        and max_links == links
        and max_links0 == 2 * links
        and ef_construction >= links
        and data_offset == 4 + 4 * max_links0
        and label_offset > data_offset
        and (label_offset - data_offset) % 4 == 0
        and element_size == label_offset + 8
        and element_size <= LARGEST_ELEMENT
        and math.isclose(mult, 1 / math.log(links), rel_tol=1e-9)
    )
    if not layout:
        raise Damage(f"{HEADER_FILE} describes an impossible layout")
    if not 1 <= elements <= max_elements <= max(LARGEST_START, 4 * elements):
        raise Damage(f"{HEADER_FILE} has {elements} elements and room for {max_elements}")
    if entry_point >= elements or not 0 <= max_level <= _HIGHEST_LEVEL:
        raise Damage(f"{HEADER_FILE} has entry point {entry_point} on level {max_level} for {elements} elements")
    return Header(max_elements, elements, element_size, data_offset, max_level, entry_point, links)


class _Labels:
    """Which labels the pickle has, and then which ones are found on elements. Reads the header when there is an id."""

    def __init__(self, directory: Path) -> None:
        self.header: Header | None = None
        self.live = 0
        self.flags: _Bytes = np.zeros(0, np.uint8)
        self._directory = directory

    def read(self, pickle: IdMap) -> None:
        """Takes in the pickle; its two maps must be each other's inverse."""
        counts = {"id_to_label": 0, "label_to_id": 0}
        # A sum does not depend on the order, and a sum of random numbers, one for each id, times their labels is not the same
        # for other labels: Python's hashes of bytes are keyed, 64 bits wide, and new in each process.
        sums = {"id_to_label": 0, "label_to_id": 0}
        for name, ids, labels in pickle.items():
            if name not in counts:
                continue
            counts[name] += len(ids)
            sums[name] += sum(map(mul, map(hash, ids), labels))
            if name == "id_to_label":
                self._mark(np.array(labels, np.int64), pickle.total)
        if counts["id_to_label"] != counts["label_to_id"] or sums["id_to_label"] != sums["label_to_id"]:
            raise Damage(
                f"{idmap.FILE} maps {counts['id_to_label']} ids to labels, and back from other labels or "
                f"to other ids ({counts['label_to_id']})"
            )
        self.live = counts["id_to_label"]
        if np.count_nonzero(self.flags) != self.live:
            raise Damage(f"{idmap.FILE} has the same label for two ids")

    def _mark(self, labels: NDArray[np.int64], total: int) -> None:
        if self.header is None:
            self.header = read_header(self._directory)
            elements = self.header.elements
            # Before memory is taken for them.
            with damage.open_file(self._directory / LEVEL0_FILE) as file:
                _check_room(file, self.header)
            # Equal, except where an older Chroma deleted vectors before it put them into the index.
            if not elements <= total <= 16 * elements + _SPARE_LABELS:
                raise Damage(f"{idmap.FILE} has given {total} labels, {HEADER_FILE} has {elements} elements")
            self.flags = np.zeros(total + 1, np.uint8)
        if labels.min() < 1 or labels.max() > total:
            raise Damage(f"{idmap.FILE} has labels that are not between 1 and {total}, the last one given")
        self.flags[labels] |= _IN_PICKLE


def _check_room(file: FileIO, header: Header) -> None:
    size = damage.size(file)
    if size % header.element_size or size < header.elements * header.element_size:
        raise Damage(
            f"{LEVEL0_FILE} has {damage.held(file)}; {header.elements} elements of {header.element_size} bytes are wanted"
        )


def _check_level0(file: FileIO, header: Header, labels: _Labels) -> None:
    rows = max(1, CHUNK // header.element_size)
    buffer = bytearray(rows * header.element_size)
    live = 0
    for first in range(0, header.elements, rows):
        count = min(rows, header.elements - first)
        view = memoryview(buffer)[: count * header.element_size]
        _read_exactly(file, view)
        live += _check_elements(np.frombuffer(view, "<u4").reshape(count, -1), first, header, labels)
    if live != labels.live:
        raise Damage(f"{LEVEL0_FILE} has {live} elements that are not deleted; {idmap.FILE} has {labels.live} ids")
    if np.count_nonzero(labels.flags & _IN_LEVEL0) != header.elements:
        raise Damage(f"{LEVEL0_FILE} has the same label on two elements")


def _check_elements(block: _Words, first: int, header: Header, labels: _Labels) -> int:
    """Checks these elements (one a row), the first of which has number `first`, and counts those not deleted."""

    def refuse(bad: Any, what: str) -> None:
        if bad.any():
            raise Damage(f"{LEVEL0_FILE}: element {first + int(bad.argmax())} {what}")

    data = header.data_offset // 4
    low, high = block[:, -2], block[:, -1]
    refuse((high != 0) | (low == 0) | (low >= len(labels.flags)), "has a label that was never given")
    state = labels.flags[low]
    deleted = block[:, 0] >> 16
    refuse((deleted > 1) | ((block[:, 0] & 0xFFFF) > 2 * header.links), "has an impossible number of links")
    refuse((deleted == 0) & (state & _IN_PICKLE == 0), f"is not deleted, but {idmap.FILE} does not have its label")
    refuse((deleted == 1) & (state & _IN_PICKLE != 0), f"is deleted, but {idmap.FILE} has its label")
    refuse(state & _IN_LEVEL0 != 0, "has the label of another")
    links = block[:, 1:data]
    # What lies behind the links in use is mostly 0 or an earlier link, so that all are right at once.
    if links.max() >= header.elements:
        used = np.arange(data - 1, dtype=np.uint32) < (block[:, :1] & 0xFFFF)
        refuse((used & (links >= header.elements)).any(axis=1), "has a link to an element that does not exist")
    refuse(~np.isfinite(block[:, data:-2].view("<f4")).all(axis=1), "has a vector with NaN or infinity")
    labels.flags[low] = state | _IN_LEVEL0
    return len(block) - int(deleted.sum())


def _check_links(file: FileIO, header: Header) -> None:
    levels = np.zeros(header.elements, np.uint8)
    # The highest level on which another element links to this one.
    linked = np.zeros(header.elements, np.uint8)
    list_words = header.links + 1
    words: _Words = np.zeros(0, np.uint32)
    at = element = end = 0
    tail = b""
    while element < header.elements:
        chunk = file.read(LINKS_CHUNK)
        if not chunk:
            raise Damage(f"{LINKS_FILE} has {damage.held(file)} and ends within element {element} of {header.elements}")
        tail = words[at:].tobytes() + tail + chunk
        whole = len(tail) // 4 * 4
        words, tail, at = np.frombuffer(tail[:whole], "<u4"), tail[whole:], 0
        nonzero: list[int] = np.flatnonzero(words).tolist()
        upper: list[tuple[int, int]] = []
        index = 0
        while element < header.elements and at < len(words):
            index = bisect_left(nonzero, at, index)
            run = min((nonzero[index] if index < len(nonzero) else len(words)) - at, header.elements - element)
            element += run
            at += run
            end += 4 * run
            if element == header.elements or at == len(words):
                break
            level, rest = divmod(int(words[at]), 4 * list_words)
            if rest or level > header.max_level:
                raise Damage(f"{LINKS_FILE}: element {element} has {int(words[at])} bytes, of {4 * list_words} a level")
            if at + 1 + level * list_words > len(words):
                break
            levels[element] = level
            upper.extend((at + 1 + lower * list_words, lower + 1) for lower in range(level))
            element += 1
            at += 1 + level * list_words
            end += 4 * (1 + level * list_words)
        if upper:
            _check_lists(words, upper, header, linked)
    if end != damage.size(file):
        raise Damage(f"{LINKS_FILE} has {damage.held(file)}; its {header.elements} elements end at {end}")
    _check_levels(header, levels, linked)


def _check_levels(header: Header, levels: _Bytes, linked: _Bytes) -> None:
    """levels: on which each element is. linked: the highest one on which another links to it."""
    # None is higher, or it would have been refused above.
    if levels[header.entry_point] != header.max_level:
        raise Damage(
            f"{LINKS_FILE} has the entry point {header.entry_point} on level {levels[header.entry_point]}; "
            f"{HEADER_FILE} says {header.max_level}"
        )
    if (linked > levels).any():
        raise Damage(
            f"{LINKS_FILE}: element {int((linked > levels).argmax())} is linked to on a level that it is not on"
        )


def _check_lists(words: _Words, upper: list[tuple[int, int]], header: Header, linked: _Bytes) -> None:
    """Checks lists of links above level 0, given as (index of the first word, level), and notes what they link to."""
    found: Any = np.array(upper)
    lists = words[found[:, :1] + np.arange(header.links + 1)]
    counts, links = lists[:, :1], lists[:, 1:]
    if counts.max() > header.links:
        raise Damage(f"{LINKS_FILE} has a list of {int(counts.max())} links; {header.links} are possible")
    used = np.arange(header.links) < counts
    if (links[used] >= header.elements).any():
        raise Damage(f"{LINKS_FILE} has a link to an element that does not exist")
    for level in range(1, int(found[:, 1].max()) + 1):
        targets = links[used & (found[:, 1:] == level)]
        linked[targets] = np.maximum(linked[targets], level)


def _read_exactly(file: FileIO, view: memoryview) -> None:
    while view:
        count = file.readinto(view)
        if not count:
            raise Damage(f"{LEVEL0_FILE} ends early")
        view = view[count:]
