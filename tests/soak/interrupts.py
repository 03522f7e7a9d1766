"""Interrupts every verb at random moments: python -m tests.soak.interrupts --rounds N --seed S (root).

Signals are SIGINT to the whole session as from a terminal, SIGTERM, SIGHUP, two of them in a row, and SIGKILL. Afterwards the
service serves as it did, with what it held or what the verb was to bring and nothing in between; the verb has ended with one
line; nothing lies about, or, after SIGKILL, nothing after the next run. Ends with 1 when anything was otherwise.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from chromad.store import leftovers

from tests.integration import records
from tests.integration.account import AS_ROOT, open_doors, service, why_unreachable
from tests.integration.records import Record
from tests.integration.site import Site
from tests.integration.unit import Unit

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Part of its usual time after which a verb is interrupted at the latest: some are to end before
_LATEST = 1.1
# Seconds for which a restic or an engine that has just lost its parent may still hold a lock
_PATIENCE = 30.0
_NAME, _ADOPTED = "held", "adopted"
VERBS = ("restore", "adopt", "collection", "target", "backup", "verify", "verify-persistence", "checkpoint")


@dataclass
class Summary:
    """interrupted, killed: verbs that still ran. finished: those that were faster. wrong: whatever must not be."""

    interrupted: int = 0
    killed: int = 0
    finished: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.interrupted} interrupted, {self.killed} killed, {self.finished} finished before, {len(self.wrong)} wrong"


class Laboratory:
    """A service with data and a backup, another one without data, and a directory that it may adopt."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.summary = Summary()
        self._site, self._empty = Site(), Site()
        self._units = {site: Unit(site) for site in (self._site, self._empty)}
        self._adopted = self._make_source()
        self._empty.serve()
        self._empty.make_repository()
        self._then = records.fill(self._site.serve().client(), _NAME, 300, sync_threshold=100)
        self._now = dict(self._then)
        self._backup = self._site.backup()["id"]
        self._version = 0
        self._usual: dict[str, float] = {}

    def close(self) -> None:
        for site, unit in self._units.items():
            unit.close()
            site.remove()

    def round(self, verb: str) -> str:
        """Interrupts a verb once, and looks at everything. Gives a line on it."""
        self._renew()
        if verb not in self._usual:
            began = time.monotonic()
            self._finished(verb, self._unit(verb).chromactl(*self._words(verb)).code)
            self._usual[verb] = time.monotonic() - began
            self._renew()
        before = len(self.summary.wrong)
        words = self._words(verb)
        delay = self.random.uniform(0, _LATEST) * self._usual[verb]
        numbers = self.random.choice(
            [(signal.SIGKILL,), *((each,) for each in _ENDING), (signal.SIGTERM, signal.SIGINT)]
        )
        said = self._strike(verb, words, delay, numbers)
        self._look(verb, killed=numbers == (signal.SIGKILL,))
        wrong = self.summary.wrong[before:]
        names = "+".join(signal.Signals(number).name for number in numbers)
        return f"{' '.join(words)}: {names} after {delay:.2f} s: {said}{'; WRONG ' if wrong else ''}{'; '.join(wrong)}"

    def _make_source(self) -> dict[str, Record]:
        """A directory as stock Chroma of this version leaves it."""
        site = self._empty
        held = records.fill(site.serve().client(), _ADOPTED, 150, sync_threshold=100)
        site.daemon.stop()
        source = site.root / "old"
        shutil.copytree(site.data, source, ignore=shutil.ignore_patterns("chromad.*", ".chromad-*"))
        site.wipe()
        for path in site.checkpoints.glob("*-*-*"):
            shutil.rmtree(path)
        (site.checkpoints / "history.json").unlink()
        return held

    def _unit(self, verb: str) -> Unit:
        return self._units[self._empty if verb == "adopt" else self._site]

    def _words(self, verb: str) -> list[str]:
        fresh = f"{self.random.randrange(1 << 40)}"
        return {
            "restore": ["restore", self._backup, "--stop"],
            "adopt": ["adopt", str(self._empty.root / "old"), "--stop"],
            "collection": ["restore", "--collection", _NAME, "--into", f"into-{fresh}"],
            "target": ["restore", "--target", str(self._site.root / f"target-{fresh}")],
            "backup": ["backup", "--full"],
        }.get(verb, [verb])

    def _renew(self) -> None:
        """The data differ from those of the backup; the other service has none."""
        self._version += 1
        self._now = {key: records.make(key, self._version) for key in self._then}
        client = self._site.daemon.client()
        for each in client.list_collections():
            if each.name != _NAME:
                client.delete_collection(each.name)
        records.upsert(client.get_collection(_NAME, embedding_function=None), self._now)
        client = self._empty.daemon.client()
        for each in client.list_collections():
            client.delete_collection(each.name)
        for site in self._units:
            for path in (*site.asides(), *site.root.glob("target-*")):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def _strike(self, verb: str, words: Sequence[str], delay: float, numbers: Sequence[int]) -> str:
        process = self._unit(verb).spawn(*words)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=delay)
            return self._finished(verb, process.returncode)
        for number in numbers:
            if number in (signal.SIGINT, signal.SIGKILL):
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            time.sleep(self.random.choice([0, 0.05]))
        output = process.communicate(timeout=120)[0].decode()
        if numbers[0] == signal.SIGKILL:
            self.summary.killed += 1
            return "killed"
        if process.returncode == 0:
            return self._finished(verb, 0)
        self.summary.interrupted += 1
        lines = output.strip().splitlines()
        # Before Python has come as far as to hear of signals, they end it as they end any program.
        early = process.returncode == -numbers[0] or "KeyboardInterrupt" in output
        told = [line for line in lines if line.startswith("interrupted by ")]
        if early and not delay < 0.5:
            self.summary.wrong.append(f"{verb} did not hear of signal {numbers[0]}: {output}")
        if not early and (process.returncode != 128 + numbers[0] or len(told) != 1 or "Traceback" in output):
            self.summary.wrong.append(f"{verb} ended with {process.returncode}: {output}")
        return told[0] if told else f"ended with {process.returncode}"

    def _finished(self, verb: str, code: int) -> str:
        self.summary.finished += 1
        if code:
            self.summary.wrong.append(f"{verb} ended with {code}")
        return "had finished"

    def _look(self, verb: str, *, killed: bool) -> None:
        self._look_at_services(verb, killed=killed)
        if killed:
            self._sweep(verb)
        self._look_for_remains(killed=killed)
        if not any(each["proven"] for each in self._site.listed()):
            self.summary.wrong.append("no proven backup is left")

    def _look_at_services(self, verb: str, *, killed: bool) -> None:
        wrong = self.summary.wrong
        for place, unit in self._units.items():
            self._settle(unit)
            if not unit.serving:
                if not killed:
                    wrong.append("the service is not started again")
                place.serve()
        held = self._held()
        allowed = [self._now, self._then] if verb == "restore" else [self._now]
        if held not in allowed:
            wrong.append(f"the service holds neither what it held nor what was restored: {len(held)} records")
        client = self._empty.daemon.client()
        for each in client.list_collections():
            if (
                verb != "adopt"
                or records.read(client.get_collection(each.name, embedding_function=None)) != self._adopted
            ):
                wrong.append(f"{each.name} is not as it was adopted")

    def _look_for_remains(self, *, killed: bool) -> None:
        wrong = self.summary.wrong
        for site in self._units:
            for path in site.asides():
                if not path.name.startswith("replaced-"):
                    wrong.append(f"{path} is left behind")
        names = [each.name for each in self._site.daemon.client().list_collections()]
        copied = [name for name in names if name.startswith("into-")]
        if [name for name in names if name.startswith("chromad-verify")]:
            wrong.append(f"there is {names}")
        for name in copied if not killed else []:
            if self._site.daemon.client().get_collection(name, embedding_function=None).count() != len(self._then):
                wrong.append(f"the incomplete copy {name} is left behind")
        for path in self._site.root.glob("target-*"):
            if not (path / "chroma.sqlite3").exists():
                wrong.append(f"{path} is half a restore")
        if [path.name for path in self._site.root.glob("staging-*")]:
            wrong.append("a copy is left beside a target")

    def _held(self) -> dict[str, Record]:
        return records.read(self._site.daemon.client().get_collection(_NAME, embedding_function=None))

    def _settle(self, unit: Unit) -> None:
        """A systemctl whose caller was killed goes on."""
        deadline = time.monotonic() + _PATIENCE
        while not unit.quiet and time.monotonic() < deadline:
            time.sleep(0.05)

    def _sweep(self, verb: str) -> None:
        """The next run of the kind, to its end."""
        unit = self._unit(verb)
        words = self._words(verb)
        if verb == "adopt" and self._empty.daemon.client().list_collections():
            # It had done its work, so another one is refused. What it did not clear away, the next run of any kind does.
            leftovers.sweep_beside(self._empty.data)
            return
        deadline = time.monotonic() + _PATIENCE
        while (result := unit.chromactl(*words)).code == 75 and time.monotonic() < deadline:
            time.sleep(0.2)
        if result.code:
            self.summary.wrong.append(f"the next {verb} ended with {result.code}: {result.output}")


def run(rounds: int, seed: int, verbs: Sequence[str] = VERBS) -> Summary:
    """So many rounds of each verb."""
    laboratory = Laboratory(seed)
    try:
        order = [verb for verb in verbs for _ in range(rounds)]
        laboratory.random.shuffle(order)
        for number, verb in enumerate(order, 1):
            print(f"{number:4} {laboratory.round(verb)}", flush=True)
        return laboratory.summary
    finally:
        laboratory.close()


def main() -> int:
    """0 when all was as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.interrupts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help=f"of each of: {', '.join(VERBS)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=VERBS)
    arguments = parser.parse_args()
    if AS_ROOT and why_unreachable(service()):
        open_doors()
    began = time.monotonic()
    summary = run(arguments.rounds, arguments.seed, arguments.verbs)
    for each in summary.wrong:
        print(f"WRONG: {each}")
    print(f"seed {arguments.seed}, {time.monotonic() - began:.0f} s: {summary}")
    return 1 if summary.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
