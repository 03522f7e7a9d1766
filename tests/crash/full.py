"""Full disks: filled by a bystander or by the clients, with writes refused meanwhile and nothing lost."""

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.crash.api import GONE, Refused
from tests.crash.lab import Lab, Round
from tests.crash.model import Recipe

MEGABYTES = 128
RECIPES = (Recipe("often", 8, 20, 200, 40), Recipe("large", 384, 500, 800, 100))

_SAME_DIRECTORY = 4
_MOST_EVIDENCE = 5
_WARN, _FENCE, _RELEASE = 80, 95, 90
# So that checkpoints and purges happen on the full disk, too.
_OPTIONS: dict[str, object] = {
    "disk.warn_percent": _WARN,
    "disk.fence_percent": _FENCE,
    "disk.release_percent": _RELEASE,
    "checkpoint.interval": "5s",
}
_LIMIT = 15.0
_REASON = re.compile(r"writes are fenced: (/\S+): (?:\d+ % of its \w+ used|.* free, the next checkpoint needs .*)")


def run(lab: Lab, rounds: int, seed: int, evidence: list[Path]) -> Iterator[Round]:
    """As `strikes.run`."""
    usable = 0
    for number in range(rounds):
        chance = random.Random(f"{seed} round {number}")
        if not usable:
            lab.renew(_OPTIONS)
            usable = _SAME_DIRECTORY
        usable -= 1
        record = Round(number, "")
        _Full(lab, record, chance).run()
        if record.findings:
            usable = 0
            if len(evidence) < _MOST_EVIDENCE:
                evidence.append(lab.keep_evidence(record))
        yield record


class _Full:
    """One round: the disk fills up under writing clients, stays full, perhaps over a kill, and is freed."""

    def __init__(self, lab: Lab, record: Round, chance: random.Random) -> None:
        self._lab = lab
        self._record = record
        self._chance = chance
        self._disk = lab.site.data.parents[1]
        self._bystander = self._disk / "bystander"
        self._notes: list[str] = []

    def run(self) -> None:
        way = self._chance.choice((self._by_clients, self._by_bystander, self._to_the_brim))
        killed = self._chance.random() < 0.5
        self._record.moment = f"{way.__name__.strip('_').replace('_', ' ')}{', killed' if killed else ''}"
        try:
            alive = self._fill(way)
            self._lab.preserve()
            if killed or not alive:
                self._lab.kill()
                alive = self._lab.revive(self._record)
            if alive:
                self._while_full()
        finally:
            self._bystander.unlink(missing_ok=True)
        if alive and self._freed():
            self._afterwards()
        self._record.detail = ", ".join(self._notes)

    def _fill(self, way: Callable[[], None]) -> bool:
        """False when the service has not survived it."""
        lab, record = self._lab, self._record
        lab.write(f"round {record.number}", frozenset({"large"}), patient=True)
        time.sleep(self._chance.uniform(0.1, 0.5))
        way()
        process = lab.server.process
        self._await("fence", lambda: process.poll() is not None or any(map(_REASON.search, lab.refusals())))
        record.hit = _percent(self._disk) >= _RELEASE
        lab.finish_writing(record)
        findings = record.findings
        findings.unkept += [text for text in lab.refusals() if "no answer" in text]
        others = [text for text in lab.refusals() if not _REASON.search(text)]
        if others:
            self._notes.append(f"{len(others)} other errors, such as {others[0][:160]}")
        paths = {match[1] for text in lab.refusals() if (match := _REASON.search(text))}
        if not all(Path(path).is_relative_to(self._disk) for path in paths):
            findings.unkept.append(f"the reason names {paths}")
        if process.poll() is not None:
            self._notes.append("ended by itself")
            record.restarts += 1
        return process.poll() is None

    def _while_full(self) -> None:
        """Reads go on, deletes as well, other writes are refused."""
        lab, findings = self._lab, self._record.findings
        self._compare("while full", settle=False)
        for client in lab.clients:
            request = client.delete(3)
            if request.path != "delete":  # All its records have requests of unknown outcome.
                continue
            try:
                lab.send(client, request)
            except (Refused, *GONE) as problem:
                findings.unkept.append(f"a delete was refused: {problem}")
        if _percent(self._disk) >= _FENCE:
            self._await("fence again", self._refuses)

    def _refuses(self) -> bool:
        client = self._lab.clients[0]
        try:
            self._lab.send(client, client.add(1))
        except (Refused, *GONE) as problem:
            return bool(_REASON.search(str(problem)))
        return False

    def _compare(self, when: str, *, settle: bool = True) -> None:
        before = self._record.findings.counts()
        self._lab.compare(self._record, settle=settle)
        after = self._record.findings.counts()
        if after != before:
            self._notes.append(f"{when}: {after}")

    def _freed(self) -> bool:
        """Writes work again without a restart."""
        client = self._lab.clients[-1]

        def works() -> bool:
            try:
                self._lab.send(client, client.request())
            except (Refused, *GONE):
                return False
            return True

        return self._await("writes again", works)

    def _afterwards(self) -> None:
        lab, record = self._lab, self._record
        self._compare("when writes worked again")
        lab.write(f"round {record.number} afterwards")
        time.sleep(0.5)
        lab.kill()
        lab.finish_writing(record)
        lab.preserve()
        if lab.revive(record):
            self._compare("after a kill")

    # Ways to fill a disk

    def _by_clients(self) -> None:
        self._grow_to(_FENCE - 4)
        deadline = time.monotonic() + _LIMIT / 2
        while _percent(self._disk) < _FENCE and time.monotonic() < deadline:
            time.sleep(0.1)
        if _percent(self._disk) < _FENCE:  # Purging has made room for them.
            self._grow_to(_FENCE + 1.5)

    def _by_bystander(self) -> None:
        self._grow_to(_FENCE + 1.5)

    def _to_the_brim(self) -> None:
        self._grow_to(100)

    def _grow_to(self, percent: float) -> None:
        """Has the bystander take what is missing to this percentage, or what there is."""
        size = _bytes_to(self._disk, percent)
        with open(self._bystander, "ab") as file:
            start = file.tell()
            while size > 0:
                try:
                    os.posix_fallocate(file.fileno(), start, size)
                except OSError:
                    size -= 64 << 10
                else:
                    return

    def _await(self, what: str, condition: Callable[[], bool]) -> bool:
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > _LIMIT:
                self._record.findings.unkept.append(f"{what}: not within {_LIMIT:.0f} s")
                return False
            time.sleep(0.1)
        self._notes.append(f"{what} after {time.monotonic() - began:.1f} s")
        return True


def _percent(path: Path) -> float:
    """How full a file system is, as df(1) counts it."""
    status = os.statvfs(path)
    used = status.f_blocks - status.f_bfree
    return 100 * used / (used + status.f_bavail)


def _bytes_to(path: Path, percent: float) -> int:
    status = os.statvfs(path)
    used = status.f_blocks - status.f_bfree
    return max(int((used + status.f_bavail) * percent / 100 - used) * status.f_frsize, 0)
