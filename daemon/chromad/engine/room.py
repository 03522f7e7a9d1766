"""The process that an engine of a verb of root's is started by, within the unit that is its sandbox, see `sandbox`.

Standard input is a socket to the one that works. It brings what the engine is started with, as JSON and three descriptors, then
numbers of signals for it; back go that this process is there, the engine's pid and, when it has ended, its code. When the other
side is gone, however that came, so is the engine.
"""

import json
import os
import select
import socket
import subprocess
import sys
from contextlib import suppress

_LONGEST = 1 << 14  # bytes of a message
HERE, STARTED, ENDED = "here", "started", "ended"


def command(settings: int, door: int | None = None) -> list[str]:
    """What starts an engine as a child of this process. settings: the descriptor of its configuration. door: that of its door, where
    it serves nobody else."""
    apart = [] if door is None else [str(door)]
    return [sys.executable, "-I", "-m", "chromad.engine.main", f"/proc/self/fd/{settings}", str(os.getpid()), *apart]


def main() -> None:
    """Until the engine, or the one who works with it, has ended."""
    pipe = socket.socket(fileno=0)
    pipe.send(HERE.encode())
    text, descriptors, _, _ = socket.recv_fds(pipe, _LONGEST, 3)
    if not text:
        return
    settings, lock, door = descriptors
    process = subprocess.Popen(
        command(settings, door),
        stdin=subprocess.DEVNULL,
        env=json.loads(text),
        pass_fds=(settings, lock, door),
        start_new_session=True,
    )
    # The lock of the directory is the engine's alone from here on.
    for descriptor in descriptors:
        os.close(descriptor)
    pipe.send(f"{STARTED} {process.pid}".encode())

    ended = os.pidfd_open(process.pid)
    with suppress(OSError):  # nobody is there to hear it
        heard = pipe.fileno()
        while heard in (ready := select.select([heard, ended], [], [])[0]) and (number := pipe.recv(_LONGEST)):
            process.send_signal(int(number))
        if ended in ready:
            pipe.send(f"{ENDED} {process.wait()}".encode())
            return
    process.kill()


if __name__ == "__main__":
    main()
