"""How restic is run."""

import subprocess
import sys

_PROGRAM = """
import os, signal, subprocess
from chromad import signals
from chromad.backup import repository

processes = []

def start():
    processes.append(subprocess.Popen(["sleep", "60"]))
    os.kill(os.getpid(), signal.SIGINT)
    return processes[0]

signals.raise_on_end()
with signals.ending():
    try:
        repository._follow(start, None, None)
    finally:
        print(processes[0].returncode, flush=True)
"""


def test_interrupt_while_the_process_is_started_ends_it() -> None:
    told = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (130, "-15\n"), told.stderr
