"""Keys and credentials: where they come from, and who may read them."""

import os
from pathlib import Path

import pytest
from chromad.backup import secret
from chromad.errors import ConfigurationError, PermissionProblem


def write(path: Path, text: str, mode: int = 0o400) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_content(tmp_path: Path, mode: int) -> None:
    assert secret.read(write(tmp_path / "key", "word\n", mode)) == b"word\n"


@pytest.mark.parametrize("mode", [0o444, 0o404, 0o402])
def test_open_to_everybody(tmp_path: Path, mode: int) -> None:
    with pytest.raises(PermissionProblem, match="by everybody") as caught:
        secret.read(write(tmp_path / "key", "word", mode))
    assert "chmod 0400" in caught.value.hint
    assert "another key" in caught.value.hint


def test_systemd_has_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what a service user may read; systemd sees to its mode."""
    (tmp_path / "credentials").mkdir()
    write(tmp_path / "credentials/key", "from systemd", 0o444)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert secret.read(tmp_path / "none/key") == b"from systemd"
    assert secret.read(write(tmp_path / "other", "from the file")) == b"from the file"


@pytest.mark.parametrize("content", ["", "\n", " \n"])
def test_empty(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigurationError, match="is empty"):
        secret.read(write(tmp_path / "key", content))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist") as caught:
        secret.read(tmp_path / "key")
    assert "chromactl backups init" in caught.value.hint


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Is a directory"):
        secret.read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_somebody_elses(tmp_path: Path) -> None:
    with pytest.raises(PermissionProblem, match="not readable"):
        secret.read(write(tmp_path / "key", "word", 0o000))


def test_environment(tmp_path: Path) -> None:
    path = write(tmp_path / "environment", "# the bucket's\n\nAWS_ACCESS_KEY_ID=id\n _X=a=b c \n")
    assert secret.read_environment(path) == {"AWS_ACCESS_KEY_ID": "id", "_X": "a=b c"}


@pytest.mark.parametrize("line", ["word", "=x", "1A=x", "export A=x", "A =x"])
def test_wrong_line_is_named_without_its_content(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "environment", f"A=b\n{line}\n")
    with pytest.raises(ConfigurationError) as caught:
        secret.read_environment(path)
    assert caught.value.message == f"{path}, line 2: not of the form KEY=VALUE"


def test_in_memory() -> None:
    fd = secret.in_memory(b"word")
    try:
        assert Path(f"/proc/self/fd/{fd}").read_bytes() == b"word"
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_file_without_end(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to("/dev/zero")
    with pytest.raises((ConfigurationError, PermissionProblem)):
        secret.read(tmp_path / "key")
    with pytest.raises(ConfigurationError, match="larger than 64 KiB"):
        secret.read(write(tmp_path / "long", "x" * 70_000))
