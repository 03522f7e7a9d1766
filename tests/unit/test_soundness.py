"""The validator of segments: what the engine leaves is sound, and each kind of damage is told."""

import errno
import itertools
import os
import pickle
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chromad.chroma import damage as damage_of
from chromad.chroma import format, format_main, idmap, soundness
from chromad.chroma.damage import Damage
from chromad.chroma.soundness import Verdict
from chromad.daemon.checkpointer import Stopped
from chromad.errors import ChromadError

from tests.segments import damage, engine, pieces, workload, writer
from tests.segments.workload import Workload


def nothing() -> None:
    """A tick."""


def verdict(directory: Path) -> Verdict:
    return soundness.examine([directory], nothing)[directory]


@pytest.mark.parametrize("seed", range(8))
def test_random_workloads_are_sound(seed: int, tmp_path: Path) -> None:
    found = workload.make(seed)
    examined = 0
    for _ in range(2):
        found, count = engine.run(workload.phase, tmp_path / "data", found, 5)
        examined += count
    assert examined or found.threshold > found.given


def test_facts(segment: Path) -> None:
    labels = pickle.loads((segment / idmap.FILE).read_bytes())
    facts = verdict(segment)
    assert facts == Verdict(True, "", len(labels["id_to_label"]), labels["total_elements_added"], 5)
    assert facts.elements > 128
    assert facts.elements > facts.live > 20


def _emptied(data: Path) -> None:
    collection = engine.create(engine.client(data), "emptied", threshold=2)
    collection.add(ids=["a", "b"], embeddings=np.eye(2, dtype=np.float32))
    assert format.examine(engine.segment(data, "emptied")).live == 2
    collection.delete(ids=["a", "b"])


def test_empty(tmp_path: Path) -> None:
    engine.run(_emptied, tmp_path)
    emptied = engine.segment(tmp_path, "emptied")
    assert (emptied / idmap.FILE).exists()
    fresh, missing = tmp_path / "fresh", tmp_path / "missing"
    fresh.mkdir()
    (fresh / format.HEADER_FILE).write_bytes(b"torn")
    assert set(soundness.examine([emptied, fresh, missing], nothing).values()) == {Verdict(False, "", empty=True)}


class PersistentData:
    """What Chroma before 1.0 pickled, but for its module."""

    def __init__(self, labels: dict[str, object]) -> None:
        self.__dict__.update(labels)


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_pickle_of_an_older_chroma(protocol: int, recorded: tuple[Path, Workload], tmp_path: Path) -> None:
    data, found = recorded
    files = engine.contents(engine.segment(data, found.name))
    files[idmap.FILE] = pickle.dumps(PersistentData(pickle.loads(files[idmap.FILE])), protocol)
    directory = engine.variant(data, tmp_path / "data", found.name, files, engine.seq_id(data, found.name))
    assert verdict(directory) == Verdict(
        False, "index_metadata.pickle is of a Chroma before 1.0, which is not examined", older=True
    )
    assert engine.same(engine.run(engine.read, tmp_path / "data", found.name), found.vectors)


def _change(name: str, change: Callable[[bytearray], object]) -> Callable[[Path], None]:
    def damaged(segment: Path) -> None:
        content = bytearray((segment / name).read_bytes())
        result = change(content)
        (segment / name).write_bytes(result if isinstance(result, bytes) else content)

    return damaged


def _put(at: int, number: int, form: str = "<I") -> Callable[[bytearray], object]:
    return lambda content: struct.pack_into(form, content, at, number)


def _element(segment: Path, live: bool) -> tuple[int, int]:
    """Where the first element that is (not) deleted begins, and the size of one."""
    size = format.read_header(segment).element_size
    content = (segment / format.LEVEL0_FILE).read_bytes()
    return next(at for at in range(0, len(content), size) if (content[at + 2] == 0) == live), size


def _delete(segment: Path) -> None:
    at, _ = _element(segment, live=True)
    _change(format.LEVEL0_FILE, _put(at + 2, 1, "<B"))(segment)


def _undelete(segment: Path) -> None:
    at, _ = _element(segment, live=False)
    _change(format.LEVEL0_FILE, _put(at + 2, 0, "<B"))(segment)


def _same_label(segment: Path) -> None:
    at, size = _element(segment, live=True)
    content = bytearray((segment / format.LEVEL0_FILE).read_bytes())
    other = next(to for to in range(at + size, len(content), size) if content[to + 2] == 0)
    content[other + size - 8 : other + size] = content[at + size - 8 : at + size]
    (segment / format.LEVEL0_FILE).write_bytes(content)


def _pickle(old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(content: bytearray) -> bytes:
        assert old in content
        return bytes(content).replace(old, new, 1)

    return _change(idmap.FILE, change)


def _sparse(name: str, size: int) -> Callable[[Path], None]:
    return lambda segment: os.truncate(segment / name, size)


def _walk(segment: Path) -> tuple[int, int]:
    """Where link_lists.bin has the first element that is on level 1, and the number of one that is on level 0 alone."""
    content = (segment / format.LINKS_FILE).read_bytes()
    at, sizes = 0, []
    starts = []
    while at < len(content):
        starts.append(at)
        sizes.append(int.from_bytes(content[at : at + 4], "little"))
        at += 4 + sizes[-1]
    return next(start for start, size in zip(starts, sizes, strict=True) if size), sizes.index(0)


def _upper(after: int, number: int | None, form: str = "<I") -> Callable[[Path], None]:
    """Writes behind where an element on level 1 begins; None stands for an element on level 0."""

    def damaged(segment: Path) -> None:
        at, low = _walk(segment)
        _change(format.LINKS_FILE, _put(at + after, low if number is None else number, form))(segment)

    return damaged


def _entry_point(segment: Path) -> None:
    _change(format.HEADER_FILE, _put(56, _walk(segment)[1]))(segment)


def _items(content: bytes, name: bytes) -> list[tuple[int, int]]:
    """Where in a pickle of one group the labels and ids of a map are."""
    at = content.index(name + b"}(") + len(name) + 2
    found = []
    while content[at : at + 1] != b"u":
        key = at if name == b"id_to_label" else at + 5
        length = int.from_bytes(content[key + 1 : key + 5], "little")
        found.append((at + 1 if key > at else key + 6 + length, key + 5))
        at += 10 + length
    return found


def _two_ids_for_a_label(segment: Path) -> None:
    content = bytearray((segment / idmap.FILE).read_bytes())
    for name in (b"id_to_label", b"label_to_id"):
        labels = {content[at : at + 4].hex(): at for at, _ in _items(bytes(content), name)}
        one, two = (labels[label] for label in sorted(labels)[:2])
        content[two : two + 4] = content[one : one + 4]
    (segment / idmap.FILE).write_bytes(content)


def _newer_pickle(segment: Path) -> None:
    """An id more, as if level 0 had not been written."""
    content = (segment / idmap.FILE).read_bytes()
    at = content.index(b"total_elements_addedJ") + 21
    label = struct.pack("<I", int.from_bytes(content[at : at + 4], "little") + 1)
    content = content[:at] + label + content[at + 4 :]
    content = content.replace(b"id_to_label}(", b"id_to_label}(X\x03\0\0\0newJ" + label)
    content = content.replace(b"label_to_id}(", b"label_to_id}(J" + label + b"X\x03\0\0\0new")
    (segment / idmap.FILE).write_bytes(content)


def _first(part: int, content: bytes) -> Callable[[Path], None]:
    """Writes over the label (0) or the id (1) of the first item."""

    def change(old: bytearray) -> None:
        at = _items(bytes(old), b"id_to_label")[0][part]
        old[at : at + len(content)] = content

    return _change(idmap.FILE, change)


# Of elements with 5 dimensions and M = 4.
_SIZE, _LABEL, _VECTOR = 64, 56, 36

DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("no header", lambda segment: (segment / format.HEADER_FILE).unlink(), "header.bin is missing"),
    ("header cut", _change(format.HEADER_FILE, lambda content: bytes(content[:99])), "header.bin has 99 bytes, not 100"),
    ("version", _change(format.HEADER_FILE, _put(0, 2)), "of version 2"),
    ("layout", _change(format.HEADER_FILE, _put(28, 68, "<Q")), "impossible layout"),
    ("room", _change(format.HEADER_FILE, _put(12, 1 << 40, "<Q")), "room for 1099511627776"),
    ("no elements", _change(format.HEADER_FILE, _put(20, 0, "<Q")), "has 0 elements"),
    ("more elements", _change(format.HEADER_FILE, lambda content: _put(20, content[20] + 1, "<B")(content)), "elements"),
    ("entry point", _change(format.HEADER_FILE, _put(56, 0xFFFFFFFF)), "entry point 4294967295"),
    ("level", _change(format.HEADER_FILE, _put(52, 1)), "link_lists.bin: element|header.bin says 1"),
    ("no level 0", lambda segment: (segment / format.LEVEL0_FILE).unlink(), "data_level0.bin is missing"),
    ("level 0 cut", _change(format.LEVEL0_FILE, lambda content: bytes(content[:-1])), "data_level0.bin has .* are wanted"),
    ("element lost", _change(format.LEVEL0_FILE, lambda content: bytes(content[:-_SIZE])), "data_level0.bin has .* are wanted"),
    ("element zero", _change(format.LEVEL0_FILE, lambda content: bytes(_SIZE) + content[_SIZE:]), "element 0 has a label that was never given"),
    ("label", _change(format.LEVEL0_FILE, _put(_LABEL + 4, 1)), "element 0 has a label that was never given"),
    ("same label", _same_label, "has the label of another|same label on two elements"),
    ("links", _change(format.LEVEL0_FILE, _put(0, 9, "<H")), "element 0 has an impossible number of links"),
    ("link", _change(format.LEVEL0_FILE, _put(4, 100_000)), "element 0 has a link to an element that does not exist"),
    ("not a number", _change(format.LEVEL0_FILE, _put(_VECTOR, 0x7FC00000)), "element 0 has a vector with NaN or infinity"),
    ("infinite", _change(format.LEVEL0_FILE, _put(_VECTOR + 4, 0xFF800000)), "element 0 has a vector with NaN or infinity"),
    ("delete torn", _delete, "is deleted, but index_metadata.pickle has its label"),
    ("deleted back", _undelete, "is not deleted, but index_metadata.pickle does not have its label"),
    ("no lengths", lambda segment: (segment / format.LENGTH_FILE).unlink(), "length.bin is missing"),
    ("lengths cut", _change(format.LENGTH_FILE, lambda content: bytes(content[:-4])), "length.bin has"),
    ("links cut", _change(format.LINKS_FILE, lambda content: bytes(content[:-1])), "link_lists.bin has .* ends within element"),
    ("links grown", _change(format.LINKS_FILE, lambda content: bytes(content) + bytes(4)), "link_lists.bin has .* end at"),
    ("links sparse", _sparse(format.LINKS_FILE, 1 << 40), r"link_lists.bin has 1099511627776 bytes \(\d+ of them on disk\)"),
    ("level 0 sparse", _sparse(format.LEVEL0_FILE, 1 << 36), "length.bin has"),
    ("pickle sparse", _sparse(idmap.FILE, 1 << 40), "goes on behind its end"),
    ("pickle emptied", _change(idmap.FILE, lambda content: b""), "index_metadata.pickle is cut off at byte 0"),
    ("pickle cut", _change(idmap.FILE, lambda content: bytes(content[:-1])), "index_metadata.pickle is cut off"),
    ("pickle cut short", _change(idmap.FILE, lambda content: bytes(content[:700])), "index_metadata.pickle is cut off at byte 700"),
    ("pickle longer", _change(idmap.FILE, lambda content: bytes(content) + b"."), "goes on behind its end"),
    ("a call", _pickle(b"max_seq_idN", b"max_seq_idcos\nsystem\n(S'true'\ntR"), "refused: byte .* is 0x63"),
    ("a call in a map", _pickle(b"id_to_label}(", b"id_to_label}(cos\nsystem\n"), "refused: byte .* is 0x63"),
    ("a call for a name", _pickle(b"X\x0b\0\0\0id_to_label", b"cos\nsystem\n"), "refused: byte .* is 0x63"),
    ("a string too long", _pickle(b"id_to_label}(X", b"id_to_label}(X\xff\xff\xff"), "claims an id of|cut off"),
    ("a field is missing", _pickle(b"X\x0c\0\0\0id_to_seq_id}", b""), "lacks id_to_seq_id"),
    ("a field twice", _pickle(b"X\x0c\0\0\0id_to_seq_id}", b"X\x0b\0\0\0id_to_label}"), "has id_to_label twice"),
    ("fewer labels", _pickle(b"total_elements_addedJ", b"total_elements_addedJ\x01\0\0\0X"), "refused|cut off"),
    ("total too low", _change(idmap.FILE, lambda content: _total(content, 5)), "has given 5 labels"),
    ("total too high", _change(idmap.FILE, lambda content: _total(content, 2**31 - 1)), "has given 2147483647 labels"),
    ("label 0", _first(0, bytes(4)), "labels that are not between 1 and"),
    ("label beyond the last", _first(0, b"\xff\xff\0\0"), "labels that are not between 1 and"),
    ("an id that is no text", _first(1, b"\xff"), "has an id that is not UTF-8"),
    ("two ids for a label", _two_ids_for_a_label, "has the same label for two ids"),
    ("pickle newer", _newer_pickle, "elements that are not deleted; index_metadata.pickle has"),
    ("higher level", _change(format.HEADER_FILE, _put(52, 200)), "header.bin says 200"),
    ("low entry point", _entry_point, "has the entry point .* on level 0"),
    ("size of links", _upper(0, 21), "has 21 bytes, of 20 a level"),
    ("number of upper links", _upper(4, 5), "has a list of 5 links; 4 are possible"),
    ("upper link", _upper(8, 100_000), "link_lists.bin has a link to an element that does not exist"),
    ("upper link to level 0", _upper(8, None), "is linked to on a level that it is not on"),
    ("a fifo", lambda segment: _replace(segment / idmap.FILE, os.mkfifo), "is not a regular file"),
    ("a directory", lambda segment: _replace(segment / format.LINKS_FILE, os.mkdir), "is not a regular file"),
    ("a link", lambda segment: _replace(segment / format.LEVEL0_FILE, lambda path: os.symlink("/dev/zero", path)), "is not a regular file"),
]  # fmt: skip


def _total(content: bytearray, total: int) -> None:
    struct.pack_into("<I", content, content.index(b"total_elements_addedJ") + 21, total)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


@pytest.mark.parametrize(("change", "problem"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_damage_is_told(change: Callable[[Path], None], problem: str, segment: Path) -> None:
    header = format.read_header(segment)
    assert (header.element_size, header.label_offset, header.data_offset) == (_SIZE, _LABEL, _VECTOR)
    change(segment)
    with pytest.raises(Damage, match=problem):
        format.examine(segment)


def test_ids_that_changed_places(segment: Path) -> None:
    """Both maps hold the same ids and the same labels, two of which are crossed in one of the maps."""
    content = (segment / idmap.FILE).read_bytes()
    items = [at for at, _ in _items(content, b"label_to_id")]
    for one, two in itertools.combinations(items, 2):
        crossed = bytearray(content)
        crossed[one : one + 4], crossed[two : two + 4] = content[two : two + 4], content[one : one + 4]
        (segment / idmap.FILE).write_bytes(crossed)
        with pytest.raises(Damage, match="back from other labels or to other ids"):
            format.examine(segment)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_at_random(seed: int, segment: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    writer.write(other, 150, 5, 4)
    for number in range(600):
        numbers = random.Random(f"{seed} {number}")
        damage.damage(segment, numbers.choice([segment, other]), tmp_path / "damaged", numbers)
        try:
            pieces.examine(tmp_path / "damaged", numbers)
        except Damage as problem:
            assert re.match(r"[a-z0-9_]+\.(bin|pickle)\b", str(problem))


def test_many_at_once(segment: Path, tmp_path: Path) -> None:
    copies = [shutil.copytree(segment, tmp_path / f"copy-\udcff{number}") for number in range(30)]
    for copy in copies[::3]:
        (copy / format.LENGTH_FILE).unlink()
    verdicts = soundness.examine([*copies, copies[0]], nothing)
    assert list(verdicts) == copies
    assert [found.sound for found in verdicts.values()] == [False, True, True] * 10
    assert soundness.examine([], nothing) == {}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segment of 100 MB."""
    directory = tmp_path_factory.mktemp("large") / "segment"
    writer.write(directory, 50_000, 400)
    assert sum(path.stat().st_size for path in directory.iterdir()) > 90_000_000
    return directory


def _often(directory: Path, target: Path) -> list[Path]:
    """The same segment under many names."""
    names = [target / str(number) for number in range(10)]
    for name in names:
        name.symlink_to(directory)
    return names


def test_bounded_memory(large: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from chromad.chroma import format_main;"
        " print(format_main.verdict(Path(sys.argv[1]))['sound'],"
        " Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    output = subprocess.check_output(
        [sys.executable, "-I", "-c", script, large], env={"OPENBLAS_NUM_THREADS": "1"}, text=True
    )
    sound, kibibytes = output.split()
    assert sound == "True"
    assert int(kibibytes) < 60 * 1024


def test_ticks(large: Path, tmp_path: Path) -> None:
    ticks: list[float] = []
    begun = time.monotonic()
    verdicts = soundness.examine(_often(large, tmp_path), lambda: ticks.append(time.monotonic()))
    assert set(verdicts.values()) == {Verdict(True, "", 50_000, 50_000, 400)}
    assert ticks
    times = [begun, *ticks, time.monotonic()]
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 1


@pytest.mark.parametrize("kind", [InterruptedError, Stopped])
def test_a_tick_may_give_up(large: Path, tmp_path: Path, kind: type[Exception]) -> None:
    """Its error arrives as it is, and at once."""
    given_up = 0.0

    def give_up() -> None:
        nonlocal given_up
        given_up = time.monotonic()
        raise kind("the service stops")

    with pytest.raises(kind, match="the service stops"):
        soundness.examine(_often(large, tmp_path), give_up)
    assert time.monotonic() - given_up < 1
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if b"format_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("echo garbage", "its answer could not be understood"),
        ('echo \'{"sound": 1, "problem": ""}\'', "its answer could not be understood"),
        ("exit 0", "its answer could not be understood"),
        ("exit 3", "the process ended with status 3"),
        ("kill -SEGV $$", "the process ended with status -11"),
    ],
)
def test_a_child_that_fails(script: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the directories that a child leaves out is to blame; another child has the rest."""
    child = tmp_path / "child"
    child.write_text(f'#!/bin/sh\necho ready\necho \'{{"sound": true, "problem": "", "live": 1}}\'\n{script}\n')
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    directories = [Path(f"/{number}") for number in range(4)]
    good, bad = Verdict(True, "", 1), Verdict(False, f"could not be examined: {end}")
    assert list(soundness.examine(directories, nothing).values()) == [good, bad, good, bad]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGTERM])
def test_a_child_that_is_ended_from_outside(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the kernel for want of memory, or by a disk that its program cannot be read from: it says nothing of a segment."""
    child = tmp_path / "child"
    child.write_text(f"#!/bin/sh\necho ready\nkill -{number} $$\n")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    problem = f"could not be examined: the process ended with status {-number}"
    assert soundness.examine([Path("/1")], nothing) == {Path("/1"): Verdict(False, problem, unread=True)}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        *(OSError(code, os.strerror(code)) for code in (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)),
    ],
    ids=repr,
)
def test_what_could_not_be_read_is_not_unsound(
    error: Exception, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path) -> None:
        raise error

    monkeypatch.setattr(damage_of, "open_file", fail)
    found = format_main.verdict(segment)
    assert found["unread"]
    assert not found["sound"]
    assert "cannot be read: " in str(found["problem"])


def test_too_few_descriptors_say_nothing_of_a_segment(segment: Path) -> None:
    script = (
        "import os, resource, sys; from pathlib import Path; from chromad.chroma import format_main;"
        " resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4)); os.open('/', os.O_RDONLY);"
        " print(format_main.verdict(Path(sys.argv[1])))"
    )
    output = subprocess.check_output([sys.executable, "-c", script, segment], text=True)
    assert "'unread': True" in output
    assert "Too many open files" in output


def test_impossible_count_takes_no_memory(segment: Path) -> None:
    """A torn header must not look like a host without memory."""
    header = bytearray((segment / format.HEADER_FILE).read_bytes())
    struct.pack_into("<QQ", header, 12, 1 << 46, 1 << 46)
    (segment / format.HEADER_FILE).write_bytes(header)
    with pytest.raises(Damage, match=r"elements of .* bytes are wanted"):
        format.examine(segment)


@pytest.mark.parametrize("script", ["exit 1", "echo garbage; exit 0"])
def test_a_child_that_cannot_run_says_nothing_about_segments(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child"
    child.write_text(f"#!/bin/sh\n{script}\n")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    with pytest.raises(ChromadError, match="does not run"):
        soundness.examine([Path("/1"), Path("/2")], nothing)


def test_the_child_dies_with_its_parent() -> None:
    script = (
        "import os, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-I', '-m',"
        " 'chromad.chroma.format_main', str(os.getpid())], stdin=subprocess.PIPE);"
        " print(child.pid, flush=True); time.sleep(1000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout
        child = Path(f"/proc/{int(parent.stdout.readline())}")
        _until(lambda: b"numpy" in (child / "maps").read_bytes())
        parent.kill()
    _until(lambda: not child.exists() or ") Z " in (child / "stat").read_text())


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
