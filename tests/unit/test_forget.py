"""Forgetting backups while others forget some: what is left is looked at when the lock is ours."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chromad.backup import repository, workspace
from chromad.backup.repository import Repository, Snapshot
from chromad.cli import backups, ui
from chromad.errors import BackupError


def snapshot(name: str) -> Snapshot:
    return Snapshot(
        name, "2026-01-01T00:00:00+00:00", workspace.host(), "/b", frozenset({"chromad", workspace.PROVEN}), {}
    )


class _Shrinking(Repository):
    """A repository that holds less each time one looks. forgotten: what it was told to forget."""

    def __init__(self, *looks: list[Snapshot]) -> None:
        self.location = "/b"
        self.forgotten: list[str] = []
        self._looks = list(looks)

    def snapshots(self) -> list[Snapshot]:
        return self._looks.pop(0)

    def forget(self, ids: Sequence[str]) -> None:
        self.forgotten += ids

    def prune(self, tick: Callable[[], None]) -> None:
        pass


def test_last_one_stays_when_others_have_forgotten_the_rest_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = snapshot("11111111"), snapshot("22222222")
    place = _Shrinking([first, second], [first])
    path = tmp_path / "chromad.yml"
    path.write_text(f"data_dir: {tmp_path}/data\nallow_root: true\n", encoding="utf-8")
    for name in ("data", "checkpoints"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(repository, "connect", lambda _: place)
    context: Any = SimpleNamespace(obj=ui.Settings(path, json=False))
    with pytest.raises(BackupError, match="no proven backup of"):
        backups.forget(context, [first.id], confirm=True)
    assert place.forgotten == []
