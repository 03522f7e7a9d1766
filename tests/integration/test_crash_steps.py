"""Some steps of some operations, other ones each day; `make crash-steps` takes all."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.crash.steps import syscalls

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 150
SECONDS = 150


@pytest.mark.skipif(not syscalls.supported(), reason="the numbers of this machine's system calls are others")
def test_sample(tmp_path: Path) -> None:
    seed = datetime.now(UTC).date().toordinal()
    report = tmp_path / "steps.json"
    command = [sys.executable, "-m", "tests.crash.steps", "--sample", str(STEPS), "--seconds", str(SECONDS)]
    command += ["--seed", str(seed), "--report", str(report)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("NOT AS") or "GROWS" in line]
    assert done.returncode == 0, "\n".join((" ".join(command), *wrong, done.stderr[-2000:]))
    steps = json.loads(report.read_bytes())["steps"].values()
    reached = sum(step["reached"] for step in steps)
    print(f"seed {seed}: {len(steps)} steps, {reached} reached")
    assert reached > len(steps) // 2 > 0
