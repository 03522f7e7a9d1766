"""Segments damaged at random: what bytes a disk, a crash, a person or an attacker may leave."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from chromad.chroma import format, idmap

FILES = (format.HEADER_FILE, format.LEVEL0_FILE, format.LENGTH_FILE, format.LINKS_FILE, idmap.FILE)

# Numbers that break arithmetic, and those that look right.
_NUMBERS = [0, 1, 2, 3, 7, 99, 100, 101, 255, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]

# Bytes that mean something in a pickle, those that import and call first.
_OPCODES = b"cR\x93\x81\x92iobP\x82\x83\x84" + b"X\x8c\x8d(}u.JKM\x8a\x8bN0\x94hjqr\x95\x80tl]eadSVUTBCG"

_MONSTER = 1 << 40

Files = dict[str, bytearray]


def damage(source: Path, other: Path, target: Path, numbers: random.Random) -> str:
    """Makes `target` a damaged copy of the segment `source`, in one to three ways; gives their names.

    other: a segment of the same settings to take pieces from.
    """
    if target.exists():
        shutil.rmtree(target)
    target.mkdir()
    files = {name: bytearray((source / name).read_bytes()) for name in FILES}
    pieces = {name: bytearray((other / name).read_bytes()) for name in FILES}
    ways = numbers.choices(_WAYS, k=numbers.choice([1, 1, 1, 2, 3]))
    for way in ways:
        way(files, pieces, numbers)
    for name, content in files.items():
        (target / name).write_bytes(content)
    names = [way.__name__.strip("_") for way in ways]
    if numbers.random() < 0.1:
        place = numbers.choice(_PLACES)
        names.append(place.__name__.strip("_"))
        place(target / numbers.choice(FILES), numbers)
    return " ".join(names)


def _flip_bits(files: Files, pieces: Files, numbers: random.Random) -> None:
    content = _any(files, numbers)
    for _ in range(numbers.choice([1, 1, 2, 20])):
        if content:
            content[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)


def _cut(files: Files, pieces: Files, numbers: random.Random) -> None:
    content = _any(files, numbers)
    del content[numbers.choice([0, max(len(content) - numbers.randint(1, 20), 0), numbers.randint(0, len(content))]) :]


def _grow(files: Files, pieces: Files, numbers: random.Random) -> None:
    content = _any(files, numbers)
    length = numbers.choice([1, 4, numbers.randint(1, 5000)])
    content += numbers.choice([bytes(length), numbers.randbytes(length), bytes(content[:length])])


def _overwrite(files: Files, pieces: Files, numbers: random.Random) -> None:
    content = _any(files, numbers)
    first, last = _range(content, numbers)
    content[first:last] = numbers.choice(
        [numbers.randbytes(last - first), bytes(last - first), b"\xff" * (last - first)]
    )


def _randomize(files: Files, pieces: Files, numbers: random.Random) -> None:
    content = _any(files, numbers)
    content[:] = numbers.randbytes(numbers.choice([0, 1, len(content), numbers.randint(0, 5000)]))


def _splice(files: Files, pieces: Files, numbers: random.Random) -> None:
    """Puts a range of any file in, over, or instead of something."""
    content = _any(files, numbers)
    first, last = _range(content, numbers)
    source = _any(numbers.choice([files, pieces]), numbers)
    begin, end = _range(source, numbers)
    content[first : numbers.choice([first, last, first + end - begin])] = source[begin:end]


def _swap_file(files: Files, pieces: Files, numbers: random.Random) -> None:
    name = numbers.choice(FILES)
    files[name] = bytearray(pieces[name])


def _mix_blocks(files: Files, pieces: Files, numbers: random.Random) -> None:
    """Takes some blocks from the other segment, as a disk that wrote only some of them."""
    name = numbers.choice(FILES)
    content, other = files[name], pieces[name]
    block = numbers.choice([16, 64, 512, 4096])
    for at in range(0, min(len(content), len(other)), block):
        if numbers.random() < 0.5:
            content[at : at + block] = other[at : at + block]


def _swap_elements(files: Files, pieces: Files, numbers: random.Random) -> None:
    content, header = files[format.LEVEL0_FILE], files[format.HEADER_FILE]
    size = int.from_bytes(header[28:36], "little")
    if 0 < size <= len(content):
        one, two = (numbers.randrange(len(content) // size) * size for _ in range(2))
        content[one : one + size], content[two : two + size] = content[two : two + size], content[one : one + size]


def _header_field(files: Files, pieces: Files, numbers: random.Random) -> None:
    header = files[format.HEADER_FILE]
    at, length = numbers.choice(
        [(0, 4), *((4 + 8 * i, 8) for i in range(6)), (52, 4), (56, 4), *((60 + 8 * i, 8) for i in range(5))]
    )
    old = int.from_bytes(header[at : at + length], "little")
    value = numbers.choice([*_NUMBERS, old + 1, old - 1, old * 2, old // 2])
    header[at : at + length] = (value % 2 ** (8 * length)).to_bytes(length, "little")


def _pickle_opcode(files: Files, pieces: Files, numbers: random.Random) -> None:
    content = files[idmap.FILE]
    known = [at for at, byte in enumerate(content) if byte in b"X}(uJN."]
    if known:
        content[numbers.choice(known)] = numbers.choice(_OPCODES)


def _pickle_call(files: Files, pieces: Files, numbers: random.Random) -> None:
    """Puts a call of a global where a value stands."""
    content = files[idmap.FILE]
    known = [at for at, byte in enumerate(content) if byte in b"X}JN"]
    if known:
        at = numbers.choice(known)
        content[at:at] = numbers.choice(
            [b"cos\nsystem\n(S'true'\ntR", b"\x8c\x02os\x8c\x06system\x93(tR", b"ios\nsystem\n"]
        )


def _pickle_number(files: Files, pieces: Files, numbers: random.Random) -> None:
    """Changes a label or the length of a string."""
    content = files[idmap.FILE]
    known = [at for at, byte in enumerate(content[:-5]) if byte in b"XJ"]
    if known:
        at = numbers.choice(known) + 1
        content[at : at + 4] = (numbers.choice(_NUMBERS) % 2**32).to_bytes(4, "little")


def _element_field(files: Files, pieces: Files, numbers: random.Random) -> None:
    """Changes the head, a link or the label of an element."""
    content, header = files[format.LEVEL0_FILE], files[format.HEADER_FILE]
    size, label = (int.from_bytes(header[at : at + 8], "little") for at in (28, 36))
    if 0 < size <= len(content):
        at = numbers.randrange(len(content) // size) * size + numbers.choice([0, 2, 4, 8, label])
        content[at : at + 4] = (numbers.choice(_NUMBERS) % 2**32).to_bytes(4, "little")


def _link_field(files: Files, pieces: Files, numbers: random.Random) -> None:
    content = files[format.LINKS_FILE]
    if len(content) >= 4:
        at = numbers.randrange(len(content) // 4) * 4
        content[at : at + 4] = (numbers.choice(_NUMBERS) % 2**32).to_bytes(4, "little")


def _sparse(path: Path, numbers: random.Random) -> None:
    os.truncate(path, numbers.choice([_MONSTER, _MONSTER + 4, 1 << 33, path.stat().st_size * 1000 + 1]))


def _sparse_elements(path: Path, numbers: random.Random) -> None:
    """Files that are as large as the header says, with holes for billions of elements."""
    header = bytearray((path.parent / format.HEADER_FILE).read_bytes())
    if len(header) < 44:
        return
    size = int.from_bytes(header[28:36], "little") % (1 << 20) + 1
    count = _MONSTER // size
    for at in (12, 20):
        header[at : at + 8] = count.to_bytes(8, "little")
    (path.parent / format.HEADER_FILE).write_bytes(header)
    os.truncate(path.parent / format.LEVEL0_FILE, count * size)
    os.truncate(path.parent / format.LENGTH_FILE, count * 4)
    pickle = bytearray((path.parent / idmap.FILE).read_bytes())
    at = pickle.find(b"total_elements_addedJ") + len(b"total_elements_addedJ")
    pickle[at : at + 4] = min(count, 2**31 - 1).to_bytes(4, "little")
    (path.parent / idmap.FILE).write_bytes(pickle)


def _missing(path: Path, numbers: random.Random) -> None:
    path.unlink(missing_ok=True)


def _no_file(path: Path, numbers: random.Random) -> None:
    path.unlink(missing_ok=True)
    numbers.choice([os.mkdir, os.mkfifo, lambda link: os.symlink("/dev/zero", link)])(path)


Way = Callable[[Files, Files, random.Random], None]

_WAYS: list[Way] = [
    _flip_bits,
    _cut,
    _grow,
    _overwrite,
    _randomize,
    _splice,
    _swap_file,
    _mix_blocks,
    _swap_elements,
    _header_field,
    _pickle_opcode,
    _pickle_call,
    _pickle_number,
    _element_field,
    _link_field,
]
_PLACES: list[Callable[[Path, random.Random], None]] = [_sparse, _sparse_elements, _missing, _no_file]


def _any(files: Files, numbers: random.Random) -> bytearray:
    return files[numbers.choice(FILES)]


def _range(content: bytearray, numbers: random.Random) -> tuple[int, int]:
    first, last = sorted(numbers.randint(0, len(content)) for _ in range(2))
    return first, min(last, first + numbers.choice([4, 64, 100_000]))
