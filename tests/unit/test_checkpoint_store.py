"""The store of checkpoints removes what is its own, and nothing else."""

from pathlib import Path
from uuid import UUID

from chromad.store.checkpoint import Store


def test_only_directories_of_segments_are_removed(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    kept, deleted = (str(UUID(int=number)) for number in (1, 2))
    for name in (kept, deleted, "photos", "lost+found"):
        (checkpoints / name).mkdir(parents=True)
    Store(tmp_path / "data", checkpoints, "history").drop_others({kept})
    assert sorted(path.name for path in checkpoints.iterdir()) == [kept, "lost+found", "photos"]
