"""The engine without a daemon: what it answers and what it logs, word for word."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chromad.config import Listen
from chromad.engine import texts
from chromad.engine.api import Api
from chromad.errors import EngineError

from tests.integration.account import until
from tests.integration.site import free_port

HERE = "tenants/default_tenant/databases/default_database/collections"


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

    def failed_answers(self, count: int) -> list[str]:
        """Its log, once it tells of so many answers with an error of its own, and of the requests that they were for."""

        def found() -> list[str]:
            # A copy: the thread goes on.
            lines = list(self.lines)
            return lines if sum("response failed, " in line for line in lines) >= count and lines[-1] == "\n" else []

        return until(found, f"{count} failed answers", 10)


@contextmanager
def engine(data: Path, level: str = "error") -> Iterator[Bare]:
    """Runs the engine on a directory, as chromad does. level: of its log, as RUST_LOG takes it."""
    port = free_port()
    document: dict[str, Any] = {"persist_path": str(data), "port": port, "stdout_tracing": True, "allow_reset": True}
    settings = os.memfd_create("settings")
    os.write(settings, json.dumps(document).encode())
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "chromad.engine.main", f"/proc/self/fd/{settings}", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={"PATH": os.environ["PATH"], "RUST_LOG": f"{level},{texts.REQUESTS}", "NO_COLOR": "1"},
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
