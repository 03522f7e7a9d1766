"""The process that examines segments. Arguments: the pid of its parent, and `reach` to count what no search comes to. Standard
input: a JSON list of pairs, a directory and the fields of a `soundness.Claim` or null.

Prints a line when it can begin, then one JSON line for each, in order: the fields of `soundness.Verdict`.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path

from chromad.chroma import format, ids, reach, segment_files, soundness, vectors
from chromad.chroma.damage import Damage
from chromad.chroma.idmap import Older
from chromad.chroma.soundness import Claim
from chromad.errors import ChromadError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def verdict(directory: Path, claim: Claim | None = None, *, with_reach: bool = False) -> dict[str, object]:
    """Examines one directory, whatever it holds, and compares it with the log where there is a claim."""
    if claim and claim.before is not None and not segment_files.is_whole(claim.before):
        # The segment before is damaged, or gone: nothing is known by it, and it says nothing of this one.
        claim = replace(claim, before=None)
    try:
        facts = format.examine(directory)
        unlike = vectors.compare(directory, claim) if claim else 0
        if claim:
            ids.compare(directory, claim)
        cut_off = len(reach.cut_off(directory)) if with_reach and facts.live else 0
    except Older as older:
        return _unsound(str(older)) | {"older": True}
    except Damage as damage:
        return _unsound(str(damage))
    except (OSError, MemoryError) as error:
        # For want of memory or descriptors, by a disk that fails: it may be as sound as ever.
        return _unread(f"cannot be read: {error if str(error) else 'there is too little memory'}")
    except ChromadError as error:
        return _unread(f"could not be compared with the log: {error.message}")
    except Exception as error:
        return _unsound(f"could not be examined: {type(error).__name__}: {error}")
    return {
        "sound": facts.live > 0,
        "problem": "",
        "empty": facts.live == 0,
        "unlike": unlike,
        "cut_off": cut_off,
    } | asdict(facts)


def _unsound(problem: str) -> dict[str, object]:
    return {"sound": False, "problem": problem}


def _unread(problem: str) -> dict[str, object]:
    return _unsound(problem) | {"unread": True}


def main() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the daemon is gone")
    # The unit's SystemCallFilter= refuses it; then this one runs beside the engine as its equal.
    with contextlib.suppress(PermissionError):
        os.nice(10)
    print(soundness.READY, flush=True)
    with_reach = sys.argv[2:] == ["reach"]
    for path, fields in json.load(sys.stdin):
        claim = soundness.read_claim(fields) if fields else None
        print(json.dumps(verdict(Path(path), claim, with_reach=with_reach)), flush=True)


if __name__ == "__main__":
    main()
