"""Which elements of a vector segment a search can come to. Only for child processes: it imports numpy.

A search begins at the entry point, on the highest level, follows links there to the element that is nearest, goes on from it one
level below, and so on down to level 0, where it follows links and gathers what it finds. So it can find no more than what links
lead to, level by level, from the entry point. Chroma's index leaves parts without a link to them, with no kill at all: when all
records of a collection are deleted and others added, the new ones link to the (deleted) entry point, which may not link back
(searches of stock Chroma 1.5.9 find 4 of 118 records then, see `tests/segments/refilled.py`); and where many vectors lie close
together and `max_neighbors` is small. `get` gives them all the same.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chromad.chroma import damage, format, idmap
from chromad.chroma.damage import Missing
from chromad.chroma.idmap import IdMap

# Elements of level 0 looked at together
_ROWS = 4096

_Numbers = NDArray[np.int64]


def cut_off(directory: Path) -> list[str]:
    """The ids of the records that no search comes to, in a segment that `format.examine` calls sound and no engine has open.

    Memory: some 10 bytes for each element; the files of links are mapped. Raises Damage, OSError.
    """
    try:
        pickle = damage.open_file(directory / idmap.FILE)
    except Missing:
        return []
    with pickle:
        labels = _unreachable(directory, format.read_header(directory))
        found = []
        for name, ids, numbers in IdMap(pickle).items() if labels else ():
            if name == "id_to_label":
                found += [
                    each.decode(errors="replace") for each, number in zip(ids, numbers, strict=True) if number in labels
                ]
    return found


def _unreachable(directory: Path, header: format.Header) -> set[int]:
    """The labels of live elements that no search comes to."""
    level0: Any = np.memmap(directory / format.LEVEL0_FILE, np.uint8, "r")
    rows = level0[: header.elements * header.element_size].reshape(header.elements, header.element_size)
    words: Any = np.memmap(directory / format.LINKS_FILE, np.uint32, "r")
    places = _places(words, header)
    reached = np.zeros(header.elements, bool)
    reached[header.entry_point] = True
    for level in range(header.max_level, 0, -1):
        frontier = np.flatnonzero(reached)
        while len(frontier):
            before = reached.copy()
            for element in frontier.tolist():
                at = int(places[element]) + 1 + (level - 1) * (header.links + 1)
                reached[words[at + 1 : at + 1 + (int(words[at]) & 0xFFFF)]] = True
            frontier = np.flatnonzero(reached & ~before)
    frontier = np.flatnonzero(reached)
    while len(frontier):
        before = reached.copy()
        for first in range(0, len(frontier), _ROWS):
            # In the order of the file, so that each of its pages is read once a round.
            block = rows[frontier[first : first + _ROWS], : header.data_offset].copy().view("<u4")
            used = np.arange(block.shape[1] - 1, dtype=np.uint32) < (block[:, :1] & 0xFFFF)
            reached[block[:, 1:][used]] = True
        frontier = np.flatnonzero(reached & ~before)
    missed = np.flatnonzero(~reached)
    live = missed[rows[missed, 2] == 0]
    labels: Any = rows[live, header.label_offset :].copy().view("<u8")
    return set(labels.ravel().tolist())


def _places(words: Any, header: format.Header) -> _Numbers:
    """Where in link_lists.bin, in words, each element begins."""
    places = np.zeros(header.elements, np.int64)
    at = 0
    for element in range(header.elements):
        places[element] = at
        at += 1 + int(words[at]) // 4
    return places
