"""The engine's process: calls the server without importing the chromadb package.

Arguments: the engine's configuration file, the pid of the daemon; for an engine that serves nobody else, the descriptor of its door,
see `apart`.
"""

import ctypes
import os
import signal
import sys

import chromadb_rust_bindings

from chromad.engine import apart

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    config, parent, door = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    if door:
        try:
            apart.enter(int(door[0]))
        except OSError as error:
            sys.exit(f"no process can stand at the engine's door: {error}")
    # A daemon that is killed must not leave an engine behind: it drains and stops as well.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the daemon is gone")
    try:
        chromadb_rust_bindings.cli(["chroma", "run", config])
    except BaseException as error:  # a panic in Rust; its message is on standard error already
        sys.exit(f"{type(error).__name__}: {error}")


main()
