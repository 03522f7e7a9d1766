"""A small installation under clients: its site, its service, and what must be there."""

import copy
import json
import os
import random
import shutil
import subprocess
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from chromad.chroma import sqlite
from chromad.control import ask

from tests.crash import processes, servers
from tests.crash.api import GONE, Connection, Refused
from tests.crash.disks import Disk
from tests.crash.model import Client, Recipe, Request
from tests.crash.steps.calls import Naming
from tests.integration.account import BIN, current, until
from tests.integration.site import Result, Site
from tests.integration.unit import Unit

# One that persists at each few requests, one that does so never, and another one like the first.
RECIPES = (Recipe("often", 8, 20, 40, 8), Recipe("seldom", 8, 1_000_000, 20, 8), Recipe("again", 12, 15, 30, 8))
_PAUSE = 0.004
# Seconds after which a request or a verb counts as hanging
_LONGEST = 120.0
_SIGKILL_LEAVES = 20.0
# What a start makes anew; copied, it would take its size.
_BALLAST = ".chromad-ballast"


class World:
    """One installation. clients: those who write, and what they know. collections: as the service lists them, by name. copies: what
    others may be there, with whose records. facts: for operations to remember.

    place: the file system for what must survive a power cut; beside the rest where it is not given.
    """

    def __init__(self, place: Path | None = None) -> None:
        self.site = Site(place)
        self.service = servers.Chromad(self.site)
        self.clients: list[Client] = []
        self.collections: dict[str, Any] = {}
        self.unit: Unit | None = None
        self.cut = threading.Event()
        self.gate = threading.Lock()
        self.copies: dict[str, Client] = {}
        self.facts: dict[str, Any] = {}
        self._segments: dict[str, str] = {}
        self._bound = False
        self._writer: _Writer | None = None

    # Directories

    @property
    def places(self) -> dict[str, Path]:
        """The directories of the service, and others that operations write to, by name."""
        home, root = self.site.data.parent, self.site.root
        names = ("data", "checkpoints", "quarantine", "backups", "restore", "second")
        return {name: home / name for name in names} | {name: root / name for name in ("targets", "old", "home")}

    def naming(self, *, apart: bool = False) -> Naming:
        """Names for paths in the service's directories. apart: with segments called by their collections."""
        home = self.site.data.parent
        beside = {"beside": home} if home != self.site.root else {}
        return Naming({**self.places, **beside}, {uuid: name for name, uuid in self._segments.items() if apart})

    def tree(self) -> dict[str, int]:
        """Bytes that each file takes, and each directory that holds nothing, by plain name and path."""
        naming, home = self.naming(), self.site.data.parent
        hidden = [path for path in home.iterdir() if path.name.startswith(".")]
        found: dict[str, int] = {}
        for top in (*self.places.values(), *hidden):
            for path in (top, *top.rglob("*")):
                if path.name != _BALLAST and not (path.is_dir() and any(path.iterdir())) and os.path.lexists(path):
                    found[f"{naming.name(str(path)) or path.name} = {path}"] = path.lstat().st_blocks * 512
        return found

    # Service

    def start(self, wrapper: Sequence[str] = ()) -> None:
        """Starts the service, and does not wait."""
        self.service.wrapper = list(wrapper)
        self.service.start()

    def serve(self) -> float:
        """Starts the service as systemd does, until it serves; gives the seconds. Raises servers.NeedsHelp."""
        self.start()
        return self.await_ready()

    def await_ready(self) -> float:
        """Seconds until it serves. Raises servers.NeedsHelp."""
        self.service.wrapper = []
        seconds, _ = servers.await_ready(self.service)
        return seconds

    @property
    def running(self) -> bool:
        """Whether the service runs."""
        try:
            return self.site.daemon.process.poll() is None
        except IndexError:
            return False

    def ended_within(self, seconds: float) -> bool:
        """Whether the service ends by itself in this time."""
        with suppress(subprocess.TimeoutExpired):
            self.site.daemon.process.wait(seconds)
            return True
        return False

    def stop(self) -> None:
        """Stops the service, which must be a clean stop."""
        self.site.daemon.stop()

    def kill(self) -> None:
        """Ends all processes of the service at once."""
        if self.running:
            processes.kill(self.site.daemon.process)

    def cut_power(self, disk: Disk) -> None:
        """Takes what the disk holds now; what is answered from here on may be on it or not."""
        with self.gate:
            self.cut.set()
        disk.copy()

    def another_boot(self) -> None:
        self.service.boot_id = str(uuid.uuid4())

    def ask(self, verb: str, **values: object) -> dict[str, Any]:
        """Has the service do something. Raises ChromadError, or OSError when it goes away."""
        answer: dict[str, Any] | None = ask(self.site.control, verb, values, lambda _phase, _done, _total: None)
        if answer is None:
            raise ConnectionError(f"the service does not answer to {verb}")
        return answer

    # Verbs

    def chromactl(self, *words: str) -> Result:
        """Runs chromactl to its end."""
        process = self.spawn(words)
        output, _ = process.communicate(timeout=_LONGEST)
        return Result(process.returncode, output.decode(errors="replace"))

    def spawn(self, words: Sequence[str], wrapper: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
        """Starts chromactl as an operator does, in a session of its own."""
        argv: list[str | Path] = [*wrapper, BIN / "chromactl", "--config", self.site.config, *words]
        environment = self.unit.environment if self.unit else None
        return self.site.spawn(argv, current(), environment)

    def settle_unit(self) -> None:
        """Waits for a systemctl that was called: it goes on when its caller is gone, as the job in systemd does."""
        unit = self.unit
        if unit:
            until(lambda: unit.quiet, "the end of a systemctl", _SIGKILL_LEAVES)

    def kill_verb(self, process: "subprocess.Popen[bytes]") -> None:
        """Ends a verb and all that it has started at once; the service goes on."""
        self.settle_unit()
        processes.kill(process, [self.site.daemon.process.pid] if self.running else [])

    # Clients

    def populate(self, recipes: Sequence[Recipe] = RECIPES) -> None:
        """Makes collections, and fills them. The service runs."""
        connection = Connection(self.site.port)
        for recipe in recipes:
            connection.create(recipe)
            client = Client(recipe, recipe.name)
            client.seed("fill")
            self.clients.append(client)
        self.collections = connection.collections()
        for client in self.clients[-len(recipes) :]:
            while len(client.records) < client.recipe.size:
                self.send(connection, client, client.fill())
        # Now their dimensions are known.
        self.collections = connection.collections()
        connection.close()
        # Now: a look at the database of a service that was killed would change it.
        self._segments = {each.name: each.segment for each in sqlite.collections(self.site.data, counted=False)}

    def lists_nothing(self) -> bool:
        """Whether the service has no collection."""
        connection = Connection(self.site.port)
        found = connection.collections()
        connection.close()
        return not found

    def client(self, name: str) -> Client:
        """The one who writes to a collection."""
        return next(each for each in self.clients if each.recipe.name == name)

    def segment(self, name: str) -> Path:
        """The directory of a collection's vector segment."""
        return self.site.data / self._segments[name]

    def send(self, connection: Connection, client: Client, request: Request) -> None:
        """Sends one request. Raises Refused, or what is in GONE; then its outcome is open."""
        client.open.append(request)
        answer = connection.post(f"/{self.collections[client.recipe.name]['id']}/{request.path}", request.body)
        with self.gate:
            if self.cut.is_set():
                raise ConnectionError("the power is gone")
            if answer.status >= 300:
                raise Refused(f"{request.path}: {answer.status} {answer.text[:300].decode(errors='replace')}")
            client.acknowledge(request)

    def write(self, requests: int, seed: str, names: Sequence[str] = ()) -> None:
        """Sends so many requests of each client, or of those of these collections. Raises as `send`."""
        connection = Connection(self.site.port)
        for client in self.clients:
            if client.recipe.size > 1 and (not names or client.recipe.name in names):
                client.seed(seed)
                for _ in range(requests):
                    self.send(connection, client, client.request())
        connection.close()

    def begin_writing(self) -> None:
        """Clients write from now on, until `end_writing` or until the service is gone."""
        self._writer = _Writer(self)
        self._writer.start()

    def end_writing(self) -> None:
        """Returns when nobody writes any more."""
        if self._writer:
            self._writer.stop()
            self._writer = None

    def mount_quarantine(self) -> None:
        """Makes the quarantine a mount of its own, as where data and quarantine are two volumes; needs root."""
        subprocess.run(["mount", "--bind", self.site.quarantine, self.site.quarantine], check=True)
        self._bound = True

    def with_unit(self) -> None:
        """Verbs find a systemctl from now on that stops and starts the service."""
        self.unit = Unit(self.site)

    # Ends

    def clear(self) -> None:
        """Ends all processes, and removes all files but the configuration."""
        self.end_writing()
        self.kill()
        if self.unit:
            self.unit.close()
            shutil.rmtree(self.site.root / "bin")
            self.unit = None
        self.site.end()
        if self._bound:
            subprocess.run(["umount", self.site.quarantine], check=True)
            self._bound = False
        for path in {*self.site.root.iterdir(), *self.site.data.parent.iterdir()}:
            if path.is_dir() and path.name not in ("run", "lost+found"):
                shutil.rmtree(path)
            elif path.name.startswith(("log-", "notify-", "tracer-")):
                path.unlink()

    def remove(self) -> None:
        """Ends all processes, and removes all files."""
        self.clear()
        self.site.remove()


class Template:
    """A stopped world to begin with again and again, which has its files in one place. It must not be touched meanwhile."""

    def __init__(self, world: World) -> None:
        world.end_writing()
        world.site.end()
        for path in world.site.data.rglob(_BALLAST):
            path.unlink()
        self._world = world

    def copy_to(self, world: World) -> None:
        """Has another world begin where this one ended."""
        world.clear()
        theirs, places = self._world.site, world.places
        for path in theirs.root.iterdir():
            if path.is_dir() and path.name not in ("run", "bin"):
                _copy(path, places.get(path.name, world.site.root / path.name))
        _renew_inodes(theirs.data, world.site)
        world.clients = [copy.deepcopy(client) for client in self._world.clients]
        world.collections = dict(self._world.collections)
        world._segments = dict(self._world._segments)
        world.copies = {}
        world.facts = copy.deepcopy(self._world.facts)
        world.cut.clear()
        world.service = servers.Chromad(world.site)
        world.service.boot_id = self._world.service.boot_id

    def remove(self) -> None:
        self._world.remove()


class _Writer(threading.Thread):
    """Sends small requests, one client after the other, and stops where one is not answered well."""

    def __init__(self, world: World) -> None:
        super().__init__(name="writer", daemon=True)
        self._world = world
        self._ended = threading.Event()
        for client in world.clients:
            client.seed("writer")

    def stop(self) -> None:
        """Returns when it sends nothing any more."""
        self._ended.set()
        self.join(_LONGEST)
        assert not self.is_alive(), "a client hangs"

    def run(self) -> None:
        world = self._world
        connection = Connection(world.site.port)
        clients = [client for client in world.clients if client.recipe.size > 1]
        while clients and not self._ended.wait(_PAUSE):
            client = random.choice(clients)
            try:
                world.send(connection, client, client.request())
            except Refused:
                clients.remove(client)
            except GONE:
                return
        connection.close()


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--archive", "--reflink=auto", "--sparse=always", source, target], check=True)


def _renew_inodes(source: Path, site: Site) -> None:
    """What the service notes of its files has their inodes, which a copy does not keep: puts in those of the copy."""
    numbers = {path.stat().st_ino: site.data / path.relative_to(source) for path in source.rglob("*")}
    notes = [site.data / "chromad.json", *site.checkpoints.glob("*-*-*/*/checkpoint.json")]
    for note in notes:
        if note.exists():
            status = note.stat()
            document = json.loads(note.read_bytes())
            note.write_text(json.dumps(_with_inodes(document, numbers)) + "\n", encoding="utf-8")
            os.utime(note, ns=(status.st_atime_ns, status.st_mtime_ns))


def _with_inodes(found: Any, numbers: Mapping[int, Path]) -> Any:
    """`[inode, size, time]` and `{"inode": …}` with other inodes."""
    if isinstance(found, dict):
        return {
            key: numbers[value].stat().st_ino if key == "inode" and value in numbers else _with_inodes(value, numbers)
            for key, value in found.items()
        }
    if isinstance(found, list) and len(found) == 3 and all(isinstance(each, int) for each in found):
        return [numbers[found[0]].stat().st_ino if found[0] in numbers else found[0], *found[1:]]
    if isinstance(found, list):
        return [_with_inodes(each, numbers) for each in found]
    return found
