"""What the enumeration of steps counts as alike, leaves out, and shares among its parts."""

from collections import Counter
from pathlib import Path

import pytest

from tests.crash.steps import plan, report
from tests.crash.steps.calls import Call, Naming, Place, Steps, alike, role, thinned

UUID = "01234567-89ab-cdef-0123-456789abcdef"
PLACES = {"data": Path("/srv/data"), "restore": Path("/srv/restore"), "backups": Path("/srv/backups")}


def write(path: str) -> Call:
    return Call("engine", "write", path)


def test_first_second_middle_and_last_of_what_is_alike() -> None:
    places, left_out = thinned([write("a")] * 9 + [write("b"), write("c"), write("c")] + [write("d")] * 3)
    found: dict[str, list[tuple[str, int]]] = {}
    for place in places:
        found.setdefault(place.call.path, []).append((place.which, place.number))
    assert found == {
        "a": [("first", 1), ("second", 2), ("middle", 5), ("last", 9)],
        "b": [("first", 1)],
        "c": [("first", 1), ("last", 2)],
        "d": [("first", 1), ("second", 2), ("last", 3)],
    }
    assert left_out == 5


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"/srv/data/{UUID}/header.bin", "data/often/header.bin"),
        ("/srv/data/fedcba98-89ab-cdef-0123-456789abcdef/data_level0.bin", "data/UUID/data_level0.bin"),
        ("/srv/data/chroma.sqlite3-wal", "data/chroma.sqlite3-wal"),
        ("/srv/data", "data"),
        ("/srv/data/.chromad.json.0123456789abcdef.new", "data/.chromad.json.HEX.new"),
        ("/srv/restore/staging-20260102T030405.000006Z.note", "restore/staging-TIME.note"),
        (f"/srv/backups/data/0f/{'0f' * 32}", "backups/data/XX/HEX"),
        (f"/srv/data/{UUID}/12/checkpoint.json", "data/often/N/checkpoint.json"),
        ("/srv/data/#123 (deleted)", "data/#N"),
        ("/srv/database", None),
    ],
)
def test_names_of_paths(path: str, name: str | None) -> None:
    assert Naming(PLACES, {UUID: "often"}).name(path) == name


def test_names_of_a_rename() -> None:
    naming = Naming(PLACES, {})
    assert naming.names(["/srv/data/a", "/srv/restore/b"]) == "data/a to restore/b"
    assert naming.names(["/tmp/a", "/srv/data/b"]) == "elsewhere to data/b"
    assert naming.names(["/tmp/a"]) is None
    assert naming.names([]) is None


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["/usr/bin/python3", "-I", "-m", "chromad.engine.main", "/proc/self/fd/3", "1"], "engine"),
        (["/usr/bin/python3", "-m", "chromad.chroma.format_main"], "format_main"),
        (["/usr/bin/python3", "/opt/venv/bin/chromad", "--config", "x"], "chromad"),
        (["/usr/bin/python3", "/opt/venv/bin/chromactl", "restore"], "chromactl"),
        (["restic", "backup"], "restic"),
        ([], "unknown"),
    ],
)
def test_roles(words: list[str], name: str) -> None:
    assert role(words) == name


def test_a_loop_over_the_files_of_a_segment() -> None:
    names = ("header.bin", "link_lists.bin", "index_metadata.pickle")
    assert {alike(Call("chromad", "sync", f"checkpoints/N/{name}")) for name in names} == {
        Call("chromad", "sync", "checkpoints/N/FILE")
    }
    assert len({alike(Call("engine", "write", f"data/often/{name}")) for name in names}) == 3


def test_transactions_are_told_apart() -> None:
    wal = Call("chromad", "write", "data/chroma.sqlite3-wal")
    steps = Steps()
    found = [
        steps.placed(call).path
        for call in (
            wal,
            wal,
            Call("chromad", "rename", "a to b"),
            wal,
            write(wal.path),
            Call("restic", "make", "c"),
            wal,
        )
    ]
    after = f"{wal.path} after rename a to b"
    assert found == [wal.path, wal.path, "a to b", after, wal.path, "c", after]


def test_parts_add_up() -> None:
    places, _ = thinned(write(f"file {number}") for number in range(100))
    found = plan.steps("stop", places, plan.FAULTS, power=True, seed=1)
    parts = [plan.part(found, number, 3) for number in (1, 2, 3)]
    assert all(parts)
    assert Counter(step for part in parts for step in part) == Counter(found)
    # Also where the second run has seen other calls
    assert set(plan.part(found[50:], 2, 3)) <= set(parts[1])


def test_faults_that_a_call_cannot_meet() -> None:
    kinds = ("write", "unlink", "rename", "sync")
    places = [Place(Call("chromad", kind, "x"), "first", 1) for kind in kinds]
    found: dict[str, set[str]] = {kind: set() for kind in kinds}
    for step in plan.steps("stop", places, plan.FAULTS, power=True, seed=1):
        found.setdefault(step.place.call.kind, set()).add(step.fault)
    assert {kind: faults - {"term"} for kind, faults in found.items()} == {
        "write": {"kill", "full", "failing"},
        "unlink": {"kill", "failing"},
        "rename": {"kill", "full", "failing", "power"},
        "sync": {"full", "failing", "power"},
        "end": {"kill", "power"},
    }
    assert not [step for step in plan.steps("fence", places, plan.FAULTS, power=False, seed=1) if step.fault == "power"]


def test_variant_of_an_operation() -> None:
    places, _ = thinned([write("common")] * 5 + [write("own")] * 5)
    found = [(place.call.path, place.which) for place in plan.variant(places, {write("common")})]
    assert found == [("common", "first"), *(("own", which) for which in ("first", "second", "middle", "last"))]


def test_reports_add_up(tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    step = {"operation": "stop", "place": "x", "fault": "kill", "reached": True, "findings": {}, "seconds": 1.0}
    for name in ("one", "two"):
        document = report.read(path)
        other = report.empty()
        other["seconds"] = 2.0
        other["operations"]["stop"] = {"calls": 5, "thinned": 2}
        other["steps"][name] = step | {"findings": {"lost": ["a"]} if name == "two" else {}}
        report.merge(document, other)
        report.write(path, document)
    found = report.read(path)
    assert found["seconds"] == 4.0
    assert set(report.bad(found)) == {"two"}
    assert report.summary(found).splitlines()[-1] == "| all | 5 | 2 | 2 | 0 | 1 | 1.00, 1.00 |"
    assert "lost" in path.with_suffix(".md").read_text()
