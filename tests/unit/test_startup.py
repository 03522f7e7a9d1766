"""A start whose engine cannot open a collection, again and again."""

import errno
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.daemon.startup import Startup
from chromad.engine.process import Engine
from chromad.store import fence, state
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


def test_mark_goes_before_anything_is_mended(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this start is killed, the next one trusts no file unread."""
    config = Config.model_validate({"data_dir": str(two)})
    checkpoints = Store(two, config.checkpoint_dir, "history")
    checkpoints.prepare()
    checkpoints.take(sqlite.collections(two), live=False, progress=lambda _: None)
    left = state.clean("history", "1.5.9", state.mark(two))
    state.write(two, left)
    [goes] = (each for each in sqlite.collections(two) if each.name == "goes")
    (two / goes.segment / "length.bin").unlink()

    def die(_: object) -> None:
        raise KeyboardInterrupt

    startup = Startup(config, Engine(config, -1), checkpoints, lambda *_: None)
    monkeypatch.setattr(startup._recovery, "mend_all", die)
    with pytest.raises(KeyboardInterrupt):
        startup.recover(left)
    found = state.read(two)
    assert found
    assert (found.clean, found.mark) == (False, None)


@pytest.mark.parametrize(("number", "starts"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)])
def test_service_starts_without_room_for_first_checkpoints(
    two: Path, number: int, starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has all; a disk that fails is another matter."""
    config = Config.model_validate({"data_dir": str(two)})
    checkpoints = Store(two, config.checkpoint_dir, "history")
    checkpoints.prepare()

    def fail(*_: Any, **_words: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoints, "take", fail)
    startup = Startup(config, Engine(config, -1), checkpoints, lambda *_: None)
    with nullcontext() if starts else pytest.raises(OSError, match="Input/output"):
        startup.recover(state.unclean("history", "1.5.9"))
