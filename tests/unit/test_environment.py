"""A host gets what runs there: nothing but the locked packages is imported, and of chromadb its compiled server alone."""

import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "daemon/requirements.lock"
# Refuses what is neither Python's own nor of a locked package, and imports all that there is. What a program does when it is
# imported is left out.
IMPORTS = """
import ast, importlib, pkgutil, sys
from importlib.metadata import packages_distributions
from pathlib import Path
locked = set(sys.argv[1].split(","))
normal = lambda name: name.lower().replace("_", "-")
homes = {top: {normal(each) for each in found} for top, found in packages_distributions().items()}
refused = set()
class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top != "chromad" and (top == "chromadb" or top in homes and not homes[top] & locked):
            refused.add(top)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Guard())
import chromad
import chromadb_rust_bindings
names = [each.name for each in pkgutil.walk_packages(chromad.__path__, "chromad.")]
for name in names:
    path = Path(chromad.__path__[0]).parent / (name.replace(".", "/") + ".py")
    tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
    for node in ast.walk(tree):
        tops = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        tops += [node.module] if isinstance(node, ast.ImportFrom) else []
        for top in tops:
            importlib.import_module(top)
print(len(names), *sorted(refused))
"""


def test_nothing_is_imported_that_a_host_does_not_have() -> None:
    command = [sys.executable, "-c", IMPORTS, ",".join(sorted(_locked()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Others may be asked for and done without.
    assert int(done.stdout.split()[0]) > 80, done.stdout


def test_a_package_that_is_imported_and_not_locked_is_found() -> None:
    command = [sys.executable, "-c", IMPORTS, ",".join(sorted(_locked() - {"pydantic-core"}))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "No module named 'pydantic_core'" in done.stderr


def test_the_lock_has_few_packages_and_all_with_hashes() -> None:
    entries = re.findall(r"^(?=[A-Za-z0-9])(?:.*\\\n)*.*\n", LOCK.read_text(), re.MULTILINE)
    assert all("--hash=sha256:" in entry for entry in entries)
    names = _locked()
    assert len(names) <= 28  # and the daemon itself
    assert "chromadb" in names
    assert not names & {"onnxruntime", "kubernetes", "grpcio", "tokenizers", "uvicorn"}


def _locked() -> set[str]:
    lines = re.findall(r"^[A-Za-z0-9].*==.*", LOCK.read_text(), re.MULTILINE)
    return {Requirement(line.removesuffix("\\").strip()).name.lower().replace("_", "-") for line in lines}
