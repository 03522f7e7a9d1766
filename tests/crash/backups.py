"""Kills backups, drills and restores at random moments; then the service, the repository and the next backup must be whole.

Run it with `python -m tests.crash.backups --rounds N --seed S`: N rounds of each verb. Ends with 1 when anything was lost.
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
from pathlib import Path

from tests.integration import opened, records
from tests.integration.account import AS_ROOT, BIN, current, open_doors, service, why_unreachable
from tests.integration.records import Record
from tests.integration.site import Result, Site

VERBS = ("backup", "verify", "restore")
# Seconds for which a restic or an engine that has just lost its parent may still hold a lock
_PATIENCE = 20.0
# Part of its usual time after which a verb is killed at the latest: some are to end before
_LATEST = 1.1
_COLLECTIONS = {"often": 20, "sometimes": 150, "seldom": 1_000_000}


@dataclass
class Summary:
    """killed: verbs that were still running. finished: those that were faster. retries: of the next backup, for a lock."""

    killed: int = 0
    finished: int = 0
    retries: int = 0
    left: set[str] = field(default_factory=set)
    losses: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        left = f", left behind {', '.join(sorted(self.left))}" if self.left else ""
        return f"{self.killed} killed, {self.finished} finished before, {self.retries} retries{left}, {len(self.losses)} losses"


class Laboratory:
    """A service with clients' data, its backups, and a model of what both must hold."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.summary = Summary()
        self.site = Site()
        self._daemon = self.site.serve()
        self._model: dict[str, dict[str, Record]] = {}
        self._targets = self.site.root / "targets"
        self._targets.mkdir(mode=0o755)
        for name, threshold in _COLLECTIONS.items():
            records.create(self._daemon.client(), name, threshold)
            self._model[name] = {}
        for _ in range(5):
            self._write()
        self.site.backup()
        self._usual = {verb: self._time(verb) for verb in VERBS}

    def close(self) -> None:
        self.site.remove()

    def round(self, verb: str) -> str:
        """Writes, kills a verb, looks at everything. Gives a line on it."""
        self._write()
        # Every other backup is one of those that take longer.
        words = self._words(verb, full=self.random.random() < 0.5)
        delay = self.random.uniform(0.2, _LATEST) * self._usual[verb]
        hit = self._strike(words, delay)
        self._write()
        before = len(self.summary.losses)
        self._look()
        found = self.summary.losses[before:]
        return f"{' '.join(words)}: after {delay:.2f} s{'' if hit else ', had finished'}{'; LOST ' if found else ''}{'; '.join(found)}"

    def compare(self) -> None:
        """Restores the newest backup and compares every record."""
        try:
            opened.assert_restored(self.site, self._model)
        except AssertionError as error:
            self.summary.losses.append(f"a restore has other records: {error}")

    def _words(self, verb: str, *, full: bool = False) -> list[str]:
        if verb == "restore":
            return ["restore", "--target", str(self._targets / f"{self.random.randrange(1 << 40)}")]
        return [verb, "--full"] if verb == "backup" and full else [verb]

    def _time(self, verb: str) -> float:
        began = time.monotonic()
        result = self.site.chromactl(*self._words(verb, full=True))
        assert result.code == 0, result.output
        return time.monotonic() - began

    def _write(self) -> None:
        for name, held in self._model.items():
            collection = self._daemon.client().get_collection(name, embedding_function=None)
            again = self.random.sample(sorted(held), min(5, len(held)))
            new = [f"{name}-{self.random.randrange(1 << 40)}" for _ in range(30)]
            written = {key: records.make(key, held[key].version + 1 if key in held else 0) for key in (*again, *new)}
            records.upsert(collection, written)
            held.update(written)
            gone = self.random.sample(sorted(held), 5)
            collection.delete(ids=gone)
            for key in gone:
                del held[key]

    def _strike(self, words: Sequence[str], delay: float) -> bool:
        """SIGKILL to all of a command's process group; False when it had finished."""
        argv: list[str | Path] = ["setsid", BIN / "chromactl", "--config", self.site.config, *words]
        process = self.site.spawn(argv, current())
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=delay)
            self.summary.finished += 1
            if process.returncode:
                self.summary.losses.append(f"{' '.join(words)} ended with {process.returncode}")
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        self.summary.killed += 1
        return True

    def _look(self) -> None:
        losses, site = self.summary.losses, self.site
        if self._daemon.process.poll() is not None:
            losses.append("the service has ended")
            self._daemon = site.serve()
        if self._daemon.status()["state"] != "serving":
            losses.append("the service does not serve")
        self._look_at_targets()
        try:
            opened.assert_holds(self._daemon.client(), self._model)
        except AssertionError as error:
            losses.append(f"the service has other records: {error}")
        self._look_at_backups()

    def _look_at_targets(self) -> None:
        losses = self.summary.losses
        for path in self._targets.iterdir():
            if path.name.startswith(("staging-", ".chromad-restore-")):
                self.summary.left.add("staging directories of restores")
            elif not (path / "chroma.sqlite3").exists():
                losses.append(f"{path} is half a restore")
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _look_at_backups(self) -> None:
        losses, site = self.summary.losses, self.site
        result = self._patiently("backup")
        if result.code:
            losses.append(f"the next backup fails: {result.output.strip()}")
        elif not site.listed()[-1]["proven"]:
            losses.append("the next backup is not proven")
        for path in site.backup_dir.iterdir():
            if path.name.split("-")[0] not in ("current", "ledger.json", "backup.lock"):
                losses.append(f"{path} is left behind")
        try:
            self._check_repository()
        except AssertionError as error:
            losses.append(f"the repository is damaged: {error}")

    def _check_repository(self) -> None:
        """As chromactl does when it meets the lock of a restic that was killed: only such locks are removed.

        A process counts as there until init has reaped it, which takes some inits a moment.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.site.restic("unlock")
                self.site.restic("check")
            except AssertionError as error:
                if "already locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def _patiently(self, *words: str) -> Result:
        deadline = time.monotonic() + _PATIENCE
        while (result := self.site.chromactl(*words)).code == 75 and time.monotonic() < deadline:
            self.summary.retries += 1
            time.sleep(0.2)
        return result


def run(rounds: int, seed: int, *, compare_each: bool = True) -> Summary:
    """So many rounds of each verb. compare_each: restores and compares after each round, not only at the end."""
    laboratory = Laboratory(seed)
    try:
        for number, verb in enumerate(laboratory.random.sample(VERBS * rounds, len(VERBS) * rounds), 1):
            print(f"{number:4} {laboratory.round(verb)}", flush=True)
            if compare_each:
                laboratory.compare()
        laboratory.compare()
        return laboratory.summary
    finally:
        laboratory.close()


def main() -> int:
    """0 when nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.backups", description=__doc__)
    parser.add_argument("--rounds", type=int, default=34, help="of each of: backup, verify, restore")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if AS_ROOT and why_unreachable(service()):
        open_doors()
    began = time.monotonic()
    summary = run(arguments.rounds, arguments.seed)
    for loss in summary.losses:
        print(f"LOST: {loss}")
    total = len(VERBS) * arguments.rounds
    print(f"{total} rounds, seed {arguments.seed}, {time.monotonic() - began:.0f} s: {summary}")
    return 1 if summary.losses else 0


if __name__ == "__main__":
    sys.exit(main())
