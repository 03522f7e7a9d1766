"""An upgrade between two environments of one version, and how it is taken back."""

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.crash.steps.operations import Operation
from tests.crash.steps.tracer import Tracer
from tests.crash.steps.verbs import Verb
from tests.crash.steps.world import World
from tests.integration import environments
from tests.integration.account import current


class Upgrade(Verb):
    """To the environment `new`, with clients whose writes wait meanwhile."""

    name = "upgrade"
    root = True
    words: Sequence[str] = ("upgrade",)

    def make(self, world: World) -> None:
        world.serve()
        world.populate()
        world.site.make_repository()
        world.stop()

    def prepare(self, world: World) -> None:
        world.with_unit()
        world.serve()
        home = world.places["home"]
        home.mkdir()
        for name in ("old", "new"):
            environments.make(home / "venvs" / name)
        (home / "venv").symlink_to("venvs/old")

    def run(self, world: World, tracer: Tracer) -> int | None:
        self.process = self.spawn(world, self.words, tracer.command)
        tracer.arm()
        output, _ = self.process.communicate(timeout=120)
        tracer.disarm()
        world.facts["output"] = output.decode(errors="replace")
        return self.process.returncode

    def recover(self, world: World) -> float:
        if (world.places["home"] / "venvs/upgrade.json").exists():
            process = self.spawn(world, ["upgrade", "--undo"])
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, f"--undo ended with {process.returncode}: {output.decode()}"
        seconds = Operation.recover(self, world)
        # It takes a backup first; what that has left, the next one clears away.
        self.again(world, ["backup"])
        return seconds

    def spawn(self, world: World, words: Sequence[str], wrapper: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
        """Starts the chromactl of the new environment."""
        assert world.unit
        program = world.places["home"] / "venvs/new/bin/chromactl"
        argv: list[str | Path] = [*wrapper, program, "--config", world.site.config, *words]
        return world.site.spawn(argv, current(), world.unit.environment)


class Undo(Upgrade):
    """Of one that was killed when the new version was to be started."""

    name = "upgrade-undo"
    base = "upgrade"
    words = ("upgrade", "--undo")

    def prepare(self, world: World) -> None:
        super().prepare(world)
        assert world.unit
        upgrade = self.spawn(world, Upgrade.words)

        def strike() -> None:
            assert world.unit
            world.unit.before.clear()
            upgrade.kill()

        world.unit.before["start"] = strike
        upgrade.communicate()
        world.settle_unit()
        assert os.path.lexists(world.places["home"] / "venvs/upgrade.json")


UPGRADES: tuple[Callable[[], Operation], ...] = (Upgrade, Undo)
