"""The crash laboratory, a few rounds of each kind; `python -m tests.crash` runs as many as wanted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def crash(experiment: str, rounds: int, seed: int, directory: Path) -> dict[str, Any]:
    """Runs the laboratory and gives its summary; nothing may be lost, and evidence goes into the directory."""
    report = directory / "report.json"
    command = [sys.executable, "-m", "tests.crash", experiment]
    options = ["--rounds", str(rounds), "--seed", str(seed), "--report", str(report)]
    done = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary: dict[str, Any] = json.loads(report.read_text())[experiment]["chromad"]
    assert summary["rounds"] == rounds
    assert summary["records_compared"] > 0
    return summary


def test_kills(tmp_path: Path) -> None:
    summary = crash("kill", 11, 5, tmp_path)
    assert set(summary["moments"]) == {"persist", "checkpoint", "purge", "recovery", "warm-up", "stop", "any"}
    assert summary["torn_at"], "no kill has met a persist"


@pytest.mark.root
def test_power_cuts(tmp_path: Path) -> None:
    crash("power", 2, 2, tmp_path)


@pytest.mark.root
def test_full_disk(tmp_path: Path) -> None:
    summary = crash("full", 1, 3, tmp_path)
    assert all(moment["hit"] for moment in summary["moments"].values())
