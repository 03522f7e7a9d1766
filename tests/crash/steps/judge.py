"""What is found after an operation was struck: what was acknowledged and is not there, what lies about, what doctor says."""

import copy
import re
from contextlib import suppress
from pathlib import Path

from chromad import config as configuration
from chromad import control
from chromad.checks import asides, backups, disks, doctor, running, storage
from chromad.checks.host import Host
from chromad.config import Config
from chromad.errors import ChromadError

from tests.crash.api import GONE, Connection, Refused
from tests.crash.model import Client, Record
from tests.crash.steps.world import World

_RESULTS = 5
# Of the records of a collection, those that an approximate index may hide
_MOST_HIDDEN = 0.3
_SHOWN = 4
_NOTE = ".note"
# What restic was writing in a repository when it was killed: a backup removes it when it is a day old.
_UNFINISHED = re.compile(r"-tmp-\w+$")

# By kind of finding, texts
Findings = dict[str, list[str]]


def compare(world: World, alternatives: list[list[Client]]) -> Findings:
    """Reads all from the service, which must be one of these alternatives; takes over how open requests have ended."""
    try:
        connection = Connection(world.site.port)
        listed = connection.collections()
        held = {name: connection.read(each["id"]) for name, each in listed.items()}
        nearest = {name: _nearest(connection, listed[name]["id"], found) for name, found in held.items()}
        connection.close()
    except (Refused, *GONE) as error:
        return {"unreadable": [str(error) or repr(error)]}
    found: Findings = {}
    for clients in copy.deepcopy(alternatives):
        found = _differences(held, clients, world.copies)
        if not any(found.values()):
            world.clients = clients
            break
    for name, answers in nearest.items():
        found.setdefault("wrong", []).extend(_lost_ways(name, held[name], answers))
    for name in listed.keys() - world.collections.keys() - world.copies.keys():
        found.setdefault("risen", []).append(f"the collection {name}")
    for name, wanted in world.collections.items():
        if name not in listed:
            found.setdefault("lost", []).append(f"the collection {name}")
        elif listed[name] != wanted:
            found.setdefault("wrong", []).append(f"the collection {name} is {listed[name]}, not {wanted}")
    return {kind: texts for kind, texts in found.items() if texts}


def _nearest(connection: Connection, collection: str, held: dict[str, Record]) -> list[list[str]]:
    vectors = [record.vector for record in held.values()]
    return connection.nearest(collection, vectors, min(_RESULTS, len(vectors))) if vectors else []


def _lost_ways(name: str, held: dict[str, Record], answers: list[list[str]]) -> list[str]:
    strangers = {key for answer in answers for key in answer} - held.keys()
    hidden = [key for key, answer in zip(held, answers, strict=True) if key not in answer]
    found = [f"{key} of {name} is found and not there" for key in sorted(strangers)]
    if len(hidden) > len(held) * _MOST_HIDDEN:
        found += [f"{key} of {name} is not found by its vector" for key in hidden]
    return found


def _differences(held: dict[str, dict[str, Record]], clients: list[Client], copies: dict[str, Client]) -> Findings:
    found: Findings = {"lost": [], "wrong": [], "risen": []}
    for client in clients:
        differences = client.settle(held.get(client.recipe.name, {}))
        for kind in found:
            found[kind] += getattr(differences, kind)
    for name, client in copies.items():
        if name in held and held[name] != client.records:
            found["wrong"].append(f"{name} is not a copy of {client.recipe.name}: {len(held[name])} records")
    return found


class Baseline:
    """What is there, and what doctor says, when nothing was struck: whatever is more afterwards counts. Of several looks."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._failed: set[str] = set()

    def know(self, world: World) -> None:
        """What is there now may be there."""
        self._names |= {each.partition(" = ")[0] for each in world.tree()}

    def learn(self, world: World) -> None:
        """This is how it is where all went well."""
        self.know(world)
        self._failed |= {name for name, _ in _failures(look(world, deep=True))}

    def compare(self, world: World, *, deep: bool) -> Findings:
        """What is there beyond that, and doctor does not name; and what doctor calls broken. deep: as for doctor."""
        said = look(world, deep=deep)
        text = "\n".join(f"{fact} {hint}" for _, _, fact, hint in said)
        found: Findings = {}
        failed = [f"{name}: {fact}" for name, fact in _failures(said) if name not in self._failed]
        if failed:
            found["doctor"] = failed
        left = []
        for each in world.tree():
            name, _, path = each.partition(" = ")
            if name not in self._names and not _named(world, Path(path), text):
                left.append(name)
        if left:
            found["left"] = left
        return found


def look(world: World, *, deep: bool) -> list[tuple[str, str, str, str]]:
    """Name, status, fact and hint of what doctor finds. deep: in all that there is, else in what is the service's own."""
    config = configuration.load(world.site.config)
    answer = loaded = None
    with suppress(ChromadError):
        answer = control.ask_status(config.control_socket)
        loaded = Config.model_validate(control.ask(config.control_socket, "configuration")) if answer else None
    host = Host(config, world.site.config, answer, loaded)
    # Programs, and what else is on the host, are not what an operation changes: that would take as long as a start.
    rooms = (running.check, disks.check, storage.check, backups.check, asides.check)
    results = doctor.examine(host, deep=True) if deep else (each for room in rooms for each in room(host))
    return [(each.name, each.status, each.fact, each.hint) for each in results]


def _failures(said: list[tuple[str, str, str, str]]) -> list[tuple[str, str]]:
    return [(name, fact) for name, status, fact, _ in said if status == "fail"]


def _named(world: World, path: Path, text: str) -> bool:
    """Whether doctor names a path, or a directory that it is in, or counts it among others; or it is restic's and goes by
    itself."""
    if {world.places["backups"], world.places["second"]}.intersection(path.parents) and _UNFINISHED.search(path.name):
        return True
    if world.site.quarantine in path.parents:
        name = path.relative_to(world.site.quarantine).parts[0]
        return not name.startswith(".") and f"are in {world.site.quarantine}" in text
    # The note of a copy goes with it.
    path = path.with_name(path.name.removesuffix(_NOTE))
    tops = set(world.places.values())
    return any(each.name in text for each in (path, *path.parents) if tops.intersection(each.parents)) or (
        path.parent == world.site.data.parent and path.name in text
    )


def briefly(found: Findings) -> str:
    """For a line of output."""
    return "; ".join(
        f"{kind}: {', '.join(texts[:_SHOWN])}{' …' if len(texts) > _SHOWN else ''}" for kind, texts in found.items()
    )
