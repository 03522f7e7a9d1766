"""A service under clients, the strike that ends it, and what is found after it has come back."""

import json
import random
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from chromad.chroma import reach

from tests.crash import persists, servers
from tests.crash.api import GONE, TIMEOUT, Connection, Refused
from tests.crash.disks import Disk, Writeback
from tests.crash.model import Client, Recipe, Record, Request
from tests.crash.servers import KINDS, NeedsHelp
from tests.integration.site import Site

# From collections that persist every few requests to one that hardly ever does. A persist of `large` takes some
# milliseconds.
RECIPES = (
    Recipe("often", 8, 20, 300, 40),
    Recipe("sometimes", 48, 100, 400, 100),
    Recipe("large", 384, 1000, 2500, 250),
    Recipe("seldom", 96, 1_000_000, 600, 100),
)
_CLIENTS = {"often": 2, "sometimes": 1, "large": 1, "seldom": 1}

# Self-queries: an approximate index may hide some of its records, above all after deletes, but not this many.
_SAMPLE = 8
_MOST_HIDDEN = 0.3
_READS = 3
# Part of the rounds before power cuts in which the kernel writes back pages early.
_WRITTEN_BACK = 0.7
# Seconds after which a patient client tries again.
_PATIENCE = 0.2

T = TypeVar("T")


@dataclass
class Findings:
    """What one round found. lost, wrong, risen: records, by id; unreadable: collections; help: starts that did not get
    anywhere; refused: writes; unkept: what the disk guard promises and did not do."""

    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    risen: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    help: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unkept: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def counts(self) -> dict[str, int]:
        return {kind: len(found) for kind, found in vars(self).items() if found}


@dataclass
class Round:
    """seconds_to_ready: None where the service did not come back. torn: by segment, the file at which a persist stood still.

    cut_off: records that their vectors do not find since Chroma's own index, before the strike, had lost the way to them
    (`chromad.chroma.reach`; stock Chroma does so without any kill).
    """

    number: int
    moment: str
    hit: bool = False
    detail: str = ""
    torn: list[str] = field(default_factory=list)
    seconds_to_ready: float | None = None
    restarts: int = 0
    records: int = 0
    requests: int = 0
    in_flight: int = 0
    hidden: int = 0
    cut_off: int = 0
    set_back: int = 0
    findings: Findings = field(default_factory=Findings)


class Unreadable(Exception):
    """A collection cannot be read."""


class Writer(threading.Thread):
    """Sends requests of one client until the service is gone, or until it is told to stop.

    refused: what the service said when it refused one; the first one ends a client that is not patient.
    """

    def __init__(self, lab: "Lab", client: Client, large: bool, patient: bool) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.refused: list[str] = []
        self.requests = 0
        self._lab = lab
        self._large = large
        self._patient = patient

    def run(self) -> None:
        connection = Connection(self._lab.site.port)
        try:
            while not self._lab.writers_end.is_set() and self._send(connection):
                pass
        except TimeoutError:
            self.refused.append(f"a request to {self.client.recipe.name} got no answer")
        except GONE:
            pass
        finally:
            connection.close()

    def _send(self, connection: Connection) -> bool:
        request = self.client.request(large=self._large)
        self.client.open.append(request)
        answer = connection.post(f"/{self._lab.ids[self.client.recipe.name]}/{request.path}", request.body)
        with self._lab.gate:
            if self._lab.cut:
                return False
            if answer.status < 300:
                self.client.acknowledge(request)
                self.requests += 1
                return True
            if not self._lab.ending:
                self.refused.append(f"{request.path}: {answer.status} {answer.text[:300].decode(errors='replace')}")
        time.sleep(_PATIENCE)
        return self._patient


class Lab:
    """One server over many rounds.

    place: the file system for its data. disk: the same one when strikes are power cuts, else strikes are kills.
    """

    def __init__(
        self,
        kind: str,
        seed: int,
        evidence: Path,
        place: Path | None = None,
        disk: Disk | None = None,
        recipes: tuple[Recipe, ...] = RECIPES,
    ) -> None:
        self.random = random.Random(seed)
        self.ids: dict[str, str] = {}
        self.gate = threading.Lock()
        self.writers_end = threading.Event()
        self.cut = False
        self.ending = False
        self.site: Site
        self.server: servers.Chromad | servers.Stock
        self.clients: list[Client] = []
        self._kind = kind
        self._seed = seed
        self._evidence = evidence
        self._place = place
        self._disk = disk
        self._recipes = recipes
        self._directories = 0
        self._running = False
        self._writers: list[Writer] = []
        self._segments: dict[str, Path] = {}
        self._writeback: Writeback | None = None

    def close(self) -> None:
        """Ends the service and removes its files."""
        if self._writeback:
            self._writeback.stop()
        if not self._directories:
            return
        if self._running:
            self._kill()
        self.site.remove()
        if self._place:
            shutil.rmtree(self._place / str(self._directories))

    def renew(self, options: dict[str, object]) -> None:
        """A fresh directory with its collections filled. options: configuration keys of chromad."""
        self.close()
        self._directories += 1
        home = self._place / str(self._directories) if self._place else None
        if home:
            home.mkdir(mode=0o755)
        self.site = Site(home)
        if self._kind == "chromad":
            self.site.configure(options)
        self.server = KINDS[self._kind](self.site)
        self._start()
        servers.await_ready(self.server)
        connection = Connection(self.site.port)
        self.ids = {recipe.name: connection.create(recipe) for recipe in self._recipes}
        self.clients = [
            Client(recipe, f"{recipe.name}{number}")
            for recipe in self._recipes
            for number in range(_CLIENTS[recipe.name])
        ]
        for client in self.clients:
            client.seed(f"{self._seed} directory {self._directories}")
            while len(client.records) < client.recipe.size // _CLIENTS[client.recipe.name]:
                self._send(connection, client, client.fill())
        connection.close()
        # Asked now: a look at the database of a service that has been struck would change it.
        found = persists.segments(self.site.data)
        self._segments = {name: found[identity] for name, identity in self.ids.items()}

    # Writing

    def write(self, text: str, large: frozenset[str] = frozenset(), *, patient: bool = False) -> None:
        """Lets all clients write. text: what their requests depend on, beside the seed. large: the collections that get
        large batches. patient: they go on after a refusal."""
        self.writers_end.clear()
        self.cut = self.ending = False
        self._writers = []
        for client in self.clients:
            client.seed(f"{self._seed} {text}")
            self._writers.append(Writer(self, client, client.recipe.name in large, patient))
        for writer in self._writers:
            writer.start()
        chance = random.Random(f"{self._seed} {text}")
        if self._disk and chance.random() < _WRITTEN_BACK:
            self._writeback = Writeback(self.site.data, chance)
            self._writeback.start()

    def refusals(self) -> list[str]:
        """What the clients were told when something was refused, up to now."""
        return [text for writer in self._writers for text in writer.refused]

    def finish_writing(self, record: Round) -> None:
        """Lets the clients come to their end, and notes what they have done."""
        self.writers_end.set()
        for writer in self._writers:
            writer.join(2 * TIMEOUT)
            if writer.is_alive():
                raise TimeoutError(f"a client of {writer.client.recipe.name} hangs")
            record.requests += writer.requests
            record.in_flight += len(writer.client.open)

    def segment(self, name: str) -> Path:
        """The directory of a collection's vector segment."""
        return self._segments[name]

    def send(self, client: Client, request: Request) -> None:
        """Sends one request and has it acknowledged. Raises Refused or, from a service that is gone, what is in GONE."""
        connection = Connection(self.site.port)
        try:
            self._send(connection, client, request)
        finally:
            connection.close()

    # Ending and starting

    def strike(self) -> None:
        """Ends the service: kills it, or cuts the power and gives it another boot."""
        self.ending = True
        if self._disk:
            with self.gate:
                # What is answered from here on may be on the disk or not.
                self.cut = True
            self._disk.copy()
        self._kill()
        if self._writeback:
            self._writeback.stop()
            self._writeback = None
        if self._disk:
            self._disk.cut()
            self.server.boot_id = str(uuid.uuid4())

    def kill(self) -> None:
        """Kills the service, also where strikes are power cuts."""
        self.ending = True
        self._kill()

    def terminate(self) -> None:
        """Asks the service to stop, and does not wait."""
        self.ending = True
        servers.terminate(self.server)

    def start(self) -> None:
        """Starts the service and does not wait."""
        if isinstance(self.server, servers.Chromad) and self._disk:
            self.server.honest = self.random.random() < 0.5
        self._start()

    def torn(self) -> list[str]:
        """For each segment that a persist has left half written, its collection and the file written last."""
        steps = {name: persists.torn_at(directory) for name, directory in self._segments.items() if directory.is_dir()}
        return [f"{name}: {step}" for name, step in steps.items() if step]

    def preserve(self) -> None:
        """Keeps the state in which the service was struck, in case that it is needed as evidence."""
        if self._disk:
            self._disk.remember()
            return
        kept = self.site.root / "struck"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        _copy([self.site.data, self.site.checkpoints, self.site.quarantine], kept)

    # Comparing

    def revive(self, record: Round) -> bool:
        """Starts the service; False, with the reason in the record, when it needs help."""
        self.start()
        try:
            record.seconds_to_ready, restarts = servers.await_ready(self.server)
        except NeedsHelp as problem:
            self._running = False
            record.findings.help.append(str(problem))
            return False
        record.restarts += restarts
        return True

    def compare(self, record: Round, *, settle: bool = True) -> None:
        """Reads all records and notes what is not as it must be.

        settle: takes over how requests in flight have ended; without it they stay open, and their ids are left out.
        """
        for recipe in self._recipes:
            try:
                found = self._read(record, lambda connection, name=recipe.name: connection.read(self.ids[name]))  # type: ignore[misc]
                self._note(record, recipe, found, settle)
                if found:
                    self._query(record, recipe, found)
            except Unreadable as problem:
                record.findings.unreadable.append(f"{recipe.name}: {problem}")
                if not self._running:
                    return

    def _note(self, record: Round, recipe: Recipe, found: dict[str, Record], settle: bool) -> None:
        findings = record.findings
        own = [client for client in self.clients if client.recipe is recipe]
        for client in own:
            part = {key: value for key, value in found.items() if client.owns(key)}
            differences = client.settle(part) if settle else client.compare(part)
            findings.lost += differences.lost
            findings.wrong += differences.wrong
            findings.risen += differences.risen
            record.set_back += len(differences.set_back)
            record.records += len(part)
        findings.risen += [key for key in found if not any(client.owns(key) for client in own)]

    def _query(self, record: Round, recipe: Recipe, found: dict[str, Record]) -> None:
        sample = self.random.sample(sorted(found), min(_SAMPLE, len(found)))
        hidden, strangers = self._hidden(record, recipe, found, sample)
        record.hidden += len(hidden)
        record.findings.risen += [f"{key} (in the index)" for key in strangers]
        if len(hidden) > len(sample) * _MOST_HIDDEN:
            hidden, _ = self._hidden(record, recipe, found, sorted(found))
            before = self._cut_off_before(record, recipe).intersection(hidden)
            record.cut_off += len(before)
            hidden = [key for key in hidden if key not in before]
            if len(hidden) > len(found) * _MOST_HIDDEN:
                record.findings.wrong += [f"{key} (not found by its vector)" for key in hidden]

    def _cut_off_before(self, record: Round, recipe: Recipe) -> set[str]:
        """What no search could find in the segment as the last persist before the strike has left it; nothing where that did not
        come to its end, or where the disk holds something else by now."""
        if self._disk or any(step.startswith(f"{recipe.name}: ") for step in record.torn):
            return set()
        return set(reach.cut_off(self.site.root / "struck" / self.site.data.name / self._segments[recipe.name].name))

    def _hidden(
        self, record: Round, recipe: Recipe, found: dict[str, Record], keys: list[str]
    ) -> tuple[list[str], list[str]]:
        """Which of these records their own vectors do not find, and ids that come instead but are not there."""
        vectors = [found[key].vector for key in keys]
        answers = self._read(record, lambda connection: connection.nearest(self.ids[recipe.name], vectors, 5))
        hidden = [key for key, answer in zip(keys, answers, strict=True) if key not in answer]
        strangers = {key for answer in answers for key in answer} - found.keys()
        return hidden, sorted(strangers)

    def _read(self, record: Round, read: Callable[[Connection], T]) -> T:
        reason = ""
        for _ in range(_READS):
            connection = Connection(self.site.port)
            try:
                return read(connection)
            except Refused as problem:
                reason = str(problem)
            except GONE as problem:
                reason = repr(problem)
                self._restart_if_dead(record)
            finally:
                connection.close()
        raise Unreadable(reason)

    def _restart_if_dead(self, record: Round) -> None:
        """What systemd does when a service ends by itself."""
        try:
            code = self.server.process.wait(5)
        except subprocess.TimeoutExpired:
            return
        record.restarts += 1
        servers.kill(self.server)
        self._start()
        try:
            servers.await_ready(self.server)
        except NeedsHelp as problem:
            self._running = False
            record.findings.help.append(f"{problem}, after it ended with {code} when it was read")
            raise Unreadable("the service is gone") from None

    # Evidence

    def keep_evidence(self, record: Round) -> Path:
        """Copies the directory as it was struck and as it is now, the logs, and what the clients know."""
        target = self._evidence / f"{self._kind}-seed-{self._seed}-round-{record.number}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        if self._disk:
            self._disk.keep(target / "struck.img")
            struck = []
        else:
            struck = [self.site.root / "struck"]
        now = target / "now"
        now.mkdir()
        _copy([self.site.data, self.site.checkpoints, self.site.quarantine], now)
        _copy([*struck, *self.site.root.glob("log-*"), self.site.config], target)
        (target / "findings.json").write_text(json.dumps({**vars(record), "findings": vars(record.findings)}, indent=1))
        model = {
            client.prefix: {
                key: {"vector": value.vector.hex(), "document": value.document, "metadata": dict(value.metadata)}
                for key, value in client.records.items()
            }
            for client in self.clients
        }
        (target / "model.json").write_text(json.dumps({"collections": self.ids, "records": model}))
        return target

    # Parts

    def _start(self) -> None:
        self.server.start()
        self._running = True

    def _kill(self) -> None:
        servers.kill(self.server)
        self._running = False

    def _send(self, connection: Connection, client: Client, request: Request) -> None:
        client.open.append(request)
        answer = connection.post(f"/{self.ids[client.recipe.name]}/{request.path}", request.body)
        if answer.status >= 300:
            raise Refused(f"{answer.status} to {request.path}: {answer.text[:500].decode(errors='replace')}")
        client.acknowledge(request)


def _copy(sources: list[Path], target: Path) -> None:
    # Not shutil: a torn link_lists.bin can be a sparse file of terabytes.
    command = ["cp", "--archive", "--reflink=auto", "--sparse=auto", *map(str, sources), str(target)]
    subprocess.run(command, check=True)
