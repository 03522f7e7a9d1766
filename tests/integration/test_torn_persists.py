"""The validator beside the engine: persists that stop at any byte are seen, or the engine puts them right by itself."""

import pickle
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromad.chroma import idmap

from tests.segments import tears


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory in memory where there is one: hundreds of databases are written here."""
    top = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield top
    shutil.rmtree(top)


@pytest.mark.parametrize("kinds", list(tears.KINDS))
def test_what_is_called_sound_is_right_after_the_replay(kinds: str, scratch: Path) -> None:
    persist = tears.record(scratch / "data", 3, kinds)
    assert persist.new != persist.old
    seen = 0
    for state in tears.states(persist, random.Random(kinds), 1):
        outcome = tears.judge(persist, state, scratch / "torn", engine_too=False)
        if outcome.problem:
            seen += 1
            continue
        assert not outcome.crashed, state.name
        assert outcome.after_kill or not state.kill, state.name
        if state.name == "complete":
            assert outcome.after_power_cut
        elif state.kill and not outcome.after_power_cut:
            # Where the pickle has new ids or lacks old ones, all else is new as well: nothing of it can be wrong.
            assert _maps(state.files[idmap.FILE]) == _maps(persist.old[idmap.FILE]), state.name
    assert seen


def test_the_engine_fails_on_what_is_called_unsound(scratch: Path) -> None:
    """Not on all of it, but a validator that refuses at random would not pass this."""
    persist = tears.record(scratch / "data", 3, "adds")
    wrong = [
        not tears.judge(persist, state, scratch / "torn").after_power_cut
        for state in tears.states(persist, random.Random(1), 1)
        if state.name.startswith(("before data_level0", "before index"))
    ]
    assert wrong == [True] * 2


def _maps(content: bytes) -> object:
    found = pickle.loads(content)
    return found["id_to_label"], found["label_to_id"]
