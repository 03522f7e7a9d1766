"""How restic's process is ended when we are interrupted."""

import os
import signal
import subprocess

import pytest
from chromad.backup import repository


def test_interrupt_while_the_process_is_started_ends_it() -> None:
    processes = []

    def start() -> "subprocess.Popen[bytes]":
        processes.append(subprocess.Popen(["sleep", "60"]))
        os.kill(os.getpid(), signal.SIGINT)
        return processes[0]

    with pytest.raises(KeyboardInterrupt):
        repository._follow(start, None, None)
    assert processes[0].returncode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
