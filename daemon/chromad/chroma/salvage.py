"""What can still be had of a damaged segment: vectors of level 0, by the ids of the pickle. Only for child processes (numpy).

Header, links and lengths may be anything, the pickle may be cut off. Memory: some 200 bytes for each id.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chromad.chroma import damage, format, idmap, legacy
from chromad.chroma.damage import Damage
from chromad.chroma.idmap import IdMap

# max_neighbors is 16 unless a collection says otherwise; where the header does not tell, the most fitting of these is taken.
_LINKS = range(2, 513)
_SAMPLE = 4 << 20
_CHUNK = 1 << 20
_SPARE = 1_000_000

_Words = NDArray[np.uint32]


@dataclass
class Salvage:
    """The vectors of one segment.

    directory: a segment that no engine has open. dimension: as SQLite says. cosine: the space, in which the engine keeps
    vectors normalised and their lengths apart.

    After `vectors` has ended: lost has the ids without a vector, unscaled those whose vector has length 1 because their own
    length is lost (a search finds them as before). problem: why the pickle gave no more ids, empty when it is whole.
    """

    directory: Path
    dimension: int
    cosine: bool
    problem: str = ""
    lost: list[str] = field(default_factory=list)
    unscaled: list[str] = field(default_factory=list)

    def vectors(self) -> Iterator[tuple[str, bytes]]:
        """Yields ids and vectors (little-endian 32-bit floats). Raises OSError when a file cannot be read."""
        ids, total = self._ids()
        self.lost, self.unscaled = [], []
        try:
            file = damage.open_file(self.directory / format.LEVEL0_FILE)
        except Damage:
            self.lost = list(ids.values())
            return
        with file:
            yield from self._from_level0(file, ids, total)

    def _ids(self) -> tuple[dict[int, str], int]:
        """Ids by label, as far as the pickle can be read, and the last label given (0: not known)."""
        self.problem = ""
        if legacy.is_old(self.directory):
            old = legacy.read(self.directory)
            self.problem = "" if old.whole else f"{idmap.FILE} is cut off"
            return {label: key for key, label in old.labels.items()}, old.total
        found: dict[int, str] = {}
        total = 0
        try:
            with damage.open_file(self.directory / idmap.FILE) as file:
                pickle = IdMap(file)
                for name, ids, labels in pickle.items():
                    total = pickle.total
                    if name != "id_to_seq_id":
                        found.update(zip(labels, (key.decode() for key in ids), strict=True))
        except Damage as problem:
            self.problem = str(problem)
        return found, total

    def _from_level0(self, file: FileIO, ids: dict[int, str], total: int) -> Iterator[tuple[str, bytes]]:
        wanted = np.array(sorted(ids), np.uint64)
        given = max(total, *ids, 0)
        links, known = self._layout(file, wanted, given)
        # More than the header knows of, since it may be older than the rest, but no more than labels were given: a new
        # index writes 100 elements of whatever was in memory, those of another collection for one. And not all that a
        # damaged pickle speaks of, since the file may have a vast hole.
        elements = min(max(known, given), _SPARE + 16 * len(wanted))
        rows = self._rows(file, links, elements, known, wanted)
        self.lost = [ids[label] for label in ids if label not in rows]
        by_row = {row: ids[label] for label, row in rows.items()}
        lengths = self._lengths(max(by_row, default=-1) + 1)
        for first, block in _blocks(file, links, self.dimension, elements):
            for row in range(len(block)):
                key = by_row.get(first + row)
                if key is not None:
                    yield key, self._scaled(key, block[row, 1 + 2 * links : -2], lengths, first + row)

    def _layout(self, file: FileIO, wanted: NDArray[np.uint64], given: int) -> tuple[int, int]:
        """M, and how many elements there are: as many as the header knows of, or else as labels were given."""
        try:
            header = format.read_header(self.directory)
        except Damage:
            pass
        else:
            if header.dimension == self.dimension:
                return header.links, header.elements
        file.seek(0)
        sample = file.read(_SAMPLE)
        fits = {links: self._fit(sample, links, wanted) for links in _LINKS}
        return max(fits, key=lambda links: fits[links]), given

    def _fit(self, sample: bytes, links: int, wanted: NDArray[np.uint64]) -> int:
        """How many labels would be found on elements that look whole, if M were this."""
        size = _element_size(links, self.dimension)
        rows = len(sample) // size
        block = np.frombuffer(sample[: rows * size], "<u4").reshape(rows, size // 4)
        return len(np.unique(_labels(block)[_whole(block, links, wanted)]))

    def _rows(self, file: FileIO, links: int, elements: int, known: int, wanted: NDArray[np.uint64]) -> dict[int, int]:
        """The one element that looks whole for each label; a label on two is on neither, unless only one is known."""
        found: dict[int, int] = {}
        doubtful: set[int] = set()
        for first, block in _blocks(file, links, self.dimension, elements):
            labels = _labels(block)
            for row in np.flatnonzero(_whole(block, links, wanted)).tolist():
                label = int(labels[row])
                before = found.setdefault(label, first + row)
                if before != first + row and (before < known) == (first + row < known):
                    doubtful.add(label)
        return {label: row for label, row in found.items() if label not in doubtful}

    def _lengths(self, count: int) -> NDArray[np.float32]:
        """The lengths of so many elements; 0 stands for one that is lost."""
        lengths = np.zeros(count, np.float32)
        if not self.cosine:
            return lengths
        try:
            with damage.open_file(self.directory / format.LENGTH_FILE) as file:
                content = file.read(4 * count)
        except Damage:
            return lengths
        found = np.frombuffer(content[: len(content) // 4 * 4], "<f4")
        lengths[: len(found)] = np.where(np.isfinite(found) & (found > 0), found, 0)
        return lengths

    def _scaled(self, key: str, words: _Words, lengths: NDArray[np.float32], row: int) -> bytes:
        if not self.cosine:
            return words.tobytes()
        length = lengths[row]
        if not length:
            self.unscaled.append(key)
            return words.tobytes()
        scaled: NDArray[np.float32] = words.view("<f4") * length
        return scaled.tobytes()


def _element_size(links: int, dimension: int) -> int:
    return 4 + 8 * links + 4 * dimension + 8


def _whole(block: _Words, links: int, wanted: NDArray[np.uint64]) -> NDArray[np.bool_]:
    vectors = block[:, 1 + 2 * links : -2].view("<f4")
    possible = ((block[:, 0] & 0xFFFF) <= 2 * links) & (block[:, 0] >> 17 == 0)
    whole: NDArray[np.bool_] = possible & np.isin(_labels(block), wanted)
    whole &= np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    return whole


def _labels(block: _Words) -> NDArray[np.uint64]:
    return block[:, -2].astype(np.uint64) | (block[:, -1].astype(np.uint64) << np.uint64(32))


def _blocks(file: FileIO, links: int, dimension: int, elements: int) -> Iterator[tuple[int, _Words]]:
    """The first elements of level 0, one a row, in blocks; with each the number of its first element."""
    size = _element_size(links, dimension)
    rows = max(1, _CHUNK // size)
    file.seek(0)
    first = 0
    rest = b""
    while first < elements and (piece := file.read(rows * size)):
        content = rest + piece
        count = min(len(content) // size, elements - first)
        rest = content[count * size :]
        if count:
            yield first, np.frombuffer(content[: count * size], "<u4").reshape(count, -1)
            first += count
