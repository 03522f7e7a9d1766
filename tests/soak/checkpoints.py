"""Takes checkpoints under mixed writes, and opens each one with a second engine: python -m tests.soak.checkpoints."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from chromad.chroma import sqlite

from tests.bench.servers import Chromad

from . import second, writer

# Nothing but what is asked for.
_SETTINGS = {"checkpoint": {"interval": "1d", "after_log": "1T"}}
_SHOWN = 20


def main() -> int:
    """0 when every record was right in every opening, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.checkpoints", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="checkpoints to take and open")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where the data go for the time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chromad-soak-", dir=arguments.directory) as root:
        wrong = _soak(Path(root), arguments.count)
    print("\n".join(wrong[:_SHOWN]) or "every record was right")
    return 1 if wrong else 0


def _soak(root: Path, wanted: int) -> list[str]:
    started = time.monotonic()
    taken: set[Path] = set()
    cycles = put_off = records = 0
    wrong: list[str] = []
    set_back: set[str] = set()
    with Chromad(root, _SETTINGS) as server:
        writers = writer.start(server.port)
        while len(taken) < wanted and not wrong:
            put_off += server.ask("checkpoint")["left"]
            new = set(server.checkpoints.glob("[!.]*/*")) - taken
            taken |= new
            if new:
                cycles += 1
                windows = _copy(server, root / "second" / "data", writers)
                seen = second.differences(root / "second", windows)
                wrong = seen.wrong
                set_back |= seen.set_back
                shutil.rmtree(root / "second")
                records += seen.records
        for each in writers:
            each.stop()
        names = {each.segment: each.name for each in sqlite.collections(server.data)}
    result = {
        "checkpoints": dict(Counter(names[path.parent.name] for path in taken)),
        "put_off": put_off,
        "openings": cycles,
        "operations": sum(each.count for each in writers),
        "records_compared": records,
        "wrong": len(wrong),
        "vectors_set_back_by_chroma_itself": len(set_back),
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(result))
    return wrong


def _copy(server: Chromad, target: Path, writers: list[writer.Writer]) -> dict[str, list[writer.Window]]:
    """Copies checkpoints and database; gives what may be in them, by collection."""
    for each in writers:
        each.settle()
    second.copy(server, target)
    windows: dict[str, list[writer.Window]] = {}
    for each in writers:
        windows.setdefault(each.collection, []).append(each.window())
    return windows


if __name__ == "__main__":
    sys.exit(main())
