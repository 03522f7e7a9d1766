"""From a directory that is ours to an engine that serves warm collections: recovery, engine, warming, and again."""

import errno
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from chromad.chroma import additions, audit, fulltext, sqlite
from chromad.config import Config
from chromad.daemon import warm
from chromad.engine.api import Api
from chromad.engine.process import Engine
from chromad.errors import ChromadError
from chromad.host import notify, signals, threads
from chromad.logs.lines import log
from chromad.store import fence, state
from chromad.store.checkpoint import Store
from chromad.store.recovery import Recovered, Recovery, Trust

# Seconds. A start that goes on asks systemd for EXTENSION more each time it shows progress.
EXTENSION = 60.0
_DEATH = 2.0


@dataclass(frozen=True)
class _Broken:
    """A collection that the engine cannot open, and why. died: the engine has, while it was asked for it."""

    collection: sqlite.Collection
    reason: str
    died: bool


class Startup:
    """One start. outcomes: what recovery did. cold: collections left cold, and why."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        checkpoints: Store,
        enter: Callable[[str, str], None],
    ) -> None:
        self.outcomes: list[Recovered] = []
        self.cold: dict[str, str] = {}
        self._config = config
        self._engine = engine
        self._api = Api(config.listen)
        self._checkpoints = checkpoints
        self._enter = enter
        self._recovery = Recovery(config.data_dir, config.quarantine_dir, checkpoints, _tick)
        self._mended: Counter[str] = Counter()
        # By id: why they are left cold though the engine died while they were warmed
        self._spared: dict[str, str] = {}

    def recover(self, before: state.State | None) -> None:
        """Brings the segments into order after the stop that `before` tells of, and takes first checkpoints."""
        data_dir = self._config.data_dir
        if sqlite.exists(data_dir):
            with sqlite.connect(data_dir) as connection:
                fulltext.drop_remains(connection)
        if not sqlite.exists(data_dir) or not sqlite.has_tables(data_dir):
            return
        with sqlite.connect(data_dir) as connection:
            fulltext.put_first(connection)
        clean = before is not None and before.clean
        if not clean:
            self._enter("recovering", "recovering: looking at the vector segments")
        started = time.monotonic()
        self._audit()
        self._recover(before)
        if not clean or self.outcomes:
            log.info("recovery looked at all segments in %.2f s", time.monotonic() - started)
        missing = [
            collection
            for collection in self._checkpoints.stale(sqlite.collections(data_dir))
            if not self._checkpoints.latest(collection.segment)
        ]
        if missing:
            self._enter("recovering", f"taking the first checkpoints of {len(missing)} collections")
            try:
                self._checkpoints.take(missing, live=False, progress=lambda _done: _tick())
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                log.error("no space for checkpoints in %s", self._config.checkpoint_dir)
            self.outcomes += self._recovery.mend_all(self._recovery.look_for_mended())

    def _audit(self) -> None:
        """Puts right what would hide records, or swallow writes, of clients."""
        with sqlite.connect(self._config.data_dir) as connection:
            for finding in audit.quick(connection):
                if finding.mend:
                    log.warning("%s; put right", finding.fact)
                else:
                    log.error("%s. HINT: %s", finding.fact, finding.hint)

    def _recover(self, before: state.State | None) -> None:
        mark = before.mark if before and before.clean else None
        doubts = self._recovery.look(_trust(before), mark)
        if doubts and before and before.clean:
            self._enter("recovering", "recovering: segments are not as the last stop left them")
            # If this start does not come to its end, the next one looks as well; it knows of the same boot.
            state.write(self._config.data_dir, replace(before, clean=False, mark=None))
        outcomes = self._recovery.mend_all(doubts)
        if any(outcome.action == "kept" for outcome in outcomes):
            # Nothing better could be put in their place; what they have too much, or lack, the log can say.
            for finding in audit.mend_ids(self._config.data_dir):
                log.warning("%s%s", finding.fact, "; put right" if finding.mend else "")
        self.outcomes += outcomes

    def serve(self) -> None:
        """Starts the engine and warms it. A collection that the engine cannot open is mended, and all begins again."""
        while not signals.stop:
            self._engine.start()
            self._engine.wait_until_it_answers(self._api, _tick, lambda: signals.stop)
            if signals.stop:
                return
            sqlite.check_schema(self._config.data_dir)
            additions.keep_log(self._config.data_dir, _tick)
            self._engine.watch_disk()
            broken = self._warm()
            if broken is None:
                return
            # With that, all that it has said is heard.
            self._engine.kill()
            if self._engine.ended_for:
                # Whatever was asked at that moment is not to blame.
                self._engine.raise_if_dead()
            # The engine was ended in the middle of whatever else it did.
            self.outcomes += self._recovery.mend_all(self._recovery.look("boot", None))
            if broken.died and not self._dies_of(broken.collection):
                self._spare(broken)
            else:
                self._mend(broken.collection, broken.reason)

    def _dies_of(self, collection: sqlite.Collection) -> bool:
        """Whether an engine that nobody else can ask dies of one collection. A client's request can be what the other one died of."""
        from chromad.backup import proof  # here: hardly a start needs it

        tried: list[warm.Progress] = []
        try:
            with proof.engine_on(self._config, self._config.data_dir, self._engine.lock_fd, _tick) as api:
                asked = warm.run(api, [collection], self._config.warm.timeout, lambda: signals.stop)
                worker = threads.Task("warming", lambda: tried.extend(asked))
                worker.start()
                while worker.is_alive() and not signals.stop:
                    _tick()
                    worker.join(0.02)
        except ChromadError as error:
            log.warning("no engine of ours comes up to try it with: %s", error.message)
        return any(each.failed for each in tried)

    def _spare(self, broken: "_Broken") -> None:
        name = warm.qualified(broken.collection)
        log.warning("the engine died while %s was warmed, and not of that: %s", name, broken.reason)
        # It may have taken too long, and have been ended.
        self.outcomes += self._recovery.mend_all(self._recovery.look("boot", None))
        self._spared[broken.collection.id] = "the engine died of something else while it was warmed"

    def _mend(self, collection: sqlite.Collection, reason: str) -> None:
        self._mended[collection.id] += 1
        tried = self._mended[collection.id]
        if tried <= 2:
            outcome = self._recovery.mend(collection, reason, from_log=tried == 2)
        else:
            outcome = self._recovery.quarantine(collection, reason)
        self.outcomes.append(outcome)

    def _warm(self) -> "_Broken | None":
        """Warms what is to be warmed; gives the collection that the engine cannot open."""
        data_dir = self._config.data_dir
        fenced = fence.read(data_dir)
        recovered = {outcome.collection.id for outcome in self.outcomes}
        found = [each for each in sqlite.collections(data_dir) if each.id not in fenced]
        plan = warm.plan(self._config, [each for each in found if each.id not in self._spared], recovered)
        spared = {warm.qualified(each): self._spared[each.id] for each in found if each.id in self._spared}
        self.cold = {**plan.cold, **spared}
        total = len(plan.warm)
        done = 0
        broken: _Broken | None = None
        if total:
            self._enter("warming", f"warming {total} collections")

        def work() -> None:
            nonlocal done, broken
            for progress in warm.run(self._api, plan.warm, self._config.warm.timeout, lambda: signals.stop):
                reason = progress.broken or (self._death() if progress.failed else "")
                if reason:
                    broken = _Broken(plan.warm[done], reason, died=not progress.broken)
                    return
                self.cold.update(progress.cold)
                done = progress.done

        worker = threads.Task("warming", work)
        worker.start()
        while worker.is_alive() and not signals.stop:
            _tick()
            if done < total:
                notify.status(f"warming {done + 1}/{total}: {warm.qualified(plan.warm[done])}")
            worker.join(0.02)
        if worker.problem:
            # They can be served without; each is read at its first query.
            self.cold.update({warm.qualified(each): f"warming failed: {worker.problem}" for each in plan.warm[done:]})
        if broken is None:
            self._engine.raise_if_dead()
            if self.cold:
                log.warning("left cold: %s", "; ".join(f"{name} ({why})" for name, why in self.cold.items()))
        return broken

    def _death(self) -> str:
        """How the engine ended, if it did just now: a client sees that first."""
        deadline = time.monotonic() + _DEATH
        while time.monotonic() < deadline:
            if reason := self._engine.exit_reason():
                return reason
            time.sleep(0.01)
        return ""


def _trust(before: state.State | None) -> Trust:
    if before is None:
        return "unknown"
    return "boot" if before.boot_id and before.boot_id == state.boot_id() else "power"


def _tick() -> None:
    notify.extend_timeout(EXTENSION)
