"""One operation, again and again: watched once, then struck once at each call."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from _pytest.outcomes import Failed
from chromad.errors import UNFORESEEN, ChromadError

from tests.crash.disks import Disk
from tests.crash.model import Client
from tests.crash.servers import NeedsHelp
from tests.crash.steps import judge
from tests.crash.steps.calls import END, Call, Place
from tests.crash.steps.judge import Baseline, Findings
from tests.crash.steps.operations import Operation, write_on
from tests.crash.steps.tracer import Decide, Recorder, Striker, Tracer
from tests.crash.steps.world import Template, World

# Ends after which systemd does not start the service again (systemd/chromadb.service)
_NO_RESTART = (77, 78)
# What an operation raises that does not come to its end
_FAILURES = (AssertionError, Failed, subprocess.TimeoutExpired, NeedsHelp)
# Seconds in which the service notices what its checkpointer has found
_NOTICED = 3.0


@dataclass
class Outcome:
    """What came of one step. reached: whether its call came. code: how the operation ended, None where it was killed or goes on.
    seconds: until the service was ready. findings: by kind; nothing where all is well."""

    reached: bool = False
    code: int | None = None
    seconds: float = 0.0
    took: float = 0.0
    findings: Findings = field(default_factory=dict)


class Bench:
    """All attempts of one operation, which begin alike. disk: for power cuts."""

    def __init__(self, operation: Operation, disk: Disk | None = None) -> None:
        self._operation = operation
        self._disk = disk
        self._baseline = Baseline()
        maker = World()
        try:
            operation.make(maker)
            maker.kill()
            self._template = Template(maker)
            self._baseline.know(maker)
        except BaseException:
            maker.remove()
            raise
        self._world = World()
        self._on_disk: World | None = None

    def close(self) -> None:
        for world in (self._world, self._on_disk):
            if world:
                world.remove()
        self._template.remove()

    def watch(self) -> list[Call]:
        """Runs the operation to its end, with no strike; gives its calls. Raises AssertionError where it does not go well."""
        recorder = Recorder()
        with self._begun(self._world, recorder) as tracer:
            code = self._operation.run(self._world, tracer)
            tracer.disarm()
            outcome = Outcome(True, code)
            self._look(self._world, outcome, learn=True)
        assert not outcome.findings, f"{self._operation.name}: {judge.briefly(outcome.findings)}"
        assert recorder.calls, f"{self._operation.name} was not seen to change anything"
        return recorder.calls

    def strike(self, place: Place, fault: str, *, thorough: bool) -> Outcome:
        """Runs it with a fault at one call, and looks at everything. thorough: also after another kill."""
        began = time.monotonic()
        outcome = Outcome()
        world = self._on(fault)

        def hit() -> None:
            if fault == "term":
                os.kill(self._operation.target(world), signal.SIGTERM)
            elif fault in ("kill", "power"):
                if fault == "power" and self._disk:
                    world.cut_power(self._disk)
                self._operation.end(world)
                if fault == "power":
                    world.kill()

        striker = Striker(place, fault, hit)
        with self._begun(world, striker) as tracer:
            try:
                code = self._operation.run(world, tracer)
            except _FAILURES as problem:
                code, outcome.findings["hangs"] = None, [f"{problem}: {_last_words(world)}"]
                world.kill()
            striker.settle()
            tracer.disarm()
            if place.call == END:
                striker.reached.set()
                hit()
            world.end_writing()
            outcome.reached = striker.reached.is_set()
            ended = not (outcome.reached and fault in ("kill", "power"))
            outcome.code = code if ended else None
            if fault == "power" and outcome.reached:
                self._restore_power(world)
            self._judge_end(world, outcome)
            self._look(world, outcome, thorough=thorough)
        outcome.took = time.monotonic() - began
        return outcome

    def repeat(self, place: Place, fault: str, times: int) -> tuple[int, int]:
        """Strikes it so many times without clearing up between; gives the bytes that all takes after the second time, and after
        the last."""
        sizes = []
        world = self._world
        for number in range(times):
            striker = Striker(place, fault, lambda: self._operation.end(world) if fault == "kill" else None)
            with self._begun(world, striker, fresh=number == 0) as tracer:
                self._operation.run(world, tracer)
                striker.settle()
                tracer.disarm()
                world.end_writing()
                world.kill()
            sizes.append(_size(world))
        return sizes[1], sizes[-1]

    @contextmanager
    def _begun(self, world: World, decide: Decide, *, fresh: bool = True) -> Iterator[Tracer]:
        if fresh:
            self._template.copy_to(world)
        if self._disk and world is self._on_disk:
            subprocess.run(["sync", "--file-system", self._disk.path], check=True)
        self._operation.prepare(world)
        path = world.site.root / "tracer.sock"
        path.unlink(missing_ok=True)
        tracer = Tracer(path, world.naming(apart=self._operation.apart), decide)
        try:
            yield tracer
        finally:
            tracer.disarm()
            world.end_writing()
            world.kill()
            tracer.close()

    def _on(self, fault: str) -> World:
        if fault != "power":
            return self._world
        assert self._disk
        if not self._on_disk:
            home = self._disk.path / "home"
            home.mkdir(mode=0o755, exist_ok=True)
            self._on_disk = World(home)
        return self._on_disk

    def _restore_power(self, world: World) -> None:
        assert self._disk
        self._disk.cut()
        world.another_boot()

    def _judge_end(self, world: World, outcome: Outcome) -> None:
        if self._operation.supervised and outcome.code in _NO_RESTART:
            outcome.findings["help"] = [f"it ended with {outcome.code}, after which systemd does not start it again"]
        said = str(world.facts.get("output", "")) + "".join(
            path.read_text(errors="replace") for path in world.site.root.glob("log-*")
        )
        for sign in ("Traceback", UNFORESEEN):
            if sign in said:
                outcome.findings["traceback"] = [said[said.rindex(sign) :][-600:]]

    def _look(self, world: World, outcome: Outcome, *, thorough: bool = False, learn: bool = False) -> None:
        operation, findings = self._operation, outcome.findings
        try:
            outcome.seconds = operation.recover(world)
        except NeedsHelp as problem:
            findings["help"] = [f"{problem}: {_last_words(world)}"]
            return
        except (*_FAILURES, ChromadError, OSError) as problem:
            findings["again"] = [str(problem)]
            return
        findings |= self._compare(world, operation.alternatives(world))
        if findings:
            return
        write_on(world)
        found = {} if learn or thorough else self._baseline.compare(world, deep=False)
        if learn or thorough or found:
            # Its next cycle, which comes by itself, clears up what it can.
            findings |= self._checkpoint(world)
            if learn:
                self._baseline.learn(world)
            findings |= self._baseline.compare(world, deep=thorough)
        if thorough and not findings:
            world.kill()
            try:
                world.serve()
            except NeedsHelp as problem:
                findings["help"] = [f"after another kill: {problem}"]
                return
            again = judge.compare(world, [world.clients])
            findings |= {f"{kind} after another kill": texts for kind, texts in again.items()}

    def _compare(self, world: World, alternatives: list[list[Client]]) -> Findings:
        """Compares, after another start by systemd where the service ends by itself: that costs time and no data."""
        found = judge.compare(world, alternatives)
        if "unreadable" in found and world.ended_within(_NOTICED):
            try:
                world.serve()
            except NeedsHelp as problem:
                return {"help": [f"after it ended by itself: {problem}"]}
            return judge.compare(world, alternatives)
        return found

    def _checkpoint(self, world: World) -> Findings:
        """Has the service look at all segments. One that it finds torn makes it end, for systemd to start it again."""
        try:
            left = world.ask("checkpoint")["left"]
        except (ChromadError, OSError) as problem:
            return (
                self._compare(world, [world.clients])
                if world.ended_within(_NOTICED)
                else {"checkpoint": [str(problem)]}
            )
        return self._compare(world, [world.clients]) if left and world.ended_within(_NOTICED) else {}


def _last_words(world: World) -> str:
    return " | ".join(world.site.daemon.log.splitlines()[-6:])


def _size(world: World) -> int:
    return sum(world.tree().values())


def keep(world: World, target: Path) -> None:
    """Copies all that is left of an attempt."""
    shutil.copytree(world.site.root, target, ignore=shutil.ignore_patterns("*.sock"))
