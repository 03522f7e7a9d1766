"""How long clients are without an answer while a host is upgraded: python -m tests.upgrade.measure [--records N]

Boots a host with the older release, fills it (384 dimensions) and runs playbooks/upgrade.yml while clients write and read.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.corpus import tunnel
from tests.hosts.host import Host, inventory
from tests.hosts.system import REPOSITORY, prepare_controller
from tests.upgrade import older

_HOST = "upgrade-measured"
_DIMENSION, _BATCH = 384, 500
_COLORLESS = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}


def main() -> int:
    """0 when it was measured and every record of the corpus was equal afterwards."""
    parser = argparse.ArgumentParser(prog="python -m tests.upgrade.measure", description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    arguments = parser.parse_args()
    prepare_controller()
    host = Host(_HOST)
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        hosts, file = top / "hosts.json", top / "corpus.json"
        older.make(top / "older")
        host.up("debian13", wheels=True)
        try:
            hosts.write_text(inventory([host]))
            subprocess.run(_playbook(top / "older", hosts, "site"), check=True, env=_environment(top / "older"))
            _corpus("write", file)
            _fill(host, arguments.records)
            upgrade = _playbook(REPOSITORY, hosts, "upgrade")
            said = _corpus("during", file, "--", *upgrade, environment=_environment(REPOSITORY))
            _clear(host, arguments.records)
            _corpus("compare", file)
        finally:
            host.down()
    _show(arguments.records, said)
    return 0


def _playbook(tree: Path, hosts: Path, name: str) -> list[str]:
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return [program, "-i", str(hosts), str(tree / f"ansible/playbooks/{name}.yml")]


def _environment(tree: Path) -> dict[str, str]:
    return {**os.environ, **_COLORLESS, "ANSIBLE_CONFIG": str(tree / "ansible/ansible.cfg")}


def _corpus(verb: str, file: Path, *words: str, environment: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-m", "tests.corpus", verb, _HOST, str(file), *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def _fill(host: Host, records: int) -> None:
    numbers = np.random.default_rng(1)
    with tunnel(host, 8000) as client:
        collection = client.create_collection("large", embedding_function=None)
        for start in range(0, records, _BATCH):
            ids = [f"key-{number}" for number in range(start, min(start + _BATCH, records))]
            collection.upsert(
                ids=ids, embeddings=numbers.random((len(ids), _DIMENSION), dtype=np.float32), documents=ids
            )


def _clear(host: Host, records: int) -> None:
    with tunnel(host, 8000) as client:
        count = client.get_collection("large", embedding_function=None).count()
        if count != records:
            raise SystemExit(f"there were {records} records, there are {count}")
        client.delete_collection("large")


def _show(records: int, said: str) -> None:
    gaps = json.loads(said.splitlines()[-1])
    figures = {
        "without service, by chromactl": _number("down", said),
        "changes refused, by chromactl": _number("held", said),
        "longest time without an answered read": gaps["without_read"],
        "longest time without an acknowledged write": gaps["without_write"],
    }
    table = Table("", "s", title=f"{records:,} x {_DIMENSION}, Chroma {older.ENGINE} to this release's")
    for name, seconds in figures.items():
        table.add_row(name, f"{seconds:.2f}")
    Console().print(table)


def _number(name: str, text: str) -> float:
    found = re.search(rf'"{name}": ([0-9.]+)', text)
    if not found:
        raise SystemExit(f"the playbook has not told {name}")
    return float(found[1])


if __name__ == "__main__":
    sys.exit(main())
