"""The process that examines segments. Argument: the pid of its parent. Standard input: a JSON list of directories.

Prints a line when it can begin, then one JSON line for each, in order: the fields of `soundness.Verdict`.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from chromad.store import format, soundness
from chromad.store.damage import Damage
from chromad.store.idmap import Older

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def verdict(directory: Path) -> dict[str, object]:
    """Examines one directory, whatever it holds."""
    try:
        facts = format.examine(directory)
    except Older as older:
        return _unsound(str(older)) | {"older": True}
    except Damage as damage:
        return _unsound(str(damage))
    except OSError as error:
        return _unsound(f"cannot be read: {error}")
    except Exception as error:
        return _unsound(f"could not be examined: {type(error).__name__}: {error}")
    return {"sound": facts.live > 0, "problem": "", "empty": facts.live == 0, **asdict(facts)}


def _unsound(problem: str) -> dict[str, object]:
    return {"sound": False, "problem": problem}


def main() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the daemon is gone")
    # The unit's SystemCallFilter= refuses it; then this one runs beside the engine as its equal.
    with contextlib.suppress(PermissionError):
        os.nice(10)
    print(soundness.READY, flush=True)
    for path in json.load(sys.stdin):
        print(json.dumps(verdict(Path(path))), flush=True)


if __name__ == "__main__":
    main()
