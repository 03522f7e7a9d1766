"""The distribution's Prometheus, unpacked into the tests' cache without being installed: no service of it is started."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import packages

_CACHE = Path("/var/cache/chromad-test/prometheus")


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`."""
    installed = shutil.which(name)
    if installed:
        return installed
    unpacked = _CACHE / "usr/bin" / name
    if not unpacked.exists():
        _unpack()
    return str(unpacked)


def _unpack() -> None:
    if not shutil.which("apt-get"):
        pytest.skip("not installed: prometheus")
    try:
        _CACHE.parent.mkdir(parents=True, exist_ok=True)
    except PermissionError:
        pytest.skip("not installed: prometheus")
    draft = _CACHE.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    packages.apt("update")
    packages.apt("download", "-o", "APT::Sandbox::User=root", "prometheus", directory=draft)
    [package] = draft.glob("prometheus_*.deb")
    subprocess.run(("dpkg", "-x", package, draft), check=True)
    shutil.rmtree(_CACHE, ignore_errors=True)
    draft.rename(_CACHE)
