"""Runs on a host, in a new environment, as its `chromactl upgrade`: fails as soon as a step has been done.

Arguments: STEP (a method of Upgrade), HOW (`raise`, or `kill` of the part that works, so that root's part ends with 1), BACKUP
(the id of one that was taken before and was tried, to save time; empty to take one and try it).
"""

import os
import signal
import sys
from typing import Any

from chromad import cli
from chromad.maintenance import upgrade

step, how, backup = sys.argv[1:]
done = getattr(upgrade.Upgrade, step)


def failing(*arguments: Any) -> Any:
    done(*arguments)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(f"forced after {step}")


if backup:
    setattr(upgrade.Upgrade, "back_up", lambda _self: backup)  # noqa: B010 (mypy wants no assignment to a method)
    setattr(upgrade.Upgrade, "try_out", lambda _self, _backup: None)  # noqa: B010
setattr(upgrade.Upgrade, step, failing)
sys.argv = ["chromactl", "--json", "upgrade"]
cli.main()
