"""Which engine understands which data."""

from pathlib import Path

import pytest
from chromad.checks import preflight
from chromad.store import state


@pytest.mark.parametrize(
    ("wrote", "understood"), [("1.5.9", True), ("1.5.10", False), ("1.10.0", False), ("0.6.3", True), ("10.0.0", False)]
)
def test_versions_are_numbers(tmp_path: Path, wrote: str, understood: bool) -> None:
    state.write(tmp_path, state.unclean("history", wrote))
    found = preflight.version(tmp_path, "1.5.9")
    assert (found.status == "ok") == understood
    assert understood or f"was last written by Chroma {wrote}" in found.fact
