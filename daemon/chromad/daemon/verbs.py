"""What the daemon does when chromactl asks for it, beside telling its status."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chromad.control import Handler, Progress
from chromad.daemon import overview
from chromad.daemon.checkpointer import Checkpointer
from chromad.daemon.fences import Fences
from chromad.daemon.status import Status
from chromad.engine.process import Engine
from chromad.errors import ConfigurationError, TryAgain
from chromad.store import compact
from chromad.store.checkpoint import Store


@dataclass(frozen=True)
class Verbs:
    """They work in the thread of their connection. status: tells whether the service serves."""

    data_dir: Path
    status: Status
    fences: Fences
    checkpoints: Store
    checkpointer: Checkpointer
    engine: Engine | None

    def handlers(self) -> dict[str, Handler]:
        """By the word on the control socket."""
        return {
            "collections": self._list_collections,
            "checkpoint": self._take_checkpoints,
            "compact": self._compact,
            "fence": self._put_fence,
            "unfence": self._lift_fence,
        }

    def _list_collections(self, _request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        self._need_serving()
        return overview.describe(self.data_dir, self.checkpoints).document()

    def _take_checkpoints(self, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        self._need_serving()
        damaged = request.get("damaged", [])
        if not isinstance(damaged, list) or not all(isinstance(each, str) for each in damaged):
            raise ConfigurationError("damaged is not a list of segments", "chromactl checkpoint")
        return asdict(self.checkpointer.cycle(progress, damaged=damaged))

    def _compact(self, _request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        self._need_serving()
        purged = self.checkpointer.cycle(progress).purged
        assert self.engine
        with self.engine.waiting():
            before, after = compact.run(self.data_dir, progress)
        return {"before": before, "after": after, "purged": purged}

    def _put_fence(self, request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        reason = request.get("reason")
        if not isinstance(reason, str):
            raise ConfigurationError("a fence needs a reason", "chromactl fence --reason TEXT")
        self._need_serving()
        self.fences.put(reason)
        return {"fences": self.fences.standing}

    def _lift_fence(self, _request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        self._need_serving()
        self.fences.lift()
        return {"fences": self.fences.standing}

    def _need_serving(self) -> None:
        if self.status.state != "serving":
            raise TryAgain(f"the service is {self.status.state}", "wait until chromactl status says serving")
