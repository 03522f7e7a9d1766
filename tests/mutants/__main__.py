"""Plants each bug of the list in a copy of the tree, runs its tests there, and tells which bugs no test sees."""

import argparse
import os
import queue
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants import bugs
from tests.mutants.bugs import Bug, Stale
from tests.mutants.tree import Tree

# Seconds for the tests of one bug: with some bugs a test waits for what never comes.
_LIMIT = 600.0
# As pytest exits
_PASSED, _FAILED = 0, 1

_running: "set[subprocess.Popen[str]]" = set()

CAUGHT, SURVIVED, STALE, WRONG = "caught", "SURVIVED", "STALE", "WRONG"


def main() -> int:
    """0 when a test fails with each bug, 1 when one survives, or when one cannot be planted any more."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="BUG", help="only these")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="how many at a time")
    parser.add_argument("--unsound", action="store_true", help="skip the look whether the tests pass without a bug")
    arguments = parser.parse_args()
    chosen = [bug for bug in bugs.load() if not arguments.names or bug.name in arguments.names]
    if unknown := set(arguments.names) - {bug.name for bug in chosen}:
        parser.error(f"no bug is called {', '.join(sorted(unknown))}")
    # So that the copies go, as after Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="chromad-mutants-") as place:
        Path(place).chmod(0o755)
        trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        made = [Tree(Path(place) / f"{number}") for number in range(arguments.jobs)]
        for tree in made:
            trees.put(tree)
        if not arguments.unsound and not _pass_without(made[0], chosen, arguments.jobs):
            return 1
        with ThreadPoolExecutor(arguments.jobs) as pool:
            try:
                verdicts = list(pool.map(lambda bug: _try(trees, bug), chosen))
            except BaseException:
                # Their threads end with them.
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(_running):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
    caught = verdicts.count(CAUGHT)
    print(f"{caught} of {len(verdicts)} bugs are caught")
    return 0 if caught == len(verdicts) else 1


def _pass_without(tree: Tree, chosen: list[Bug], jobs: int) -> bool:
    """Whether all tests pass without a bug: what fails anyway catches nothing."""
    wanted = sorted({test for bug in chosen for test in bug.tests})
    print(f"{len(chosen)} bugs; their {len(wanted)} tests without one:", flush=True)
    words = ["--numprocesses", str(jobs), "--dist", "loadfile"] if jobs > 1 else []
    code, said = _pytest(tree, (*words, *wanted), len(wanted) * _LIMIT)
    print(said.strip().splitlines()[-1] if said.strip() else "nothing", flush=True)
    if code != _PASSED:
        print(said, "ERROR: they have to pass first", sep="\n")
    return code == _PASSED


def _try(trees: "queue.SimpleQueue[Tree]", bug: Bug) -> str:
    tree = trees.get()
    began = time.monotonic()
    try:
        verdict, reason = _judge(tree, bug)
    finally:
        trees.put(tree)
    print(f"{verdict:8} {bug.name} ({time.monotonic() - began:.0f} s): {reason}", flush=True)
    return verdict


def _judge(tree: Tree, bug: Bug) -> tuple[str, str]:
    try:
        spoilt = bug.spoil((tree.root / bug.file).read_text(encoding="utf-8"))
    except (OSError, Stale) as error:
        return STALE, str(error)
    with tree.with_text(bug.file, spoilt):
        code, said = _pytest(tree, ("--exitfirst", *bug.tests), _LIMIT)
    if code == _PASSED:
        return SURVIVED, bug.why
    if code == _FAILED:
        failed = [line for line in said.splitlines() if line.startswith(("FAILED ", "ERROR tests/"))]
        return CAUGHT, failed[0].partition(" - ")[0] if failed else "by a test that failed"
    if code is None:
        return CAUGHT, f"no end of its tests within {_LIMIT:.0f} s"
    return WRONG, said.strip()[-500:]


def _pytest(tree: Tree, words: tuple[str, ...], limit: float) -> tuple[int | None, str]:
    """The exit code of pytest, None when it had to be ended, and what it said."""
    process = subprocess.Popen(
        [tree.python, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--no-header", "-rfE", *words],
        cwd=tree.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    _running.add(process)
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        return None, said
    finally:
        _running.discard(process)
    return process.returncode, said


if __name__ == "__main__":
    sys.exit(main())
