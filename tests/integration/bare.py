"""The engine without a daemon: what it answers and what it logs, word for word."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chromad.api import Api
from chromad.config import Listen
from chromad.errors import EngineError

from tests.integration.account import until
from tests.integration.site import free_port

HERE = "tenants/default_tenant/databases/default_database/collections"
_HEADER = re.compile(r"\s*\d{4}-\d\d-\d\dT[\d:.]+Z\s")


class Bare:
    """A running engine. lines: its log so far."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.api = Api(Listen(port=port))
        self.lines: list[str] = []
        self._process = process
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        """After its end."""
        self._reader.join()
        assert self._process.stdout
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout
        self.lines.extend(self._process.stdout)

    def error(self, method: str, path: str, body: object = None) -> EngineError:
        """What a request that must fail raises."""
        try:
            self.api.request(method, path, body)
        except EngineError as error:
            return error
        raise AssertionError(f"{method} {path} went well")

    def errors_logged(self, count: int) -> list[str]:
        """The ERROR lines of its log, once there are so many."""

        def found() -> list[str]:
            # A copy: the thread goes on.
            lines = [line for line in list(self.lines) if _HEADER.match(line) and " ERROR " in line]
            return lines if len(lines) >= count else []

        return until(found, f"{count} ERROR lines", 10)


@contextmanager
def engine(data: Path, level: str = "error") -> Iterator[Bare]:
    """Runs the engine on a directory, as chromad does. level: of its log, as RUST_LOG takes it."""
    port = free_port()
    document: dict[str, Any] = {"persist_path": str(data), "port": port, "stdout_tracing": True, "allow_reset": True}
    settings = os.memfd_create("settings")
    os.write(settings, json.dumps(document).encode())
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "chromad.engine_main", f"/proc/self/fd/{settings}", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={"PATH": os.environ["PATH"], "RUST_LOG": level, "NO_COLOR": "1"},
        pass_fds=(settings,),
    )
    os.close(settings)
    bare = Bare(process, port)
    try:
        until(lambda: _answers(bare), "the engine", 30)
        yield bare
    finally:
        process.kill()
        process.wait()
        bare.close()


def _answers(bare: Bare) -> bool:
    try:
        bare.api.heartbeat()
    except (OSError, EngineError):
        return False
    return True
