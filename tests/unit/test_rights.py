"""The look for code with which root would reach a file by its name; and whom root works as."""

import ast
import os
import pwd
from pathlib import Path

import pytest
from chromad.checks import files
from chromad.checks.host import Host
from chromad.cli import rights as verbs
from chromad.config import Config
from chromad.errors import PermissionProblem

from tests import rights

_as_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about whom root works as")


@pytest.mark.parametrize(
    "code",
    [
        "os.chown(path, 0, 0)",
        "shutil.rmtree(path)",
        "open(path, 'w')",
        "open(path, mode='xb')",
        "path.open('a')",
        "os.open(path, os.O_RDWR | os.O_NOFOLLOW)",
        "os.open(path, os.O_RDONLY | os.O_CREAT)",
        "path.write_text('')",
        "os.rename(a, b)",
        "os.replace(a, b)",
        "a.rename(b)",
        "a.replace(b)",
        "path.unlink(missing_ok=True)",
        "path.mkdir()",
    ],
)
def test_found(code: str, tmp_path: Path) -> None:
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli/verb.py").write_text(f"def run():\n    if 1:\n        {code}\n", encoding="utf-8")
    [line] = [each for each in rights.problems(tmp_path) if "needs no exemption" not in each]
    assert line.startswith("cli/verb.py:3: ")


def test_streams_of_ours(tmp_path: Path) -> None:
    lines = [
        "subprocess.run(words, stdin=None, capture_output=True)",
        "subprocess.run(words, capture_output=True)",
        "subprocess.Popen(words, stdin=1, stdout=2)",
    ]
    (tmp_path / "verb.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = [each for each in rights.problems(tmp_path) if "needs no exemption" not in each]
    assert found == ["verb.py:2: a process inherits stdin", "verb.py:3: a process inherits stderr"]


@pytest.mark.parametrize(
    "code",
    [
        "open(path)",
        "os.open(path, os.O_RDONLY)",
        "os.open(name, os.O_WRONLY, dir_fd=fd)",
        "text.replace('a', 'b')",
        "os.unlink(name, dir_fd=fd)",
        "files.rename(a, b)",
        "replace(it, a=1)",
    ],
)
def test_let_pass(code: str) -> None:
    assert not list(rights._calls(ast.parse(code)))


def test_the_house() -> None:
    assert rights.problems() == []


def _config(top: Path, *, allow_root: bool = False) -> Config:
    return Config(data_dir=top / "data", checkpoint_dir=top / "checkpoints", allow_root=allow_root)


@_as_root
def test_the_group_is_the_owners_own(tmp_path: Path) -> None:
    entry = pwd.getpwnam("daemon")
    config = _config(tmp_path)
    config.data_dir.mkdir()
    os.chown(config.data_dir, entry.pw_uid, 0)
    account = verbs.owner(config)
    assert account
    assert (account.uid, account.gid) == (entry.pw_uid, entry.pw_gid)
    os.chown(config.data_dir, 61234, 0)  # has no entry
    with pytest.raises(PermissionProblem, match="whose group is root's"):
        verbs.owner(config)


@_as_root
def test_where_there_are_no_data_it_is_not_root(tmp_path: Path) -> None:
    account = verbs.owner(_config(tmp_path))
    assert account
    assert account.uid
    assert account.gid
    assert verbs.owner(_config(tmp_path, allow_root=True)) is None


@_as_root
def test_at_data_of_roots_it_is_not_root(tmp_path: Path) -> None:
    config = _config(tmp_path)
    config.data_dir.mkdir()
    with pytest.raises(PermissionProblem, match="belongs to root"):
        verbs.owner(config)
    account = verbs.owner(config, strict=False)
    assert account
    assert account.uid
    permitted = _config(tmp_path, allow_root=True)
    assert (verbs.owner(permitted), verbs.owner(permitted, strict=False)) == (None, None)


def test_only_a_doctor_that_mends_knows_the_word(tmp_path: Path) -> None:
    host = Host(_config(tmp_path), tmp_path / "chromad.yml")
    assert set(files.steps(host, fix=False)) == {"look at files"}
    assert set(files.steps(host, fix=True)) == {"look at files", "mend files"}
