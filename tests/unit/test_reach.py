"""Which records a search cannot come to, against what the engine's own searches find."""

from pathlib import Path

from chromad.store import reach, soundness

from tests.segments import engine, refilled


def test_records_that_no_search_finds(tmp_path: Path) -> None:
    for data, ids, missed in refilled.tries(tmp_path):
        directory = engine.segment(data, refilled.NAME)
        assert set(reach.cut_off(directory)) == missed
        plain, told = (soundness.examine([directory], lambda: None, reach=asked)[directory] for asked in (False, True))
        assert plain.sound and plain.live == len(ids) and plain.cut_off == 0
        assert told.sound and told.cut_off == len(missed)


def test_no_record(tmp_path: Path) -> None:
    assert reach.cut_off(tmp_path) == []
