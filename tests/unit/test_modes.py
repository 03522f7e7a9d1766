"""Modes of what the service reads: others may not change it, nor see what is secret."""

import os
from pathlib import Path

import pytest
from chromad.checks import files


@pytest.mark.parametrize(("mode", "status"), [(0o640, "ok"), (0o644, "ok"), (0o660, "fail"), (0o642, "fail")])
def test_configuration(tmp_path: Path, mode: int, status: str) -> None:
    path = tmp_path / "chromad.yml"
    path.touch()
    path.chmod(mode)
    found = files._configuration_file(path, os.geteuid())
    assert found.status == status
    if found.fix:
        found.fix.do()
        assert files._configuration_file(path, os.geteuid()).status == "ok"


@pytest.mark.parametrize(
    ("mode", "status"), [(0o750, "ok"), (0o755, "warn"), (0o751, "warn"), (0o770, "fail"), (0o752, "fail")]
)
def test_directory(tmp_path: Path, mode: int, status: str) -> None:
    tmp_path.chmod(mode)
    found = files._directory_mode(tmp_path)
    assert found.status == status
    assert found.fix or status == "ok"


@pytest.mark.parametrize(
    ("mode", "status"), [(0o400, "ok"), (0o600, "ok"), (0o440, "fail"), (0o404, "fail"), (0o420, "fail")]
)
def test_secret(tmp_path: Path, mode: int, status: str) -> None:
    path = tmp_path / "backup.key"
    path.touch()
    path.chmod(mode)
    assert files._secret(path).status == status
