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
from chromad.engine.events import Events, pipe
from chromad.errors import EngineError

from tests.integration.account import until
from tests.integration.site import free_port

HERE = "tenants/default_tenant/databases/default_database/collections"


class Bare:
    """A running engine. events: its log so far."""

    def __init__(self, log: int, port: int) -> None:
        self.api = Api(Listen(port=port))
        self.events: list[str] = []
        self._log = log
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        """After its end."""
        self._reader.join()

    def _read(self) -> None:
        for event, _ in Events(self._log):
            self.events.append(event)

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
            events = list(self.events)
            return events if sum("response failed, " in event for event in events) >= count else []

        return until(found, f"{count} failed answers", 10)


@contextmanager
def engine(data: Path, level: str = "error") -> Iterator[Bare]:
    """Runs the engine on a directory, as chromad does. level: of its log, as RUST_LOG takes it."""
    port = free_port()
    document: dict[str, Any] = {"persist_path": str(data), "port": port, "stdout_tracing": True, "allow_reset": True}
    settings = os.memfd_create("settings")
    os.write(settings, json.dumps(document).encode())
    ours, theirs = pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "chromad.engine.main", f"/proc/self/fd/{settings}", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "RUST_LOG": f"{level},{texts.REQUESTS}", "NO_COLOR": "1"},
        pass_fds=(settings,),
    )
    os.close(settings)
    os.close(theirs)
    bare = Bare(ours, port)
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
