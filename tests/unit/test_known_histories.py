"""Whose data lie beside the checkpoints: those that were served here, and what was restored from these."""

import json
from pathlib import Path

import pytest
from chromad.config import Config
from chromad.errors import ConfigurationError
from chromad.store import history, state

from tests.segments import engine

SERVED, RESTORED, OTHER = ("a" * 32, "b" * 32, "c" * 32)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of a host that has served one history."""
    found = Config.model_validate({"data_dir": str(tmp_path / "data")})
    for path in (found.data_dir, found.checkpoint_dir):
        path.mkdir()
    history.accept(found.checkpoint_dir, SERVED)
    return found


def stopped(data_id: str, former: str = "") -> state.State:
    return state.clean(data_id, "1.5.9", state.CleanMark({}, {}), former)


@pytest.mark.parametrize("before", [stopped(SERVED), stopped(RESTORED, SERVED)])
def test_ours(config: Config, before: state.State) -> None:
    """A restore begins another history, wherever it was made."""
    history.check(config, before)


@pytest.mark.parametrize("before", [stopped(OTHER), stopped(RESTORED, OTHER)])
def test_of_others(config: Config, before: state.State) -> None:
    with pytest.raises(ConfigurationError, match="holds other data than those"):
        history.check(config, before)
    history.check(config, before, backed_up=before.former or before.data_id)


def test_newest_of_very_many_are_known(config: Config) -> None:
    many = [f"{number:032x}" for number in range(150)]
    for each in many:
        history.accept(config.checkpoint_dir, each)
    history.check(config, stopped(many[-1]))
    history.check(config, stopped(many[60]))


@pytest.mark.parametrize(("taken", "found"), [([SERVED, SERVED], SERVED), ([SERVED, OTHER], ""), ([], "")])
def test_data_that_lost_their_state_have_the_one_history_that_their_checkpoints_tell(
    two: Path, taken: list[str], found: str
) -> None:
    config = Config.model_validate({"data_dir": str(two)})
    for name, data_id in zip(("stays", "goes"), taken, strict=False):
        place = config.checkpoint_dir / engine.segment(two, name).name / "30"
        place.mkdir(parents=True)
        (place / "checkpoint.json").write_text(json.dumps({"data_id": data_id}), encoding="utf-8")
    assert history.lost_data_id(config) == found
