"""What verbs take the state of the unit for."""

import os
from pathlib import Path

import pytest
from chromad.host import service


@pytest.mark.parametrize(
    ("said", "runs"),
    [
        ("active", True),
        ("reloading", True),
        ("deactivating", True),
        # Also between two tries: systemd starts it in a moment.
        ("activating", True),
        ("inactive", False),
        ("failed", False),
    ],
)
def test_what_systemd_starts_or_stops_just_now_runs(
    said: str, runs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore does not begin beside it without being told that it may stop it."""
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = 'is-active {service.UNIT}' ] && echo {said}\nexit 3\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert service.active() is runs
