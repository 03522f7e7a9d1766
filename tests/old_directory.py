"""A directory of stock Chroma 0.6.3 for a test host to adopt: `write` makes it, `compare` reads it back from the service."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tests.corpus import tunnel
from tests.hosts.host import Host
from tests.integration import old_chroma

_VERSION = "0.6.3"
# A rebuilt vector of a cosine collection is normalised and back.
_SAME = 1e-5


def main() -> int:
    """0 when it worked and every record was equal, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.old_directory", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    write = verbs.add_parser("write")
    write.add_argument("directory", type=Path)
    compare = verbs.add_parser("compare")
    compare.add_argument("host")
    compare.add_argument("port", type=int)
    for verb in (write, compare):
        verb.add_argument("file", type=Path, help="where the expected records are kept")
    arguments = parser.parse_args()
    if arguments.verb == "write":
        arguments.directory.mkdir()
        arguments.file.write_text(json.dumps(old_chroma.write(_VERSION, arguments.directory)))
        return 0
    wrong = _differences(Host(arguments.host), arguments.port, json.loads(arguments.file.read_text()))
    print("\n".join(wrong[:20]) or "equal, record by record")
    return 1 if wrong else 0


def _differences(host: Host, port: int, expected: old_chroma.Model) -> list[str]:
    wrong = []
    with tunnel(host, port) as client:
        for name, records in expected.items():
            found: Any = client.get_collection(name).get(include=["documents", "metadatas", "embeddings"])
            columns = zip(found["ids"], found["embeddings"], found["documents"], found["metadatas"], strict=True)
            present = {key: (vector, document, metadata) for key, vector, document, metadata in columns}
            wrong += [f"{name}: {key} is on one side only" for key in present.keys() ^ records.keys()]
            for key in present.keys() & records.keys():
                vector, document, metadata = records[key]
                near = all(abs(a - b) <= _SAME for a, b in zip(vector, present[key][0], strict=True))
                if not near or (document, metadata) != present[key][1:]:
                    wrong.append(f"{name}: {key} is {present[key]}, not {records[key]}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
