"""Where a backup can be restored to, beside the service."""

from pathlib import Path

import pytest
from chromad.backup import restore
from chromad.config import Config
from chromad.errors import ConfigurationError


@pytest.mark.parametrize("place", ["data", "checkpoints", "quarantine", "backups"])
@pytest.mark.parametrize("inner", ["", "below", "below/that"])
def test_not_into_what_is_the_services(tmp_path: Path, place: str, inner: str) -> None:
    document = {"data_dir": f"{tmp_path}/data", "backup": {"repository": f"{tmp_path}/backups"}}
    for name in ("data", "checkpoints", "quarantine", "backups"):
        (tmp_path / name / "below").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"lies inside|is data_dir"):
        restore.check_target(Config.model_validate(document), tmp_path / place / inner)


def test_anywhere_else(tmp_path: Path) -> None:
    config = Config.model_validate({"data_dir": f"{tmp_path}/data", "backup": {"repository": f"{tmp_path}/backups"}})
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty", "backups-of-others"):
        restore.check_target(config, tmp_path / name)


@pytest.mark.parametrize("there", [False, True])
def test_name_of_what_was_restored_is_on_disk_before_it_is_said(tmp_path: Path, there: bool, done: list[str]) -> None:
    """A power cut would leave it under the name of a copy, which the next run removes."""
    copy, target = tmp_path / "copy", tmp_path / "look"
    copy.mkdir()
    (copy / "file").touch()
    if there:
        target.mkdir()
    restore._put_in_place(copy, target)
    assert (target / "file").exists()
    assert done == [f"fsync {tmp_path}"]
