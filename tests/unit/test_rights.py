"""The look for code with which root would reach a file by its name."""

import ast
from pathlib import Path

import pytest

from tests import rights


@pytest.mark.parametrize(
    "code",
    [
        "os.chown(path, 0, 0)",
        "shutil.rmtree(path)",
        "open(path, 'w')",
        "open(path, mode='xb')",
        "path.open('a')",
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


@pytest.mark.parametrize(
    "code",
    ["open(path)", "text.replace('a', 'b')", "os.unlink(name, dir_fd=fd)", "files.rename(a, b)", "replace(it, a=1)"],
)
def test_let_pass(code: str) -> None:
    assert not list(rights._calls(ast.parse(code)))


def test_the_house() -> None:
    assert rights.problems() == []
