"""The house: packages import only what stands below them, modules are short, Chroma's tables are known to one package."""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
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
    ("engine", "gateway"),
    ("store",),
    ("chroma",),
    ("control",),
    ("config",),
    ("logs",),
    ("host",),
    ("",),
)
_LEVEL = {package: level for level, layer in enumerate(_LAYERS) for package in layer}
_MODULES = sorted(_HOUSE.rglob("*.py"))
# The programs themselves, which are in no package
_PROGRAMS = ("__main__", "chromactl")
_LINES = 400
_LINES_OF_A_FUNCTION = 50
# Chroma's tables, as statements name them
_TABLES = (
    "acquire_write|collection_metadata|collections|databases|embedding_fulltext_search|embedding_metadata(_array)?|embeddings"
    "|embeddings_queue(_config)?|maintenance_log|max_seq_id|migrations|segment_metadata|segments|tenants"
)
_NAMES_A_TABLE = re.compile(
    rf"\b(FROM|JOIN|INTO|UPDATE|TABLE|ON|EXISTS)\s+(main\.)?({_TABLES})\b|table_info\(({_TABLES})\)"
    # Those that are no word of English, wherever they stand
    r"|\b(embedding_(fulltext|metadata)\w*|embeddings_queue\w*|max_seq_id|maintenance_log|(collection|segment)_metadata)\b"
)


def _name(path: Path) -> str:
    return str(path.relative_to(_HOUSE))


def test_packages_are_known() -> None:
    found = {path.parent.name for path in _HOUSE.glob("*/__init__.py")}
    assert found == set(_LEVEL) - {""}


def test_packages_are_installed() -> None:
    """On a host there is what the wheel has, and no more."""
    project = tomllib.loads((_HOUSE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    named = {_HOUSE.name, *(f"{_HOUSE.name}.{package}" for package in _LEVEL if package)}
    assert set(project["tool"]["setuptools"]["packages"]) == named


@pytest.mark.parametrize("path", _MODULES, ids=_name)
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


@pytest.mark.parametrize("path", _MODULES, ids=_name)
def test_a_module_fits_on_a_few_screens(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= _LINES, "split it along what it owns"


@pytest.mark.parametrize("path", _MODULES, ids=_name)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef)]
    long = {each.name: length for each in functions if (length := _length(each)) > _LINES_OF_A_FUNCTION}
    assert not long, "split them where their steps are"


def test_no_two_classes_have_one_name() -> None:
    found: dict[str, list[str]] = {}
    for path in _MODULES:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(_name(path))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("path", [path for path in _MODULES if path.parent.name != "chroma"], ids=_name)
def test_tables_of_chroma_are_named_in_its_package_alone(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    found = [f"line {line}: {text}" for line, text in _texts(tree) if _NAMES_A_TABLE.search(text)]
    assert not found, "what reads or writes them belongs into chromad.chroma"


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ('"SELECT id FROM collections"', True),
        ('f"INSERT INTO main.embeddings ({x}) VALUES"', True),
        ('"PRAGMA table_info(segments)"', True),
        ('{"collection_metadata": 1}', True),
        ('"all segments of collections"', False),
        ('"SELECT taken FROM marks"', False),
    ],
)
def test_statements_that_name_a_table(statement: str, found: bool) -> None:
    assert any(_NAMES_A_TABLE.search(text) for _, text in _texts(ast.parse(f"0; {statement}"))) is found


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = {_module(path): path for path in _MODULES}
    graph = {name: {_nearest(module, known) for _, module in _imports(path)} for name, path in known.items()}
    try:
        TopologicalSorter({name: found - {name} for name, found in graph.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Texts in the code with their lines, docstrings left out."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    docstrings = {id(each.value) for each in first if isinstance(each, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def _length(function: ast.FunctionDef) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def _nearest(module: str, known: Mapping[str, Path]) -> str:
    """The module that an import means, which may name something in it."""
    while module not in known:
        module = module.rpartition(".")[0]
    return module


def _module(path: Path) -> str:
    return ".".join(path.relative_to(_HOUSE.parent).with_suffix("").parts).removesuffix(".__init__")
