"""Which elements of a vector segment a search can come to. Only for child processes: it imports numpy.

A search begins at the entry point, on the highest level, follows links there to the element that is nearest, goes on from it one
level below, and so on down to level 0, where it follows links and gathers what it finds. So it can find no more than what links
lead to, level by level, from the entry point. Chroma's index leaves parts without a link to them: when all records of a collection
are deleted and others added, the new ones link to the (deleted) entry point, which may not link back. In stock Chroma 1.5.9, with
no kill at all, searches then find 4 of 118 records (`tests/segments/refilled.py`). `get` gives them all the same.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chromad.store import damage, format, idmap
from chromad.store.damage import Missing
from chromad.store.idmap import IdMap

# Elements of level 0 looked at together
_ROWS = 4096

_Numbers = NDArray[np.int64]


def cut_off(directory: Path) -> list[str]:
    """The ids of the records that no search comes to, in a segment that `format.examine` calls sound and no engine has open.

    Memory: some 10 bytes for each element, and the file of level 0 is mapped. Raises Damage, OSError.
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
                found += [each.decode() for each, number in zip(ids, numbers, strict=True) if number in labels]
    return found


def _unreachable(directory: Path, header: format.Header) -> set[int]:
    """The labels of live elements that no search comes to."""
    level0: Any = np.memmap(directory / format.LEVEL0_FILE, np.uint8, "r")
    rows = level0[: header.elements * header.element_size].reshape(header.elements, header.element_size)
    upper = _upper_links(directory, header)
    reached = np.zeros(header.elements, bool)
    reached[header.entry_point] = True
    for level in range(header.max_level, 0, -1):
        lists = upper[level - 1]
        frontier = set(np.flatnonzero(reached).tolist())
        while frontier:
            links = {link for element in frontier for link in lists.get(element, ())}
            frontier = {link for link in links if not reached[link]}
            reached[list(frontier)] = True
    frontier_0 = np.flatnonzero(reached)
    while len(frontier_0):
        before = reached.copy()
        for first in range(0, len(frontier_0), _ROWS):
            # In the order of the file, so that each of its pages is read once a round.
            block = rows[frontier_0[first : first + _ROWS], : header.data_offset].copy().view("<u4")
            used = np.arange(block.shape[1] - 1, dtype=np.uint32) < (block[:, :1] & 0xFFFF)
            reached[block[:, 1:][used]] = True
        frontier_0 = np.flatnonzero(reached & ~before)
    missed = np.flatnonzero(~reached)
    live = missed[rows[missed, 2] == 0]
    labels: Any = rows[live, header.label_offset :].copy().view("<u8")
    return set(labels.ravel().tolist())


def _upper_links(directory: Path, header: format.Header) -> list[dict[int, _Numbers]]:
    """For each level above 0, its elements with what they link to there."""
    found: list[dict[int, _Numbers]] = [{} for _ in range(header.max_level)]
    words = np.memmap(directory / format.LINKS_FILE, "<u4", "r")
    length = header.links + 1
    at = 0
    for element in range(header.elements):
        levels = int(words[at]) // (4 * length)
        at += 1
        for level in range(levels):
            count = int(words[at]) & 0xFFFF
            found[level][element] = words[at + 1 : at + 1 + count].astype(np.int64)
            at += length
    return found
