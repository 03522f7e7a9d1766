"""Operations of the daemon: what is brought about before, what is watched, and what people do when it was cut off."""

import random
import signal
from collections.abc import Callable
from contextlib import suppress

from chromad.errors import ChromadError

from tests.crash import servers
from tests.crash.api import GONE, Refused
from tests.crash.model import Client
from tests.crash.steps import damage
from tests.crash.steps.tracer import Tracer
from tests.crash.steps.world import World
from tests.integration.account import until

# Seconds after which a start or a stop counts as hanging
_LONGEST = 120.0


class Operation:
    """One operation, under its `name`.

    power: whether power cuts are tried, since it ends in a rename that all hangs on. supervised: whether systemd starts it again.
    apart: whether segments differ, so that a call on one is not like that on another. base: the operation that this one is a variant of. root: whether
    it takes root.
    """

    name = ""
    power = False
    supervised = True
    apart = False
    base = ""
    root = False

    def make(self, world: World) -> None:
        """Brings a fresh world into the state from which it begins; nothing runs afterwards."""
        raise NotImplementedError

    def prepare(self, world: World) -> None:
        """What comes before it each time, unwatched."""

    def run(self, world: World, tracer: Tracer) -> int | None:
        """The operation itself, watched, to its end; gives its exit code, None where that says nothing."""
        raise NotImplementedError

    def target(self, world: World) -> int:
        """The process that gets SIGTERM."""
        return world.site.daemon.process.pid

    def end(self, world: World) -> None:
        """Ends all its processes at once."""
        world.kill()

    def recover(self, world: World) -> float:
        """What comes next, whatever has happened: a start, or the verb again; gives the seconds until the service is ready.
        Raises servers.NeedsHelp, or AssertionError where a verb fails again."""
        return 0.0 if self.serving(world) else world.serve()

    def serving(self, world: World) -> bool:
        """Whether the service is up, or comes up by itself."""
        if not world.running:
            return False
        with suppress(servers.NeedsHelp):
            world.await_ready()
            return True
        return False

    def alternatives(self, world: World) -> list[list[Client]]:
        """What the service may hold: each as the clients know it."""
        return [world.clients]


class Start(Operation):
    """A start after a stop of one kind, with segments and checkpoints in all states; `clean`, of data that nobody has touched since:
    what is mended where all else is well is mended by itself.
    """

    power = True
    apart = True

    def __init__(self, kind: str) -> None:
        self.name = f"start-{kind}"
        self._kind = kind

    def make(self, world: World) -> None:
        damage.make(world)
        clean = self._kind in ("clean", "changed")
        if clean:
            world.stop()
        else:
            world.kill()
        assert damage.mended(world), "no checkpoint has what the engine did not persist"
        if self._kind != "clean":
            damage.damage(world, clean=clean)
        if self._kind == "power":
            world.another_boot()

    def run(self, world: World, tracer: Tracer) -> int | None:
        world.start(tracer.command)
        tracer.arm()
        service = world.service
        until(lambda: service.is_ready() or service.process.poll() is not None, "a start", _LONGEST)
        return service.process.poll()


class StartApart(Start):
    """One for which quarantine is on another mount, so that what goes there has to be copied."""

    power = False
    root = True

    def __init__(self) -> None:
        super().__init__("killed")
        self.name, self.base = "start-apart", self.name

    def prepare(self, world: World) -> None:
        world.mount_quarantine()


class _Serving(Operation):
    """Something that a service does which serves clients."""

    def make(self, world: World) -> None:
        world.serve()
        world.populate()
        world.stop()

    def run(self, world: World, tracer: Tracer) -> int | None:
        world.start(tracer.command)
        world.await_ready()
        self.before(world)
        world.begin_writing()
        tracer.arm()
        with suppress(OSError, ChromadError):
            self.act(world)
        tracer.disarm()
        world.end_writing()
        return world.site.daemon.process.poll()

    def before(self, world: World) -> None:
        """Gives it something to do. Calls do not count yet."""

    def act(self, world: World) -> None:
        """Raises ChromadError, or OSError when the service goes away."""
        raise NotImplementedError


class Checkpoint(_Serving):
    name = "checkpoint"
    power = True

    def before(self, world: World) -> None:
        world.write(12, "before", ("often", "again"))

    def act(self, world: World) -> None:
        world.ask("checkpoint")


class Purge(_Serving):
    """Of a log that a checkpoint has covered before, and now a backup does."""

    name = "purge"

    def make(self, world: World) -> None:
        world.serve()
        world.populate()
        world.site.backup()
        world.write(12, "since")
        world.ask("checkpoint")
        world.site.backup("--full")
        # The log is purged by the next cycle.
        world.kill()

    def act(self, world: World) -> None:
        world.ask("checkpoint")


class Compact(_Serving):
    name = "compact"

    def act(self, world: World) -> None:
        world.ask("compact")


class Fence(_Serving):
    """Put, with clients that meet it, and lifted."""

    name = "fence"

    def act(self, world: World) -> None:
        world.ask("fence", reason="maintenance")
        world.ask("unfence")

    def recover(self, world: World) -> float:
        seconds = super().recover(world)
        # Both may have been cut off; whoever has put it lifts it.
        world.ask("unfence")
        return seconds


class Stop(_Serving):
    name = "stop"
    power = True

    def before(self, world: World) -> None:
        world.write(12, "before", ("often", "again"))

    def act(self, world: World) -> None:
        process = world.site.daemon.process
        process.send_signal(signal.SIGTERM)
        until(lambda: process.poll() is not None, "a stop", _LONGEST)


def write_on(world: World) -> None:
    """Clients go on, as far as they are let."""
    with suppress(Refused, *GONE):
        world.write(2, f"on {random.random()}")


DAEMON: tuple[Callable[[], Operation], ...] = (
    lambda: Start("clean"),
    lambda: Start("changed"),
    lambda: Start("killed"),
    lambda: Start("power"),
    StartApart,
    Checkpoint,
    Purge,
    Compact,
    Fence,
    Stop,
)
