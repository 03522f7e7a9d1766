"""A start whose engine cannot open a collection, again and again."""

from pathlib import Path

from chromad.config import Config
from chromad.engine import Engine
from chromad.startup import Startup
from chromad.store import fence, sqlite, state
from chromad.store.checkpoint import Store


def test_what_the_engine_cannot_open_comes_from_the_checkpoint_then_from_the_log_then_is_given_up(two: Path) -> None:
    config = Config.model_validate({"data_dir": str(two)})
    checkpoints = Store(two, config.checkpoint_dir, "history")
    checkpoints.prepare()
    checkpoints.take(sqlite.collections(two), live=False, progress=lambda _: None)
    startup = Startup(config, Engine(config, -1), checkpoints, lambda *_: None)
    startup.recover(state.unclean("history", "1.5.9"))
    assert startup.outcomes == []
    for _ in range(3):
        [goes] = (each for each in sqlite.collections(two) if each.name == "goes")
        startup._mend(goes, "the engine dies of it")
    assert [(each.collection.name, each.action) for each in startup.outcomes] == [
        ("goes", "restored"),
        ("goes", "rebuilt"),
        ("goes", "quarantined"),
    ]
    assert fence.read(two).keys() == {goes.id}
