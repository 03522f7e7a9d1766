"""Restoring a backup into a directory of its own, and reading it with stock Chroma, which knows nothing of chromad."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.servers import Stock
from tests.integration import records
from tests.integration.clients import connected
from tests.integration.records import Record
from tests.integration.site import Site

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

# By name of collection
Model = Mapping[str, Mapping[str, Record]]


class _Engine(Stock):
    """`chroma run` without the Python package around it, which takes a second to be imported."""

    def _command(self) -> list[str]:
        words = ["chroma", "run", "--path", str(self.data), "--host", "127.0.0.1", "--port", str(self.port)]
        return [sys.executable, "-I", "-c", f"import chromadb_rust_bindings; chromadb_rust_bindings.cli({words!r})"]


@contextmanager
def restored(site: Site, *words: str) -> Iterator["ClientAPI"]:
    """A client of what `chromactl restore --target … WORDS` makes."""
    with restored_port(site, *words) as port, connected(port) as client:
        yield client


@contextmanager
def restored_port(site: Site, *words: str) -> Iterator[int]:
    """As `restored`, the port at which it is served."""
    root = Path(tempfile.mkdtemp(dir=site.root, prefix="opened-"))
    root.chmod(0o755)
    try:
        result = site.chromactl("restore", "--target", str(root / "data"), *words)
        assert result.code == 0, result.output
        with _Engine(root) as server:
            yield server.port
    finally:
        shutil.rmtree(root)


def assert_holds(client: "ClientAPI", model: Model) -> None:
    """These collections are there, with exactly these records."""
    assert sorted(each.name for each in client.list_collections()) == sorted(model)
    for name, held in model.items():
        records.assert_equal(client, name, held)


def assert_restored(site: Site, model: Model, *words: str) -> None:
    """What a restore makes holds this and nothing else."""
    with restored(site, *words) as client:
        assert_holds(client, model)
