"""The packages of the house: each imports only what stands below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import chromad
import pytest

_HOUSE = Path(chromad.__file__).parent
# From the top to the bottom; those of a line may not import each other.
_LAYERS = (
    ("cli",),
    ("daemon",),
    ("monitoring", "checks"),
    ("maintenance",),
    ("backup",),
    ("engine",),
    ("store",),
    ("chroma",),
    ("control",),
    ("config",),
    ("logs",),
    ("host",),
    ("",),
)
_LEVEL = {package: level for level, layer in enumerate(_LAYERS) for package in layer}
# The programs themselves, which are in no package
_PROGRAMS = ("__main__", "chromactl")


def test_packages_are_known() -> None:
    found = {path.parent.name for path in _HOUSE.glob("*/__init__.py")}
    assert found == set(_LEVEL) - {""}


@pytest.mark.parametrize("path", sorted(_HOUSE.rglob("*.py")), ids=lambda path: str(path.relative_to(_HOUSE)))
def test_imports_run_downwards(path: Path) -> None:
    own = _package(".".join(path.relative_to(_HOUSE.parent).with_suffix("").parts))
    wrong = [
        f"line {line}: {module}"
        for line, module in _imports(path)
        if (other := _package(module)) != own and _LEVEL[other] <= _LEVEL[own] and path.stem not in _PROGRAMS
    ]
    assert not wrong, f"{own or 'the root'} must not import {wrong}"


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "chromad":
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "chromad")


def _package(module: str) -> str:
    """`chromad.store.swap` -> `store`; nothing for what is in the root."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in _LEVEL else ""
