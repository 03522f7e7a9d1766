"""ledger.json: what counts as covered, what a status shows, and that a damaged one is told of."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from chromad.backup import ledger
from chromad.backup.ledger import Drill, Kept, Ledger, Taken
from chromad.errors import BackupError

_NEXT, _LATER = "2026-01-05T00:00:00+00:00", "2026-01-09T00:00:00+00:00"
GOOD = Ledger(
    data_id="d",
    last_seq_id=12,
    last_good="2026-01-01T00:00:00+00:00",
    taken=[Taken("aa", "2026-01-01T00:00:00+00:00", proven=True, added=5, seconds=1.5)],
    drills=[Drill("2026-01-02T00:00:00+00:00", "aa", 1.5, "1/10", "")],
)


def test_round_trip(tmp_path: Path) -> None:
    assert ledger.read(tmp_path) == Ledger()
    ledger.write(tmp_path, GOOD)
    assert ledger.read(tmp_path) == GOOD
    assert [path.name for path in tmp_path.iterdir()] == [ledger.FILE]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"taken": [{}]}', b'{"last_seq_id": "12"}'])
def test_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ledger.FILE).write_bytes(content)
    with pytest.raises(BackupError, match="is damaged") as caught:
        ledger.read(tmp_path)
    assert caught.value.hint


def test_newer_format(tmp_path: Path) -> None:
    ledger.write(tmp_path, GOOD)
    path = tmp_path / ledger.FILE
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format": 2}), encoding="utf-8")
    with pytest.raises(BackupError, match="has format 2"):
        ledger.read(tmp_path)


def test_covers_the_history_that_was_backed_up(tmp_path: Path) -> None:
    assert ledger.covers(tmp_path, "d") is None
    ledger.write(tmp_path, GOOD)
    assert ledger.covers(tmp_path, "d") == 12
    assert ledger.covers(tmp_path, "another") is None


def test_failed_backup_covers_what_the_last_good_one_did(tmp_path: Path) -> None:
    ledger.write(tmp_path, replace(GOOD, problem="full", attempted="2026-01-03T00:00:00+00:00"))
    assert ledger.covers(tmp_path, "d") == 12


def test_nothing_is_covered_until_the_first_one_is_good(tmp_path: Path) -> None:
    ledger.write(tmp_path, Ledger(data_id="d", problem="full"))
    assert ledger.covers(tmp_path, "d") == 0


def test_what_is_known_of_a_backup() -> None:
    again = replace(GOOD, drills=[*GOOD.drills, Drill("2026-01-03T00:00:00+00:00", "aa", 1.5, "2/10", "gone")])
    assert (again.added("aa"), again.added("bb")) == (5, None)
    assert again.drill("aa") == again.drills[1]
    assert again.drill("bb") is None


def test_stays_short(tmp_path: Path) -> None:
    many = [replace(GOOD.taken[0], id=f"{number}") for number in range(1000)]
    ledger.write(tmp_path, replace(GOOD, taken=many))
    kept = ledger.read(tmp_path).taken
    assert len(kept) < 1000
    assert kept[-1].id == "999"


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        (Ledger(), dict.fromkeys(("last_good", "problem", "shrunk", "drill", "drill_good", "drill_problem"))),
        (
            GOOD,
            {
                "last_good": GOOD.last_good,
                "problem": None,
                "shrunk": None,
                "drill": GOOD.drills[0].ended,
                "drill_good": GOOD.drills[0].ended,
                "drill_problem": None,
            },
        ),
        (
            replace(
                GOOD,
                problem="full",
                drills=[
                    *GOOD.drills,
                    replace(GOOD.drills[0], ended=_NEXT),
                    replace(GOOD.drills[0], ended=_LATER, problem="gone"),
                ],
            ),
            {
                "last_good": GOOD.last_good,
                "problem": "full",
                "shrunk": None,
                "drill": _LATER,
                "drill_good": _NEXT,
                "drill_problem": "gone",
            },
        ),
    ],
)
def test_summary(tmp_path: Path, known: Ledger, shown: dict[str, object]) -> None:
    ledger.write(tmp_path, known)
    assert ledger.summary(tmp_path) == shown


def test_summary_tells_of_the_newest_that_is_kept_until_its_time_is_over(tmp_path: Path) -> None:
    older = Kept("2026-01-01T00:00:00+00:00", "9999-01-31T00:00:00+00:00", 1000, 400)
    newer = Kept("2026-01-02T00:00:00+00:00", "9999-02-01T00:00:00+00:00", 400, 100)
    over = Kept("2026-01-03T00:00:00+00:00", "2026-02-02T00:00:00+00:00", 100, 1)
    ledger.write(tmp_path, replace(GOOD, kept=[older, newer, over]))
    assert ledger.summary(tmp_path)["shrunk"] == {
        "from": 400,
        "to": 100,
        "kept": newer.created,
        "kept_until": newer.until,
    }
    ledger.write(tmp_path, replace(GOOD, kept=[over]))
    assert ledger.summary(tmp_path)["shrunk"] is None


def test_ledger_of_an_older_chromad(tmp_path: Path) -> None:
    ledger.write(tmp_path, GOOD)
    path = tmp_path / ledger.FILE
    document = json.loads(path.read_bytes())
    del document["kept"]
    for name in ("collections", "records"):
        del document["taken"][0][name]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert ledger.read(tmp_path) == GOOD


def test_summary_of_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / ledger.FILE).write_text("{", encoding="utf-8")
    found = ledger.summary(tmp_path)
    assert "is damaged" in str(found["problem"])


@pytest.mark.parametrize("time", ["yesterday", "2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "\0"])
def test_time_that_nobody_can_reckon_with(tmp_path: Path, time: str) -> None:
    for damaged in (
        replace(GOOD, last_good=time),
        replace(GOOD, attempted=time),
        replace(GOOD, drills=[replace(GOOD.drills[0], ended=time)]),
    ):
        ledger.write(tmp_path, damaged)
        with pytest.raises(BackupError, match="is damaged"):
            ledger.read(tmp_path)


@pytest.mark.parametrize("number", [-1, 1 << 63, 10**400])
def test_number_that_sqlite_does_not_hold(tmp_path: Path, number: int) -> None:
    for damaged in (
        replace(GOOD, last_seq_id=number),
        replace(GOOD, taken=[replace(GOOD.taken[0], added=number)]),
    ):
        ledger.write(tmp_path, damaged)
        with pytest.raises(BackupError, match="is damaged"):
            ledger.read(tmp_path)
