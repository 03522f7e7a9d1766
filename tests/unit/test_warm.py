"""Which collections are warmed: as many as go into the memory that is for that."""

from pathlib import Path

import pytest
from chromad.chroma import sqlite
from chromad.config import Config
from chromad.daemon import warm
from chromad.host import memory


def _collection(name: str, records: int) -> sqlite.Collection:
    return sqlite.Collection(name, name, "default_tenant", "default_database", 75, records, name, records, None)


def test_memory_is_for_all_of_them_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record takes 500 bytes here; the last one still goes into what the first has left."""
    config = Config.model_validate({"data_dir": str(tmp_path), "warm": {"memory_percent": 10}})
    monkeypatch.setattr(memory, "limit", lambda: 1_000_000)
    found = warm.plan(config, [_collection("first", 140), _collection("second", 140), _collection("third", 60)], set())
    assert [each.name for each in found.warm] == ["first", "third"]
    assert found.cold.keys() == {"second"}
    assert "of the budget are left" in found.cold["second"]
