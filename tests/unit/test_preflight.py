"""What makes a start unsafe: data of another engine, ports that somebody has."""

import socket
from pathlib import Path

import pytest
from chromad.checks import preflight
from chromad.config import Config
from chromad.store import state


@pytest.mark.parametrize(
    ("wrote", "understood"), [("1.5.9", True), ("1.5.10", False), ("1.10.0", False), ("0.6.3", True), ("10.0.0", False)]
)
def test_versions_are_numbers(tmp_path: Path, wrote: str, understood: bool) -> None:
    state.write(tmp_path, state.unclean("history", wrote))
    found = preflight.version(tmp_path, "1.5.9")
    assert (found.status == "ok") == understood
    assert understood or f"was last written by Chroma {wrote}" in found.fact


@pytest.mark.parametrize("key", ["listen", "metrics"])
def test_port_that_somebody_has(tmp_path: Path, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ports = {"listen": free.getsockname()[1], "metrics": free.getsockname()[1]}
        ports[key] = taken.getsockname()[1]
        free.close()
        sections = {name: {"port": port} for name, port in ports.items()}
        found = list(preflight.occupancy(Config.model_validate({"data_dir": str(tmp_path), **sections}), "1.5.9"))
    [wrong] = [each for each in found if each.status == "fail"]
    assert f"127.0.0.1:{ports[key]} is taken by " in wrong.fact
    assert wrong.hint.endswith(f"choose another {key}.port")
