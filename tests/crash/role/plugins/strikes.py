"""A callback of Ansible's: writes down the tasks that change a host, or ends the play at one of them.

From the environment: STRIKES_LOG, a file for a line of JSON about each start and each result. STRIKES_TASK, "ROLE/FILE:LINE", and
STRIKES_NUMBER, from 1: at the so many-th result of that task that is a change, the controller is killed.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase  # type: ignore[import-untyped]

DOCUMENTATION = """
name: strikes
type: notification
short_description: writes down what changes a host, or ends the play there
description: for the tests
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """What Ansible calls; see CallbackBase."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "strikes"

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, int] = {}

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._tell("start", task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._tell("start", task)

    def v2_runner_on_ok(self, result: Any) -> None:
        task = result._task
        changed = bool(result._result.get("changed"))
        self._tell("changed" if changed else "same", task)
        place = _place(task)
        if changed:
            self._counts[place] = self._counts.get(place, 0) + 1
            wanted = int(os.environ.get("STRIKES_NUMBER", "0"))
            if (place, self._counts[place]) == (os.environ.get("STRIKES_TASK"), wanted):
                os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self, what: str, task: Any) -> None:
        line = {"what": what, "task": _place(task), "name": task.get_name(), "time": time.time()}
        with open(os.environ["STRIKES_LOG"], "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def _place(task: Any) -> str:
    """`chromadb/tasks/install.yml:12`"""
    path, _, line = (task.get_path() or "?").rpartition(":")
    return f"{'/'.join(Path(path).parts[-3:])}:{line}"
