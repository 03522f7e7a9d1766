"""What the host's side and the controller say to each other: lines of JSON, on the standard streams."""

import json
import sys


def tell(document: dict[str, object]) -> None:
    """To the controller."""
    print(json.dumps(document), flush=True)


def play(name: str, *, traced: bool) -> tuple[int, bytes]:
    """Has the controller run a playbook on this host; gives its exit code, below 0 when it did not end, and what it said."""
    tell({"play": name, "traced": traced})
    answer = json.loads(sys.stdin.readline())
    return int(answer["code"]), str(answer["said"]).encode()
