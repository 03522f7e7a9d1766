"""What stops and disks leave of segments and of their checkpoints: states for a start to begin with."""

import json
import os
import shutil
from pathlib import Path

from tests.crash.api import Connection
from tests.crash.model import Client, Recipe
from tests.crash.steps.world import World

_PICKLE, _VECTORS = "index_metadata.pickle", "data_level0.bin"
# Of each kind one that the start finds so, see `damage`; `alone` has one record, whose updates the engine does not persist.
SOUND, TORN, GONE, SPOILED, BARE = "sound", "torn", "gone", "spoiled", "bare"
_ALONE = Recipe("alone", 4, 2, 1, 1)
_FIRST = tuple(Recipe(name, 8, 15, 24, 6) for name in (SOUND, TORN, GONE))
_LATER = tuple(Recipe(name, 8, 15, 24, 6) for name in (SPOILED, BARE))


def make(world: World) -> None:
    """Collections of each kind. The first ones can do without their checkpoint no more: the log before it is purged. That of the
    later ones is kept, since a backup is to hold it."""
    world.serve()
    world.populate((*_FIRST, _ALONE))
    _rewrite(world, world.client(_ALONE.name))
    world.ask("checkpoint")
    world.site.backup()
    world.populate(_LATER)
    world.ask("checkpoint")
    # Those without a checkpoint alone are persisted once more.
    world.write(3, "since")


def damage(world: World, *, clean: bool) -> None:
    """Damages the segments of a service that does not run, as their names say.

    clean: the stop was, so that the log of all but the live files is purged: then of checkpoint and segment one is left.
    """
    torn = world.segment(TORN)
    (torn / _PICKLE).write_bytes((torn / _PICKLE).read_bytes()[:-5])
    _overwrite(torn / _VECTORS)
    shutil.rmtree(world.segment(GONE))
    for path in _checkpoints(world, SPOILED):
        _overwrite(path / _VECTORS)
    for path in _checkpoints(world, BARE):
        shutil.rmtree(path)
    if not clean:
        for name in (SPOILED, BARE):
            segment = world.segment(name)
            if (segment / _PICKLE).exists():
                (segment / _PICKLE).write_bytes((segment / _PICKLE).read_bytes()[:-5])


def mended(world: World) -> bool:
    """Whether a checkpoint has vectors that the live files lack."""
    return any(
        json.loads((path / "checkpoint.json").read_bytes())["mended"] for path in _checkpoints(world, _ALONE.name)
    )


def _rewrite(world: World, client: Client) -> None:
    """Gives the only record of a collection other vectors, more often than it takes to persist it."""
    connection = Connection(world.site.port)
    for _ in range(6):
        world.send(connection, client, client.move(1))
    connection.close()


def _checkpoints(world: World, name: str) -> list[Path]:
    return list((world.site.checkpoints / world.segment(name).name).glob("*"))


def _overwrite(path: Path) -> None:
    """Writes over the second half of a file."""
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(size // 2)
        file.write(b"\xff" * (size - size // 2))
