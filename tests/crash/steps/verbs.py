"""Operations that an operator calls, with the service up or down."""

import copy
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.crash import servers
from tests.crash.model import Client
from tests.crash.steps.operations import Operation
from tests.crash.steps.tracer import Tracer
from tests.crash.steps.world import World

_LONGEST = 120.0
# Seconds for which what has just lost its parent may still hold a lock, and the code that says so
_PATIENCE = 20.0
_TRY_AGAIN = 75
_LEVEL0 = "data_level0.bin"


class Verb(Operation):
    """A call of chromactl, with the service down."""

    supervised = False
    words: Sequence[str] = ()
    process: "subprocess.Popen[bytes]"

    def make(self, world: World) -> None:
        world.serve()
        world.populate()
        world.stop()

    def run(self, world: World, tracer: Tracer) -> int | None:
        self.process = world.spawn(self.words, tracer.command)
        tracer.arm()
        output, _ = self.process.communicate(timeout=_LONGEST)
        tracer.disarm()
        world.facts["output"] = output.decode(errors="replace")
        return self.process.returncode

    def target(self, world: World) -> int:
        return self.process.pid

    def end(self, world: World) -> None:
        if self.process.poll() is None:
            world.kill_verb(self.process)

    def recover(self, world: World) -> float:
        self.again(world, self.words)
        return super().recover(world)

    def again(self, world: World, words: Sequence[str]) -> None:
        """Runs it once more, to its end. Raises AssertionError where it fails."""
        deadline = time.monotonic() + _PATIENCE
        while (result := world.chromactl(*words)).code == _TRY_AGAIN and time.monotonic() < deadline:
            time.sleep(0.2)
        assert self.well(result.code), f"the next {words[0]} ended with {result.code}: {result.output.strip()}"

    def well(self, code: int) -> bool:
        """Whether this is how it ends where all is well."""
        return code == 0


class _Beside(Verb):
    """With the service up, and clients that write."""

    def prepare(self, world: World) -> None:
        world.serve()

    def run(self, world: World, tracer: Tracer) -> int | None:
        world.begin_writing()
        try:
            return super().run(world, tracer)
        finally:
            world.end_writing()


class Backup(_Beside):
    """The first one, which has a base of its own."""

    name = "backup"
    words: Sequence[str] = ("backup",)
    power = True

    def make(self, world: World) -> None:
        world.site.make_repository()
        super().make(world)

    def recover(self, world: World) -> float:
        seconds = super().recover(world)
        newest = world.site.listed()[-1]
        assert newest["proven"], f"the next backup is not proven: {newest}"
        return seconds


class Increment(Backup):
    """One that adds to the base before."""

    name = "backup-increment"
    base = "backup"

    def make(self, world: World) -> None:
        world.serve()
        world.populate()
        world.site.backup()
        world.write(1, "since")
        world.stop()


class BackupWithCopy(Backup):
    """One that is copied to a second repository."""

    name = "backup-copy"
    base = "backup"
    power = False

    def make(self, world: World) -> None:
        super().make(world)
        world.site.make_repository(world.places["second"])

    def prepare(self, world: World) -> None:
        place = {"repository": str(world.places["second"]), "password_file": str(world.site.key)}
        world.site.configure({"backup.copy_to": place})
        super().prepare(world)


class Verify(_Beside):
    """A restore drill."""

    name = "verify"
    words: Sequence[str] = ("verify",)

    def make(self, world: World) -> None:
        world.serve()
        world.populate()
        world.site.backup()
        world.facts["then"] = copy.deepcopy(world.clients)
        world.stop()


class RestoreAside(Verify):
    """Into a directory of its own, as on a second host: with nothing but a repository and its key."""

    name = "restore-aside"

    def prepare(self, world: World) -> None:
        world.places["targets"].mkdir(mode=0o755)
        super().prepare(world)

    def run(self, world: World, tracer: Tracer) -> int | None:
        self.words = self._words(world, "first")
        return super().run(world, tracer)

    def recover(self, world: World) -> float:
        self.words = self._words(world, "second")
        seconds = super().recover(world)
        for path in world.places["targets"].iterdir():
            assert (path / "chroma.sqlite3").exists(), f"{path.name} is half a restore"
        shutil.rmtree(world.places["targets"])
        return seconds

    def _words(self, world: World, name: str) -> list[str]:
        where = ["--repository", str(world.site.backups), "--password-file", str(world.site.key)]
        return ["restore", "--target", str(world.places["targets"] / name), *where]


class RestoreCollection(Verify):
    """One collection, into the service."""

    name = "restore-collection"
    base = "restore-in-place"
    words: Sequence[str] = ("restore", "--collection", "often", "--into", "first-copy")

    def recover(self, world: World) -> float:
        self.again(world, ["restore", "--collection", "often", "--into", "second-copy"])
        seconds = Operation.recover(self, world)
        then = next(each for each in world.facts["then"] if each.recipe.name == "often")
        world.copies = {"first-copy": then, "second-copy": then}
        return seconds


class RestoreInPlace(Verify):
    """In place of the data, which have changed since the backup."""

    name = "restore-in-place"
    words: Sequence[str] = ("restore", "latest", "--stop")
    power = True

    def make(self, world: World) -> None:
        world.serve()
        world.populate()
        world.site.backup()
        world.facts["then"] = copy.deepcopy(world.clients)
        world.write(3, "since")
        world.stop()

    def prepare(self, world: World) -> None:
        world.with_unit()
        world.serve()

    def run(self, world: World, tracer: Tracer) -> int | None:
        return Verb.run(self, world, tracer)

    def recover(self, world: World) -> float:
        with suppress(servers.NeedsHelp):
            return Operation.recover(self, world)
        # What the next run of a restore ends, a start need not.
        return super().recover(world)

    def alternatives(self, world: World) -> list[list[Client]]:
        return [world.clients, world.facts["then"]]


class Repair(Verb):
    """Of a collection in quarantine, from what its files still hold."""

    name = "repair"
    words: Sequence[str] = ("repair",)
    power = True

    def make(self, world: World) -> None:
        world.serve()
        world.populate()
        world.ask("checkpoint")
        self.spoil(world)
        world.serve()
        [each] = world.site.daemon.status()["recovered"]
        assert each["action"] == "quarantined", each
        world.stop()

    def spoil(self, world: World) -> None:
        """Ends the service, and leaves a segment that is not sound, with neither a checkpoint nor the log of it."""
        world.kill()
        segment = world.segment("often")
        shutil.rmtree(world.site.checkpoints / segment.name)
        _spoil_links(segment)


class RepairInPlace(Repair):
    """Of segments that no start has looked at."""

    name = "repair-in-place"
    base = "repair"

    def make(self, world: World) -> None:
        world.serve()
        world.populate()
        world.ask("checkpoint")
        self.spoil(world)

    def recover(self, world: World) -> float:
        # Somebody starts the service first, which takes the segment out of service if that was not done.
        world.serve()
        world.stop()
        return super().recover(world)


class Adopt(Verb):
    """Of a directory as stock Chroma leaves it, which is sound."""

    name = "adopt"
    power = True

    def make(self, world: World) -> None:
        world.site.make_repository()
        super().make(world)
        self.spoil(world)
        site, source = world.site, self.source(world)
        if source != site.data:
            shutil.copytree(site.data, source, ignore=shutil.ignore_patterns("chromad.*", ".chromad-*"))
            site.give_all(source)
            site.wipe()
        else:
            (site.data / "chromad.json").unlink()
        for path in site.checkpoints.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def source(self, world: World) -> Path:
        """The directory that is adopted."""
        return world.places["old"]

    def spoil(self, world: World) -> None:
        """Damages what is to be adopted."""

    def run(self, world: World, tracer: Tracer) -> int | None:
        self.words = ["adopt", str(self.source(world))]
        return super().run(world, tracer)

    def recover(self, world: World) -> float:
        seconds = Operation.recover(self, world)
        if world.lists_nothing():
            # It had not come as far as to put something in place.
            world.stop()
            seconds = super().recover(world)
        # It takes a first backup; what that has left, the next one clears away.
        self.again(world, ["backup"])
        return seconds


class AdoptTorn(Adopt):
    """Of one whose segment is not sound, and is rebuilt."""

    name = "adopt-torn"
    base = "adopt"
    power = False

    def spoil(self, world: World) -> None:
        _spoil_links(world.segment("often"))


class AdoptInPlace(Adopt):
    """Of the data directory itself."""

    name = "adopt-in-place"
    base = "adopt"

    def source(self, world: World) -> Path:
        return world.site.data


class DoctorFix(Verb):
    """Owners, modes, a directory that is missing, a segment of no collection."""

    name = "doctor-fix"
    root = True
    words: Sequence[str] = ("doctor", "--fix", "--yes")

    def make(self, world: World) -> None:
        super().make(world)
        site = world.site
        shutil.copytree(world.segment("often"), site.data / "11111111-2222-4333-8444-555555555555")
        site.give_all(site.data)
        site.data.chmod(0o755)
        os.chmod(world.segment("again") / _LEVEL0, 0o666)
        os.chown(world.segment("again") / "header.bin", 0, 0)
        shutil.rmtree(site.quarantine)

    def well(self, code: int) -> bool:
        return code in (0, 1)  # warnings, such as that the service is down


def _spoil_links(segment: Path) -> None:
    """Makes an element's neighbour one that is not there: no search goes well, but all vectors can be read."""
    with open(segment / _LEVEL0, "r+b") as file:
        file.write((1).to_bytes(4, "little") + b"\xff\xff\xff\x7f")


VERBS: tuple[Callable[[], Operation], ...] = (
    Backup,
    Increment,
    BackupWithCopy,
    Verify,
    RestoreInPlace,
    RestoreAside,
    RestoreCollection,
    Repair,
    RepairInPlace,
    Adopt,
    AdoptTorn,
    AdoptInPlace,
    DoctorFix,
)
