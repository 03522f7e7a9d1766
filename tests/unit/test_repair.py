"""A repair that is killed, or fails: what it cannot bring back is told of before nothing tells of it any more."""

import shutil
from pathlib import Path

import pytest
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.maintenance.repair import _Candidate, _Repair
from chromad.store import quarantine

from tests.segments import engine


class _Killed(BaseException):
    pass


def _die(*_: object) -> None:
    raise _Killed


def test_lost_records_are_listed_before_their_segment_is_given_up(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"data_dir": str(two)})
    [goes] = (each for each in sqlite.collections(two) if each.name == "goes")
    with sqlite.connect(two) as connection:
        # As a purge leaves it
        connection.execute("DELETE FROM embeddings_queue WHERE topic = ? AND seq_id < ?", (goes.topic, goes.written))
    (two / goes.segment / "data_level0.bin").unlink()
    repair = _Repair(config, config.quarantine_dir, lambda *_: None)
    candidate = _Candidate(goes, "data_level0.bin is missing", fenced=False)
    before = engine.seq_id(two, "goes")
    with monkeypatch.context() as patch:
        patch.setattr(quarantine, "list_lost", _die)
        with pytest.raises(_Killed):
            repair.repair(candidate)
    assert engine.seq_id(two, "goes") == before, "the next one finds it as this one did"
    assert (two / goes.segment).exists()
    repaired = repair.repair(candidate)
    assert repaired.problem == ""
    assert repaired.lost_file
    assert repaired.lost_file.read_text().splitlines() == repaired.lost
    assert len(repaired.lost) == 29, "the log has the one that was written last"


def test_segment_whose_files_are_gone_is_one_to_be_repaired(two: Path) -> None:
    """Before any start has seen that, too."""
    config = Config.model_validate({"data_dir": str(two)})
    shutil.rmtree(engine.segment(two, "goes"))
    found = _Repair(config, config.quarantine_dir, lambda *_: None).candidates()
    assert [(each.collection.name, each.reason, each.fenced) for each in found] == [
        ("goes", "its files are gone", False)
    ]
