"""What the daemon does when chromactl asks for it, beside telling its status."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from chromad.control import Handler, Progress
from chromad.daemon import overview
from chromad.daemon.checkpointer import Checkpointer
from chromad.daemon.fences import Fences
from chromad.daemon.status import Status
from chromad.errors import ConfigurationError, TryAgain
from chromad.store import compact
from chromad.store.checkpoint import Store


class Verbs:
    """They work in the thread of their connection. status: tells whether the service serves."""

    def __init__(
        self, data_dir: Path, status: Status, fences: Fences, checkpoints: Store, checkpointer: Checkpointer
    ) -> None:
        self._data_dir = data_dir
        self._status = status
        self._fences = fences
        self._checkpoints = checkpoints
        self._checkpointer = checkpointer

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
        return overview.describe(self._data_dir, self._checkpoints).document()

    def _take_checkpoints(self, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        self._need_serving()
        damaged = request.get("damaged", [])
        if not isinstance(damaged, list) or not all(isinstance(each, str) for each in damaged):
            raise ConfigurationError("damaged is not a list of segments", "chromactl checkpoint")
        return asdict(self._checkpointer.cycle(progress, damaged=damaged))

    def _compact(self, _request: dict[str, Any], progress: Progress) -> dict[str, Any]:
        self._need_serving()
        purged = self._checkpointer.cycle(progress).purged
        before, after = compact.run(self._data_dir, progress)
        return {"before": before, "after": after, "purged": purged}

    def _put_fence(self, request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        reason = request.get("reason")
        if not isinstance(reason, str):
            raise ConfigurationError("a fence needs a reason", "chromactl fence --reason TEXT")
        self._need_serving()
        self._fences.put(reason)
        return {"fences": self._fences.standing}

    def _lift_fence(self, _request: dict[str, Any], _progress: Progress) -> dict[str, Any]:
        self._need_serving()
        self._fences.lift()
        return {"fences": self._fences.standing}

    def _need_serving(self) -> None:
        if self._status.state != "serving":
            raise TryAgain(f"the service is {self._status.state}", "wait until chromactl status says serving")
