"""Runs Chroma's own client tests against chromad, directly and through the gateway with a token of the role admin.

What passes directly has to pass through the gateway. Both print what failed; the exit code is 1 where they differ to the gateway's
disadvantage.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from chromad import versions

from tests.integration.account import BIN
from tests.integration.gateway import Answers, Gateway
from tests.integration.site import Site

_VERSION = versions.engine()
# What the tests import beside what Chroma asks for
_NEEDS = ("pytest<9", "hypothesis", "psutil", "fastapi", "orjson", "overrides", "opentelemetry-instrumentation-fastapi")
_HOME = Path("/var/cache/chromad-test/chroma-tests") / f"{_VERSION}-{zlib.crc32(repr(_NEEDS).encode()):08x}"
# Of the package's folder `test`: what talks to a server as any client does
_TESTS = ("api", "client", "test_api.py", "test_client.py", "test_multithreaded.py")
_LONGEST = 3600.0  # seconds


def main() -> int:
    """0 when what passes directly passes through the gateway."""
    parser = argparse.ArgumentParser(prog="python -m tests.chroma_tests", description=__doc__)
    parser.add_argument(
        "tests", nargs="*", default=_TESTS, help="files or folders of chromadb/test; all of its clients without"
    )
    arguments = parser.parse_args()
    python = _python()
    site = Site()
    try:
        site.configure({"engine.allow_reset": True})
        site.serve()
        direct = _run(python, arguments.tests, {"CHROMA_SERVER_HTTP_PORT": str(site.port)})
        answers = Answers(site.run / "gateway.sock", site)
        # They ask as fast as they can.
        limits = {"chromadb_gateway_requests_per_second": 100000, "chromadb_gateway_concurrent_requests": 1000}
        gateway = Gateway(site.port, site.run / "gateway.sock", limits)
        try:
            token = gateway.token("tests", "admin")
            gateway.start()
            through = _run(
                python,
                arguments.tests,
                {
                    "CHROMA_SERVER_HTTP_PORT": str(gateway.port),
                    "CHROMA_SERVER_SSL_ENABLED": "true",
                    "CHROMA_SERVER_SSL_VERIFY": str(gateway.certificate),
                    "CHROMA_SERVER_HEADERS": json.dumps({"X-Chroma-Token": token}),
                },
            )
        finally:
            gateway.stop()
            answers.close()
    finally:
        site.remove()
    lost = sorted(name for name, how in direct.items() if how == "passed" and through.get(name) != "passed")
    for name in lost:
        print(f"only directly: {name}: {through.get(name, 'not run')}")
    for where, found in (("directly", direct), ("through the gateway", through)):
        counts = {how: list(found.values()).count(how) for how in sorted(set(found.values()))}
        print(f"{where}: {', '.join(f'{number} {how}' for how, number in counts.items())}")
    return 1 if lost or "passed" not in direct.values() else 0


def _python() -> Path:
    """An interpreter with what Chroma's tests import, kept in the tests' cache."""
    if not (_HOME / "complete").exists():
        _HOME.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(_HOME, ignore_errors=True)
        uv = BIN / "uv"
        subprocess.run([uv, "--quiet", "venv", "--python", BIN / "python", _HOME], check=True)
        wanted = [f"chromadb=={_VERSION}", *_NEEDS]
        subprocess.run([uv, "--quiet", "pip", "install", "--python", _HOME / "bin/python", *wanted], check=True)
        (_HOME / "complete").touch()
    return _HOME / "bin/python"


def _run(python: Path, tests: tuple[str, ...], where: Mapping[str, str]) -> dict[str, str]:
    """How each test ended, by its name: passed, failed or skipped. where: settings of Chroma's client."""
    [folder] = _HOME.glob("lib/python*/site-packages/chromadb/test")
    with tempfile.TemporaryDirectory() as place:
        results = Path(place) / "results.xml"
        subprocess.run(
            [
                python,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--junit-xml={results}",
                *(folder / each for each in tests),
            ],
            cwd=place,
            env={
                **os.environ,
                **where,
                "CHROMA_SERVER_HOST": "localhost",
                "CHROMA_INTEGRATION_TEST_ONLY": "1",
                "PROPERTY_TESTING_PRESET": "fast",
                "ANONYMIZED_TELEMETRY": "false",
            },
            timeout=_LONGEST,
            check=False,
        )
        found = {}
        for case in ElementTree.parse(results).iter("testcase"):
            kinds = {child.tag for child in case}
            how = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            found[f"{case.get('classname')}::{case.get('name')}"] = how
        return found


if __name__ == "__main__":
    sys.exit(main())
